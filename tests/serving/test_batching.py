"""Merging of requests: order, size, faults, and what happens when the queue is full or the server closes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest

from stealguard.errors import Invalid
from stealguard.serving.batching import Batcher, Overloaded


class Doubling:
    """Doubles numbers, and remembers its batches; while the gate is closed it computes nothing."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        assert self.gate.wait(60)
        return [2 * job if job >= 0 else ValueError(f"{job}") for job in jobs]


async def until(condition: object) -> None:
    while not condition():  # type: ignore[operator]
        await asyncio.sleep(0)


def test_each_job_gets_its_own_result() -> None:
    async def run() -> list[int]:
        batcher = Batcher[int, int](Doubling(), rows=4, queue=1000)
        return list(await asyncio.gather(*(batcher(job, 1) for job in range(50))))

    assert asyncio.run(run()) == [2 * job for job in range(50)]


def test_jobs_of_one_turn_share_a_batch_up_to_its_rows_in_their_order() -> None:
    compute = Doubling()

    async def run() -> None:
        batcher = Batcher[int, int](compute, rows=4, queue=1000)
        await asyncio.gather(*(batcher(job, rows) for job, rows in enumerate([1, 2, 1, 3, 9, 1])))

    asyncio.run(run())
    assert compute.batches == [[0, 1, 2], [3], [4], [5]], "a job larger than a batch is one of its own"


def test_what_arrives_while_a_batch_is_computed_waits_for_the_next() -> None:
    compute = Doubling()
    compute.gate.clear()

    async def run() -> None:
        batcher = Batcher[int, int](compute, rows=8, queue=1000)
        first = asyncio.ensure_future(batcher(0, 1))
        await until(lambda: compute.batches)
        later = [asyncio.ensure_future(batcher(job, 1)) for job in (1, 2, 3)]
        await until(lambda: batcher.waiting == 3)
        compute.gate.set()
        await asyncio.gather(first, *later)

    asyncio.run(run())
    assert compute.batches == [[0], [1, 2, 3]]


def test_without_merging_each_job_is_a_batch() -> None:
    compute = Doubling()

    async def run() -> None:
        batcher = Batcher[int, int](compute, rows=8, queue=1000, merge=False)
        await asyncio.gather(*(batcher(job, 1) for job in range(3)))

    asyncio.run(run())
    assert compute.batches == [[0], [1], [2]]


def test_the_error_of_one_job_is_that_jobs_alone() -> None:
    async def run() -> list[object]:
        batcher = Batcher[int, int](Doubling(), rows=8, queue=1000)
        return list(await asyncio.gather(*(batcher(job, 1) for job in (1, -1, 2)), return_exceptions=True))

    one, error, two = asyncio.run(run())
    assert (one, two) == (2, 4)
    assert isinstance(error, ValueError)


def test_an_error_of_the_computation_reaches_all_jobs_of_the_batch_and_no_later_one() -> None:
    def compute(jobs: Sequence[int]) -> list[int | Exception]:
        if 13 in jobs:
            raise RuntimeError("out of memory")
        return list(jobs)

    async def run() -> tuple[list[object], int]:
        batcher = Batcher[int, int](compute, rows=8, queue=1000)
        failed = await asyncio.gather(batcher(13, 1), batcher(1, 1), return_exceptions=True)
        return list(failed), await batcher(2, 1)

    failed, later = asyncio.run(run())
    assert [type(error) for error in failed] == [RuntimeError, RuntimeError]
    assert later == 2


def test_a_full_queue_takes_no_more() -> None:
    compute = Doubling()
    compute.gate.clear()

    async def run() -> list[int]:
        batcher = Batcher[int, int](compute, rows=8, queue=3)
        first = asyncio.ensure_future(batcher(0, 1))
        await until(lambda: compute.batches)
        waiting = asyncio.ensure_future(batcher(1, 3))
        await until(lambda: batcher.waiting == 3)
        with pytest.raises(Overloaded, match="wait"):
            await batcher(2, 1)
        compute.gate.set()
        return list(await asyncio.gather(first, waiting))

    assert asyncio.run(run()) == [0, 2]


def test_accounts_take_turns() -> None:
    compute = Doubling()

    async def run() -> None:
        batcher = Batcher[int, int](compute, rows=3, queue=100)
        jobs = [("ann", 1), ("ann", 2), ("ann", 3), ("bob", 4), ("cid", 5), ("bob", 6)]
        await asyncio.gather(*(batcher(job, 1, account) for account, job in jobs))

    asyncio.run(run())
    assert compute.batches == [[1, 4, 5], [2, 6, 3]]


def test_one_account_does_not_fill_the_queue() -> None:
    compute = Doubling()
    compute.gate.clear()

    async def run() -> int:
        batcher = Batcher[int, int](compute, rows=1, queue=8)
        first = asyncio.ensure_future(batcher(0, 1, "ann"))
        await until(lambda: compute.batches)
        many = [asyncio.ensure_future(batcher(1, 1, "ann")) for _ in range(20)]
        await until(lambda: sum(job.done() for job in many) == 16)
        other = asyncio.ensure_future(batcher(2, 2, "bob"))
        await until(lambda: batcher.waiting == 6)
        compute.gate.set()
        found = await asyncio.gather(first, *many, return_exceptions=True)
        assert [found.count(2), sum(isinstance(one, Overloaded) for one in found)] == [4, 16]
        return await other

    assert asyncio.run(run()) == 4
    assert compute.batches[:3] == [[0], [1], [2]]


def test_a_job_whose_client_has_gone_is_dropped_and_the_others_are_answered() -> None:
    compute = Doubling()
    compute.gate.clear()

    async def run() -> int:
        batcher = Batcher[int, int](compute, rows=8, queue=100)
        gone = asyncio.ensure_future(batcher(0, 1))
        stays = asyncio.ensure_future(batcher(1, 1))
        await until(lambda: compute.batches)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        compute.gate.set()
        return await stays

    assert asyncio.run(run()) == 2


def test_a_closed_batcher_answers_what_waits_and_takes_nothing_new() -> None:
    compute = Doubling()
    compute.gate.clear()

    async def run() -> list[int]:
        batcher = Batcher[int, int](compute, rows=1, queue=100)
        jobs = [asyncio.ensure_future(batcher(job, 1)) for job in (1, 2, 3)]
        await until(lambda: compute.batches)
        batcher.close()
        with pytest.raises(Overloaded, match="closing"):
            await batcher(4, 1)
        compute.gate.set()
        return list(await asyncio.gather(*jobs))

    assert asyncio.run(run()) == [2, 4, 6]


def test_the_thread_begins_with_what_it_is_told() -> None:
    where = list[str]()

    def begin() -> None:
        where.append(threading.current_thread().name)

    async def run() -> int:
        return await Batcher[int, int](Doubling(), rows=1, queue=1, begin=begin)(4, 1)

    assert asyncio.run(run()) == 8
    assert len(where) == 1
    assert where[0].startswith("stealguard-batches")


def threads() -> set[threading.Thread]:
    """Those of batchers; such of earlier tests may end at any time."""
    return {thread for thread in threading.enumerate() if thread.name == "stealguard-batches"}


@pytest.mark.parametrize("closed", [True, False])
def test_the_thread_ends_with_its_batcher(closed: bool) -> None:
    before = threads()
    batcher = Batcher[int, int](Doubling(), rows=1, queue=1)

    async def run() -> int:
        return await batcher(4, 1)

    assert asyncio.run(run()) == 8
    (thread,) = threads() - before
    if closed:
        batcher.close()
        batcher.close()
    else:
        del batcher, run
        thread.join(60)  # it may be what held the batcher last
    assert not thread.is_alive()


def test_the_thread_ends_with_its_batcher_too_where_the_loop_was_closed_while_it_computed() -> None:
    before = threads()
    compute = Doubling()
    compute.gate.clear()

    async def give_up() -> None:
        job = asyncio.ensure_future(Batcher[int, int](compute, rows=1, queue=8)(1, 1))
        await until(lambda: compute.batches)
        job.cancel()

    asyncio.run(give_up())
    (thread,) = threads() - before
    compute.gate.set()
    thread.join(60)
    assert not thread.is_alive()


def test_the_interpreter_ends_after_the_batch_that_is_computed() -> None:
    found = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.split() == ["begun", "left", "computed"]
    assert not found.stderr


LEFT = """
import asyncio, threading, time
from stealguard.serving.batching import Batcher

begun, left = threading.Event(), threading.Event()

def compute(jobs):
    print("begun", flush=True)
    begun.set()
    assert left.wait(60)
    time.sleep(0.1)  # so that the interpreter would be gone, if it did not wait
    print("computed", flush=True)
    return jobs

async def run():
    job = asyncio.ensure_future(batcher(1, 1))
    while not begun.is_set():
        await asyncio.sleep(0)
    job.cancel()

batcher = Batcher(compute, rows=1, queue=1)
idle = Batcher(compute, rows=1, queue=1)
asyncio.run(run())
print("left", flush=True)
left.set()
"""


@pytest.mark.parametrize("name", ["rows", "queue"])
def test_a_batch_and_a_queue_hold_at_least_one_row(name: str) -> None:
    with pytest.raises(Invalid, match=f"`{name}` should be at least 1. Found 0"):
        Batcher[int, int](Doubling(), **{"rows": 1, "queue": 1, name: 0})
