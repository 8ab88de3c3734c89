"""Engines that carry out work elsewhere: a local process pool, a Ray cluster, Slurm. One function for all of them.

An engine is started with a function that returns "" when it ends well, and else the reason. It may be run twice on the
same arguments, so engines may try again what was lost with its worker. Ray and submitit are imported by those who ask.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from stealguard.errors import StealguardError

Work = Callable[..., str]
PATIENCE = 0.5  # seconds between looks at what has ended


class Ended(NamedTuple):
    """Work that has ended: its key, why it failed or "", and whether it was lost with its worker."""

    key: str
    reason: str = ""
    lost: bool = False


class Engine(Protocol):
    """Takes work by key, and tells what has ended."""

    def start(self, key: str, /, *arguments: Any) -> None: ...

    def ended(self) -> Iterator[Ended]:
        """What has ended since the last call, after a wait of half a second at the most."""
        ...

    def close(self) -> None:
        """Stop, with whatever is still running."""
        ...


class Local:
    """Processes of this machine, as many as are asked for, each a pool of its own: one that dies takes no other along.

    They are spawned, outlive their work, and die with this process, however it dies.
    """

    def __init__(self, work: Work, workers: int):
        self._work = work
        self._before = set(multiprocessing.active_children())
        self._idle = [_pool() for _ in range(workers)]
        self._running: dict[Future[str], tuple[str, ProcessPoolExecutor]] = {}

    def start(self, key: str, /, *arguments: Any) -> None:
        pool = self._idle.pop()
        try:
            future = pool.submit(self._work, *arguments)
        except BrokenProcessPool:  # it died of boredom: nothing was lost
            pool = _pool()
            future = pool.submit(self._work, *arguments)
        self._running[future] = key, pool

    def ended(self) -> Iterator[Ended]:
        for future in wait(self._running, PATIENCE, FIRST_COMPLETED).done:
            key, pool = self._running.pop(future)
            error = future.exception()
            lost = isinstance(error, BrokenProcessPool)
            self._idle.append(_pool() if lost else pool)
            if lost:
                yield Ended(key, "its process died: killed, or out of memory", lost=True)
            else:
                yield Ended(key, str(error) if error else future.result())

    def close(self) -> None:
        for pool in (*self._idle, *(pool for _, pool in self._running.values())):
            pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - self._before:
            process.kill()  # what it was at is safe to be done again


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_die_with_parent)


def _die_with_parent() -> None:
    """In a worker: end at once when the parent has gone, and leave interrupts to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is somebody's child"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Ray:
    """A Ray cluster: the one at `address` (`auto`, or HOST:PORT), else one of this machine alone, made for the while.

    Its nodes need stealguard and the same folders. Ray itself tries again, elsewhere, what was lost with a node.
    """

    def __init__(self, work: Work, threads: int, address: str | None):
        try:
            import ray
        except ImportError as e:
            raise StealguardError(f"The engine `ray` needs Ray: pip install 'stealguard[ray]' ({e}).") from e
        self._ray, self._joined = ray, ray.is_initialized()
        if not self._joined:
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR)
        self._task = ray.remote(num_cpus=threads, max_retries=3)(work)
        self._running: dict[Any, str] = {}

    def start(self, key: str, /, *arguments: Any) -> None:
        self._running[self._task.remote(*arguments)] = key

    def ended(self) -> Iterator[Ended]:
        for reference in self._ray.wait(list(self._running), timeout=PATIENCE)[0]:
            key = self._running.pop(reference)
            try:
                yield Ended(key, self._ray.get(reference))
            except self._ray.exceptions.RayError as e:
                yield Ended(key, " ".join(str(e).split()))

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        if not self._joined:
            self._ray.shutdown()


class Slurm:
    """Slurm, through submitit: a job for each piece of work, its logs in `folder`.

    What a site wants to know (partition, account, time) is told to sbatch by its own variables, `SBATCH_PARTITION` and
    so on. `cluster` is submitit's word for where jobs go: `slurm`, or `local` and `debug`, which do without Slurm.
    """

    def __init__(self, work: Work, threads: int, folder: Path, cluster: str | None):
        try:
            import submitit
        except ImportError as e:
            raise StealguardError(f"The engine `slurm` needs submitit: pip install 'stealguard[slurm]' ({e}).") from e
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster or "slurm")
        except (RuntimeError, ValueError) as e:
            raise StealguardError(f"The engine `slurm` cannot be used: {e}.") from e
        self._executor.update_parameters(name="stealguard", cpus_per_task=threads, timeout_min=24 * 60)
        self._work = work
        self._running: dict[str, Any] = {}

    def start(self, key: str, /, *arguments: Any) -> None:
        self._running[key] = self._executor.submit(self._work, *arguments)

    def ended(self) -> Iterator[Ended]:
        done = {key: job for key, job in self._running.items() if job.done()}
        if not done:
            time.sleep(PATIENCE)
        for key, job in done.items():
            del self._running[key]
            error = job.exception()
            yield (
                Ended(key, (str(error).splitlines() or [type(error).__name__])[0])
                if error
                else Ended(key, job.result())
            )

    def close(self) -> None:
        for job in self._running.values():
            job.cancel()
