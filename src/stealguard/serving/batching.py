"""Merging of requests without a timer: while one batch is computed, the next one collects."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Generic, NamedTuple, TypeVar
from weakref import finalize

from stealguard.errors import StealguardError, require

Job = TypeVar("Job")
Result = TypeVar("Result")


class Overloaded(StealguardError):
    """The queue is full, or the server is closing; the same request may succeed later."""


class _Waiting(NamedTuple, Generic[Job, Result]):
    job: Job
    rows: int
    future: asyncio.Future[Result]


class Batcher(Generic[Job, Result]):
    """Computes jobs in batches, on one thread of its own, so that the event loop is never blocked.

    A job that arrives while nothing is computed starts at once, together with the others of the same turn of the event
    loop. Accounts take turns, a job each; those of one account are computed in the order of their arrival. A batch is
    filled up to `rows`, and holds one job at least. An account may have no more rows waiting than are still free, so
    that some are left for others.

    The thread ends with the batcher; the interpreter waits for a batch that is being computed. An executor of the
    standard library takes 50 microseconds of CPU more for a batch.

    Args:
        compute: from a batch of jobs to one result for each, in their order; an exception as a result is that job's.
        rows: of a batch, at most, at least 1.
        queue: rows that may wait, at least 1.
        merge: whether several jobs may share a batch.
        begin: what the thread does first.
    """

    def __init__(
        self, compute: Callable[[Sequence[Job]], Sequence[Result | Exception]], rows: int, queue: int,
        *, merge: bool = True, begin: Callable[[], object] = bool,
    ):  # fmt: skip
        require(rows >= 1, "rows", "at least 1", rows)
        require(queue >= 1, "queue", "at least 1", queue)
        self._compute, self._rows, self._queue, self._merge = compute, rows, queue, merge
        self._waiting: dict[str, deque[_Waiting[Job, Result]]] = {}  # by account, in the order of their turns
        self._rows_of = Counter[str]()
        self._waiting_rows, self._busy, self._closed = 0, False, False
        self._batches = SimpleQueue[Callable[[], None] | None]()
        thread = Thread(target=_work, args=(self._batches, begin), name="stealguard-batches", daemon=True)
        self._end = finalize(self, _ended, self._batches, thread)
        thread.start()

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return self._waiting_rows

    async def __call__(self, job: Job, rows: int, account: str = "") -> Result:
        """The result of an account's job of that many rows.

        Raises:
            Overloaded: too many rows wait already.
        """
        free = self._queue - self._waiting_rows
        if self._closed or (self._waiting and self._rows_of[account] + rows > free):
            raise Overloaded("The server is closing." if self._closed else "Too many inputs wait for their answers.")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(job, rows, loop.create_future())
        if not self._waiting and not self._busy:
            loop.call_soon(self._start, loop)
        self._waiting.setdefault(account, deque()).append(waiting)
        self._rows_of[account] += rows
        self._waiting_rows += rows
        return await waiting.future

    def close(self) -> None:
        """Take no further jobs; those that wait are still computed."""
        self._closed = True
        if not self._busy and not self._waiting:
            self._end()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with what waits, unless a batch is being computed."""
        if self._busy or not self._waiting:
            return
        batch = self._next()
        self._busy = True
        self._batches.put(partial(self._run, batch, loop))

    def _next(self) -> list[_Waiting[Job, Result]]:
        batch: list[_Waiting[Job, Result]] = []
        rows = 0
        while self._waiting and (not batch or self._merge):
            account, jobs = next(iter(self._waiting.items()))
            if batch and rows + jobs[0].rows > self._rows:
                break
            batch.append(jobs.popleft())
            rows += batch[-1].rows
            self._rows_of[account] -= batch[-1].rows
            del self._waiting[account]
            if jobs:
                self._waiting[account] = jobs  # its next turn is after the others'
            else:
                del self._rows_of[account]
        self._waiting_rows -= rows
        return batch

    def _run(self, batch: list[_Waiting[Job, Result]], loop: asyncio.AbstractEventLoop) -> None:
        results: Sequence[Result | Exception]
        try:
            results = self._compute([waiting.job for waiting in batch])
        except Exception as e:
            results = [e] * len(batch)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(self._done, batch, results, loop)

    def _done(
        self, batch: list[_Waiting[Job, Result]], results: Sequence[Result | Exception], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._busy = False
        self._start(loop)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.future.done():  # its client has gone
                continue
            if isinstance(result, Exception):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result)
        if self._closed:
            self.close()


def _work(batches: SimpleQueue[Callable[[], None] | None], begin: Callable[[], object]) -> None:
    """What the thread does; it refers to its batcher only while it computes."""
    begin()
    while (batch := batches.get()) is not None:
        batch()
        del batch


def _ended(batches: SimpleQueue[Callable[[], None] | None], thread: Thread) -> None:
    """End the thread, and wait for it."""
    batches.put(None)
    if thread is not current_thread():  # which may be what held the batcher last
        thread.join()
