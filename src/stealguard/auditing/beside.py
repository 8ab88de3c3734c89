"""Further processes that carry out the thefts of an audit: each takes those that nobody else is at."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from stealguard.errors import Invalid, one_line
from stealguard.processes import end_with_parent

Work = Callable[..., object]

_helping = False


def helping() -> bool:
    """Whether this process is one of those: it takes what nobody else is at, and leaves the rest to the others."""
    return _helping


@contextmanager
def beside(number: int, work: Work, given: Mapping[str, Any]) -> Iterator[None]:
    """While the block runs, `number` further processes call `work(**given)` once; those still at it are ended after it.

    They are spawned, and share the threads of this one, which has its share in the block.

    Raises:
        Invalid: something in `given` cannot be sent to another process.
    """
    if number < 1:
        yield
        return
    before = torch.get_num_threads()
    threads = max(1, before // (number + 1))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_called, args=(work, dict(given), threads)) for _ in range(number)]
    try:
        for process in processes:
            _started(process)
        torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)
        for process in processes:
            if process.pid is not None:
                process.kill()  # what it was doing can be done again
                process.join()


def _started(process: multiprocessing.process.BaseProcess) -> None:
    try:
        process.start()
    except Exception as e:  # pickling runs code of what is pickled
        raise Invalid("workers", "1 where an argument cannot be sent to another process", one_line(e)) from e


def _called(work: Work, given: Mapping[str, Any], threads: int) -> None:
    """In the new process. What fails here is met again by the process that waits for all thefts, which tells it."""
    global _helping
    _helping = True
    end_with_parent()
    torch.set_num_threads(threads)
    with suppress(Exception):
        work(**given)
