"""Leases and rates by themselves: what is counted is what was handed out and what is held, in any order of calls."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stealguard.serving.keys import Key
from stealguard.serving.ledger.base import (
    UNLIMITED,
    Leases,
    LedgerUnavailable,
    Order,
    Rates,
    Settled,
    Spent,
    TooFast,
    Want,
    settle,
)

WANTS = st.lists(st.builds(Want, st.integers(1, 300), st.sampled_from([0, 50, 1000, 10_000, UNLIMITED])), max_size=6)


class Clock:
    """Seconds that pass when told so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Counts:
    """A store of counts in memory, which can fail."""

    def __init__(self) -> None:
        self.counted = dict[tuple[str, str], int]()
        self.calls, self.fails = list[Sequence[Order]](), False

    async def __call__(self, orders: Sequence[Order]) -> list[Settled]:
        await asyncio.sleep(0)
        self.calls.append(orders)
        if self.fails:
            raise LedgerUnavailable("The disk is full.")
        return [self._settle(order) for order in orders]

    def _settle(self, order: Order) -> Settled:
        name = order.account, order.weights
        settled = settle(self.counted.get(name, 0), order, alone=True)
        self.counted[name] = settled.counted
        return settled


@given(st.integers(0, 2000), st.integers(0, 300), WANTS, st.integers(0, 256), st.booleans())
def test_a_settled_order_counts_what_it_grants_and_leases(
    counted: int, held: int, wants: list[Want], lease: int, alone: bool
) -> None:
    counted += held
    settled = settle(counted, Order("ann", "w", held, wants, lease), alone=alone)
    granted = [want for want, yes in zip(wants, settled.granted, strict=True) if yes]
    assert settled.counted == counted - held + sum(want.n for want in granted) + settled.lease
    assert 0 <= settled.lease <= lease
    assert not settled.lease or settled.counted <= settled.budget
    running = counted - held
    for want, yes in zip(wants, settled.granted, strict=True):
        assert yes == (running + want.n <= want.budget)
        running += want.n * yes


def test_the_lease_shrinks_as_the_end_of_the_budget_comes_near() -> None:
    def lease(left: int, alone: bool) -> int:
        return settle(0, Order("ann", "w", 0, [Want(1, left + 1)], 256), alone=alone).lease

    assert [lease(left, alone=True) for left in (10**6, 4096, 4095, 160, 15)] == [256, 256, 255, 10, 0]
    assert [lease(left, alone=False) for left in (10**6, 4096, 4095, 160, 15)] == [256, 256, 0, 0, 0]


def test_several_servers_have_a_smaller_lease_before_they_have_none() -> None:
    def lease(left: int) -> int:
        return settle(0, Order("ann", "w", 0, [Want(1, left + 1)], 1024), alone=False).lease

    assert [lease(left) for left in (10**6, 16_384, 8_000, 4_096, 4_095)] == [1024, 1024, 500, 256, 0]


CALLS = st.lists(
    st.tuples(st.sampled_from(["take", "give back", "idle"]), st.sampled_from(["ann", "bob"]), st.integers(1, 40)),
    max_size=40,
)


@pytest.mark.slow
@given(CALLS, st.integers(0, 500), st.integers(0, 64))
def test_every_sequence_of_calls_counts_as_a_plain_sum(
    calls: list[tuple[str, str, int]], budget: int, most: int
) -> None:
    async def run() -> None:
        store, clock = Counts(), Clock()
        leases, used = Leases(store, most, clock), {"ann": 0, "bob": 0}
        for what, account, n in calls:
            if what == "take" and used[account] + n <= budget:
                await leases.take(account, "w", budget, n)
                used[account] += n
            elif what == "take":
                with pytest.raises(Spent) as spent:
                    await leases.take(account, "w", budget, n)
                assert spent.value.left == budget - used[account]
            elif what == "give back":
                n = min(n, used[account])
                used[account] -= n
                leases.put(account, "w", budget, n)
            else:
                clock.now += n
                leases.tidy(20.0)
            for name, n in used.items():
                assert store.counted.get((name, "w"), 0) >= n
        await leases.close()
        assert {name: store.counted.get((name, "w"), 0) for name in used} == used

    asyncio.run(run())


@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from([100, 400, None])), max_size=30))
def test_keys_of_different_budgets_share_what_an_account_has_asked(requests: list[tuple[int, int | None]]) -> None:
    async def run() -> None:
        leases, used = Leases(Counts(), 64, Clock()), 0
        for n, budget in requests:
            if budget is None or used + n <= budget:
                await leases.take("ann", "w", budget, n)
                used += n
            else:
                with pytest.raises(Spent):
                    await leases.take("ann", "w", budget, n)

    asyncio.run(run())


def test_requests_within_a_lease_do_not_ask_the_store() -> None:
    async def run() -> Counts:
        store = Counts()
        leases = Leases(store, 100, Clock())
        for _ in range(101):
            await leases.take("ann", "w", 10_000, 1)
        return store

    assert [len(orders) for orders in asyncio.run(run()).calls] == [1]


def test_an_account_that_asks_much_has_larger_leases() -> None:
    """A lease has FIRST rows, or twice what is asked in a second."""

    async def leased(seconds: float, rows: int) -> list[int]:
        store, clock = Counts(), Clock()
        leases = Leases(store, 2_000, clock)
        for _ in range(20 * 256 // rows):
            await leases.take("ann", "w", None, rows)
            clock.now += seconds * rows / 256
        return [orders[0].lease for orders in store.calls]

    assert asyncio.run(leased(0.0, 1)) == [256, 2 * 257, 2 * 515, 2000, 2000]
    assert set(asyncio.run(leased(0.5, 1))[2:]) == {1024}
    assert set(asyncio.run(leased(4.0, 1))) == {256}
    assert asyncio.run(leased(0.0, 300))[:3] == [256, 600, 1800], "a request may have more rows than a lease"


def test_requests_that_wait_share_one_call_of_the_store() -> None:
    async def run() -> Counts:
        store = Counts()
        leases = Leases(store, 0, Clock())
        await asyncio.gather(*(leases.take(f"account {i % 3}", "w", 10, 1) for i in range(30)))
        return store

    (orders,) = asyncio.run(run()).calls
    assert [len(order.wants) for order in orders] == [10, 10, 10]


def test_requests_that_come_while_the_store_is_asked_share_its_lease() -> None:
    async def run() -> tuple[Counts, int]:
        store = Counts()
        leases = Leases(store, 256, Clock())
        first = asyncio.create_task(leases.take("ann", "w", None, 1))
        await asyncio.sleep(0)
        later = [asyncio.create_task(leases.take("ann", "w", None, n)) for n in (100, 200, 50)]
        later[0].cancel()
        await asyncio.gather(first, *later, return_exceptions=True)
        return store, leases.held("ann", "w")

    store, held = asyncio.run(run())
    assert [[want.n for want in order.wants] for (order,) in store.calls] == [[1]]
    assert held == 256 - 250


def test_64_clients_get_exactly_the_budget() -> None:
    async def client(leases: Leases, n: int) -> int:
        granted = 0
        while True:
            try:
                await leases.take("ann", "w", 1000, n)
            except Spent:
                return granted
            granted += n

    async def run() -> list[int]:
        leases = Leases(Counts(), 16, Clock())
        return await asyncio.gather(*(client(leases, 1 + i % 4) for i in range(64)))

    assert sum(asyncio.run(run())) == 1000


@pytest.mark.parametrize("turns", range(4))
def test_a_request_that_is_given_up_takes_no_rows(turns: int) -> None:
    async def run() -> int:
        store = Counts()
        leases = Leases(store, 0, Clock())
        task = asyncio.create_task(leases.take("ann", "w", 100, 5))
        for _ in range(turns):
            await asyncio.sleep(0)
        taken = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await leases.close()
        return store.counted.get(("ann", "w"), 0) - 5 * taken

    assert asyncio.run(run()) == 0


def test_a_store_that_fails_is_told_to_every_request_and_its_rows_stay_counted() -> None:
    async def run() -> None:
        store = Counts()
        leases = Leases(store, 16, Clock())
        await leases.take("ann", "w", None, 1)
        store.fails = True
        results = await asyncio.gather(*(leases.take("ann", "w", None, 20) for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [LedgerUnavailable] * 3
        store.fails = False
        await leases.take("ann", "w", None, 20)
        await leases.close()
        assert store.counted["ann", "w"] == 1 + 16 + 20

    asyncio.run(run())


def test_an_idle_lease_is_returned_and_forgotten() -> None:
    async def run() -> None:
        store, clock = Counts(), Clock()
        leases = Leases(store, 16, clock)
        await leases.take("ann", "w", None, 1)
        await leases.take("bob", "w", None, 1)
        clock.now += 5
        await leases.take("bob", "w", None, 1)
        clock.now += 6
        leases.tidy(10.0)
        await leases._finished()
        assert store.counted == {("ann", "w"): 1, ("bob", "w"): 17}
        assert list(leases._purses) == [("bob", "w")]
        assert leases.counted("ann", "w") is None
        assert leases.counted("bob", "w") == 17
        assert leases.held("bob", "w") == 15

    asyncio.run(run())


def test_a_large_lease_is_returned_when_the_account_asks_less() -> None:
    """Else the rows would be kept from other servers, and lost with this one, for as long as it asks at all."""

    async def run() -> None:
        store, clock = Counts(), Clock()
        leases = Leases(store, 4096, clock)
        for _ in range(5):
            await leases.take("ann", "w", None, 2000)
        assert leases.held("ann", "w") > 2000
        for _ in range(12):
            clock.now += 1
            await leases.take("ann", "w", None, 1)
            leases.tidy(10.0)
            await leases._finished()
        assert leases.held("ann", "w") <= 256
        assert store.counted["ann", "w"] == 10_012 + leases.held("ann", "w")

    asyncio.run(run())


def wait(rates: Rates, key: Key, n: int) -> float:
    """Seconds until the key may ask for `n` rows, which it takes if there are none to wait."""
    try:
        rates.take(key, n)
    except TooFast as error:
        return error.retry_after
    return 0.0


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 30)), max_size=50), st.sampled_from([0.5, 3.0, 20.0]))
def test_no_stretch_of_time_has_more_rows_than_the_rate_and_one_burst(
    requests: list[tuple[int, int]], rate: float
) -> None:
    clock, key, times = Clock(), Key("1", "ann", "", rate=rate), list[tuple[float, int]]()
    rates = Rates(clock)
    for pause, n in requests:
        clock.now += pause / 100
        while seconds := wait(rates, key, n):
            clock.now += seconds
        times.append((clock.now, n))
    for i, (start, _) in enumerate(times):
        for j in range(i, len(times)):
            rows = sum(n for _, n in times[i:j])  # the last may be larger than the bucket, and is made up for later
            assert rows <= max(1.0, rate) + rate * (times[j][0] - start) + 1e-3 + 30


def test_a_key_that_asks_too_fast_is_told_when_to_ask_again() -> None:
    clock, key = Clock(), Key("1", "ann", "", rate=10.0)
    rates = Rates(clock)
    for _ in range(2):
        rates.take(key, 5)
    with pytest.raises(TooFast, match=r"10 rows a second; ask again in 0.50 s") as error:
        rates.take(key, 5)
    assert error.value.retry_after == pytest.approx(0.5)
    clock.now += 0.5
    rates.take(key, 5)
    rates.put(key, 5)
    rates.take(key, 5)
    assert pickle.loads(pickle.dumps(error.value)).retry_after == error.value.retry_after


def test_a_request_larger_than_the_bucket_passes_when_it_is_full_and_is_made_up_for() -> None:
    clock, key = Clock(), Key("1", "ann", "", rate=10.0)
    rates = Rates(clock)
    rates.take(key, 100)
    clock.now += 9.0
    with pytest.raises(TooFast):
        rates.take(key, 1)
    clock.now += 0.2
    rates.take(key, 1)
    clock.now += 1.0
    rates.tidy()
    assert rates._full == {}


def test_keys_without_a_rate_are_never_too_fast() -> None:
    rates = Rates(Clock())
    for _ in range(100):
        rates.take(Key("1", "ann", ""), 10**6)
