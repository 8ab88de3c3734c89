"""The ledger in Redis: the script counts as the formula does, servers share a budget, and Redis may fail."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redis_server import free_port, redis_server
from served import with_ledger
from stealguard.errors import StealguardError
from stealguard.serving.keys import Key
from stealguard.serving.ledger import Event, LedgerUnavailable, Spent
from stealguard.serving.ledger.base import UNLIMITED, Order, Settled, Want, settle
from stealguard.serving.ledger.redis import RedisKeys, RedisLedger
from stealguard.types import State

KEY, WEIGHTS = Key("k", "ann", ""), "0" * 64
WANTS = st.lists(
    st.builds(Want, st.integers(1, 300), st.sampled_from([0, 50, 1000, 4353, 10_000, 10**15, UNLIMITED])), max_size=6
)


def served(address: str, use: Callable[[RedisLedger], Awaitable[object]], **kept: float) -> None:
    """Use a ledger as a server does."""
    with_ledger(lambda: RedisLedger(address, **kept), use)  # type: ignore[arg-type]


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.integers(0, 5000) | st.just(2**52), st.lists(st.tuples(st.integers(0, 300), WANTS), min_size=1, max_size=3),
    st.integers(0, 1024),
)  # fmt: skip
def test_the_script_settles_as_the_formula_does(
    redis_address: str, counted: int, orders: list[tuple[int, list[Want]]], lease: int
) -> None:
    async def use(ledger: RedisLedger) -> list[Settled]:
        made = [Order(f"account {i}", WEIGHTS, held, wants, lease) for i, (held, wants) in enumerate(orders)]
        with redis.Redis.from_url(redis_address) as client:
            for order in made:
                client.hset(f"stealguard:counted:{order.account}", WEIGHTS, counted + order.held)
        expected = [settle(counted + o.held, o, alone=False) for o in made]
        assert list(await ledger._settle(made)) == expected
        return expected

    served(redis_address, use)


@pytest.mark.parametrize(
    "address",
    ["redis://:se/cret@127.0.0.1:1/0", "redis://:secret@127.0.0.1:1", "redis://127.0.0.1:1/0?password=secret",
     "redis://bertha:se@cret@127.0.0.1:x"],
)  # fmt: skip
def test_a_password_is_in_no_message(address: str) -> None:
    with pytest.raises(LedgerUnavailable) as error:
        RedisKeys(address)
    assert "127.0.0.1:" in str(error.value)
    assert "cret" not in str(error.value)
    assert "bertha" not in str(error.value)


@pytest.mark.parametrize("budget", [1000, 9000])
def test_three_ledgers_in_one_loop_grant_exactly_the_budget(redis_address: str, budget: int) -> None:
    key = Key("k", "ann", "", budget=budget)

    async def client(ledger: RedisLedger) -> int:
        granted = 0
        while True:
            try:
                await ledger.reserve(key, WEIGHTS, 1)
            except Spent:
                return granted
            granted += 1

    async def run() -> int:
        ledgers = [RedisLedger(redis_address) for _ in range(3)]
        granted = await asyncio.gather(*(client(ledgers[i % 3]) for i in range(64)))
        for ledger in ledgers:
            await ledger.close()
        return sum(granted)

    assert asyncio.run(run()) == budget
    assert RedisKeys(redis_address).usage() == {"ann": {WEIGHTS: budget}}


def test_threads_with_a_ledger_each_grant_exactly_the_budget(redis_address: str) -> None:
    key = Key("k", "ann", "", budget=1000)

    def server(_: int) -> int:
        granted = 0

        async def use(ledger: RedisLedger) -> None:
            nonlocal granted
            while True:
                await ledger.reserve(key, WEIGHTS, 5)
                granted += 5

        with pytest.raises(Spent):
            served(redis_address, use)
        return granted

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(server, range(8))) == 1000


def test_a_state_that_another_server_changed_meanwhile_is_not_overwritten(redis_address: str) -> None:
    async def use(ledger: RedisLedger) -> None:
        ours, theirs, runs = ledger.states("a"), ledger.states("a"), list[int]()

        def theirs_first(known: State | None) -> tuple[int, State]:
            n = 0 if known is None else int(known["n"])
            runs.append(n)
            if len(runs) == 1:
                theirs.update("ann", lambda _: (None, {"n": torch.tensor(10)}))
            return n, {"n": torch.tensor(n + 1)}

        assert ours.update("ann", theirs_first) == 10
        assert runs == [0, 10]
        assert ours.update("ann", lambda known: (known, known)) == {"n": torch.tensor(11)}

    served(redis_address, use)


def test_a_redis_that_ends_grants_nothing_until_it_is_back_and_forgets_nothing(tmp_path: Path) -> None:
    port, event = free_port(), Event(time.time(), "ann", "k", "digits", 1, "answered")

    async def use(ledger: RedisLedger) -> None:
        with redis_server(tmp_path, port=port):
            await ledger.reserve(KEY, WEIGHTS, 100)
            for _ in range(256):
                await ledger.reserve(KEY, WEIGHTS, 1)
            ledger.record(event)
        with pytest.raises(LedgerUnavailable, match=r"ledger `redis://127.0.0.1:\d+/0` cannot be used"):
            await ledger.reserve(KEY, WEIGHTS, 1)
        with pytest.raises(LedgerUnavailable):
            await ledger.tick()
        with redis_server(tmp_path, port=port):
            await ledger.reserve(KEY, WEIGHTS, 7)
            await ledger.close()
            assert ledger.keys.usage() == {"ann": {WEIGHTS: 363}}
            assert ledger.keys.history("ann") == [event._replace(at=float(int(event.at)))]

    with redis_server(tmp_path, port=port):
        ledger = RedisLedger(f"redis://127.0.0.1:{port}/0")
    asyncio.run(use(ledger))


def test_a_lost_result_is_not_asked_for_again(redis_address: str) -> None:
    """The lease was returned by the order whose result was lost: it must not be handed out or returned twice."""

    async def use(ledger: RedisLedger) -> None:
        await ledger.reserve(KEY, WEIGHTS, 1)
        execute = redis.asyncio.client.Pipeline.execute

        async def losing(pipe: redis.asyncio.client.Pipeline) -> None:
            await execute(pipe)
            raise redis.ConnectionError("Connection lost")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(redis.asyncio.client.Pipeline, "execute", losing)
            with pytest.raises(LedgerUnavailable, match="Connection lost"):
                await ledger.reserve(KEY, WEIGHTS, 300)
        await ledger.reserve(KEY, WEIGHTS, 1)

    served(redis_address, use, lease=256)
    assert RedisKeys(redis_address).usage() == {"ann": {WEIGHTS: 1 + 300 + 256 + 1}}


def test_the_history_is_written_once_where_redis_has_room_for_a_part_of_it(tmp_path: Path) -> None:
    event = Event(float(int(time.time())), "", "k", "digits", 1, "answered", hashes=("0" * 64,) * 1000)
    events = [event._replace(account=f"account {i}") for i in range(100)]

    async def use(ledger: RedisLedger) -> None:
        client = ledger.keys.client
        for event in events:
            ledger.record(event)
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 3_000_000)
        with pytest.raises(LedgerUnavailable, match="maxmemory"):
            await ledger.tick()
        client.config_set("maxmemory", 0)
        await ledger.tick()
        assert [ledger.keys.history(event.account) for event in events] == [[event] for event in events]

    with redis_server(tmp_path) as address:
        served(address, use)


def test_old_entries_of_the_history_are_removed(redis_address: str) -> None:
    event = Event(time.time(), "ann", "k", "digits", 1, "answered")

    async def use(ledger: RedisLedger) -> None:
        for i in range(400):
            ledger.record(event)
            if i == 399:
                ledger._kept = -10.0  # all that was written before is too old
            await ledger.tick()

    served(redis_address, use)
    assert len(RedisKeys(redis_address).history("ann")) < 400


def test_a_redis_that_drops_data_is_refused(tmp_path: Path) -> None:
    settings = "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"
    with (
        redis_server(tmp_path, *settings) as address,
        pytest.raises(LedgerUnavailable, match=r"drops data when it is full \(maxmemory-policy allkeys-lru\)"),
    ):
        RedisLedger(address)


def test_a_redis_that_forgets_when_it_ends_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server(tmp_path, "--appendonly", "no") as address, caplog.at_level(logging.WARNING):
        RedisKeys(address).close()
    assert "forgets what is reserved when it ends" in caplog.text


def test_data_of_a_newer_version_are_named(redis_address: str) -> None:
    with redis.Redis.from_url(redis_address) as client:
        client.set("stealguard:version", 99)
    with pytest.raises(StealguardError, match="has version 99; this stealguard reads version 1"):
        RedisKeys(redis_address)


def test_a_redis_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(LedgerUnavailable, match=r"ledger `redis://127.0.0.1:1/0` cannot be used") as error:
        RedisKeys("redis://:secret@127.0.0.1:1/0")
    assert "secret" not in str(error.value)
