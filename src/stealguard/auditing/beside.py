"""Further processes that carry out the thefts of an audit: each takes those that nobody else is at."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from stealguard.devices import repeatable
from stealguard.errors import Invalid, one_line
from stealguard.processes import end_with_parent, interrupts_held
from stealguard.results import Row

Work = Callable[..., object]
Before = Mapping[str, Row | None]
"""What the store had of each theft, by its key, when the audit began."""

_log = logging.getLogger("stealguard.auditing")
_before: Before | None = None


def helping() -> Before | None:
    """What `beside` was given where this is one of its processes; None in any other process.

    Such a process takes what nobody else is at, and leaves the rest to the others.
    """
    return _before


@contextmanager
def beside(number: int, work: Work, given: Mapping[str, Any], before: Before) -> Iterator[None]:
    """While the block runs, `number` further processes call `work(**given)` once; those still at it are ended after it.

    They are spawned, and share the threads of this one, which has its share in the block. Where torch uses
    deterministic algorithms here, it does in them.

    Raises:
        Invalid: something in `given` cannot be sent to another process.
    """
    if number < 1:
        yield
        return
    all_threads = torch.get_num_threads()
    threads = max(1, all_threads // (number + 1))
    context = multiprocessing.get_context("spawn")
    told = (work, dict(given), before, threads, torch.are_deterministic_algorithms_enabled())
    processes = [context.Process(target=_called, args=told) for _ in range(number)]
    try:
        with interrupts_held():  # they ignore interrupts only once they have imported torch
            for process in processes:
                _started(process)
        torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(all_threads)
        for process in processes:
            if process.pid is not None:
                process.kill()  # what it was doing can be done again
                process.join()


def _started(process: multiprocessing.process.BaseProcess) -> None:
    try:
        process.start()
    except Exception as e:  # pickling runs code of what is pickled
        raise Invalid("workers", "1 where an argument cannot be sent to another process", one_line(e)) from e


def _called(work: Work, given: Mapping[str, Any], before: Before, threads: int, same_bits: bool) -> None:
    """In the new process. What it leaves undone is done by the process that waits for all thefts."""
    global _before
    _before = before
    end_with_parent()
    torch.set_num_threads(threads)
    with repeatable(same_bits):
        try:
            work(**given)
        except Exception as e:
            _log.warning("A worker has ended: %s: %s", type(e).__name__, one_line(e))
