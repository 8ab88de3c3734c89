"""Processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from stealguard.comparing.engines.base import PATIENCE, Ended, Wanted, Work
from stealguard.errors import one_line, require
from stealguard.processes import end_with_parent, processors

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Local:
    """Processes of this machine, each a pool of its own: one that dies takes no other along.

    They are spawned, outlive their work, and die with this process, however it dies. Each sees its share of the GPUs:
    one of them unless `gpus` says otherwise, in turn where there are more processes than GPUs.
    """

    def __init__(self, work: Work, home: Path, wanted: Wanted):
        require(wanted.address is None, "address", "for the engines `ray` and `slurm`", wanted.address)
        visible = visible_gpus()
        gpus = min(1, len(visible)) if wanted.gpus is None else wanted.gpus
        require(gpus <= len(visible), "gpus", f"at most the {len(visible)} that this machine has", gpus)
        by_gpus = len(visible) // gpus if wanted.gpus else processors()
        self.workers = wanted.workers or max(1, min(by_gpus, processors() // (wanted.threads or 1)))
        self.threads = wanted.threads or max(1, processors() // self.workers)
        self._work = work
        self._before = set(multiprocessing.active_children())
        self._idle = [_Process.started(share) for share in shares(visible, gpus, self.workers)]
        self._running: dict[Future[str], tuple[str, _Process]] = {}

    def start(self, key: str, /, *arguments: Any) -> None:
        process = self._idle.pop()
        try:
            future = process.pool.submit(self._work, *arguments)
        except BrokenProcessPool:  # it died while it was idle: nothing was lost
            process = _Process.started(process.share)
            future = process.pool.submit(self._work, *arguments)
        self._running[future] = key, process

    def ended(self) -> Iterator[Ended]:
        for future in wait(self._running, PATIENCE, FIRST_COMPLETED).done:
            key, process = self._running.pop(future)
            error = future.exception()
            lost = isinstance(error, BrokenProcessPool)
            self._idle.append(_Process.started(process.share) if lost else process)
            if lost:
                yield Ended(key, "its process died: killed, or out of memory", lost=True)
            else:
                yield Ended(key, one_line(error) if error else future.result())

    def close(self) -> None:
        for process in (*self._idle, *(process for _, process in self._running.values())):
            process.pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - self._before:
            child.kill()  # what it was doing can be done again


class _Process(NamedTuple):
    """One process, and the GPUs that it sees: a value of `CUDA_VISIBLE_DEVICES`."""

    pool: ProcessPoolExecutor
    share: str

    @classmethod
    def started(cls, share: str) -> _Process:
        context = multiprocessing.get_context("spawn")
        return cls(ProcessPoolExecutor(1, context, initializer=_begin, initargs=(share,)), share)


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get(VISIBLE)
    if named is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return [name for name in named.split(",") if name]


def shares(visible: list[str], gpus: int, workers: int) -> list[str]:
    """The GPUs of each of `workers` processes, `gpus` each, in turn.

    >>> shares(["0", "1", "2"], 2, 3)
    ['0,1', '2,0', '1,2']
    """
    turns = cycle(visible)
    return [",".join(islice(turns, gpus)) for _ in range(workers)]


def _begin(share: str) -> None:
    """In a new process: see its own GPUs, and end with the parent."""
    os.environ[VISIBLE] = share
    end_with_parent()
