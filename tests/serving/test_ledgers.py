"""What every ledger promises, of SQLite and of Redis: exact budgets, keys, history and memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch

from served import with_ledger
from stealguard.errors import Invalid, StealguardError
from stealguard.serving.keys import Key, Restriction, new_key
from stealguard.serving.ledger import Event, Ledger, LedgerUnavailable, Spent, TooFast, open_keys, open_ledger
from stealguard.types import State

WEIGHTS = "0" * 64


@pytest.fixture(params=["sqlite", "redis"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty ledger is."""
    return str(tmp_path / "l.sqlite") if request.param == "sqlite" else request.getfixturevalue("redis_address")


def served(where: str, use: Callable[[Ledger], Awaitable[object]], **settings: float) -> None:
    """Use a ledger as a server does."""
    with_ledger(lambda: open_ledger(where, **settings), use)  # type: ignore[arg-type]


def added(where: str, account: str = "ann", restriction: Restriction | None = None, **settings: object) -> Key:
    """A new key of the ledger."""
    key, _ = new_key(account, restriction or Restriction(), **settings)  # type: ignore[arg-type]
    keys = open_keys(where)
    keys.add_key(key)
    keys.close()
    return key


def counted(where: str, account: str = "ann") -> int:
    """Rows that the ledger counts."""
    keys = open_keys(where)
    n = keys.usage().get(account, {}).get(WEIGHTS, 0)
    keys.close()
    return n


async def drain(ledger: Ledger, key: Key, n: int = 1) -> int:
    """Reserve `n` rows again and again until the budget is spent; how many in all."""
    granted = 0
    while True:
        try:
            await ledger.reserve(key, WEIGHTS, n)
        except Spent:
            return granted
        granted += n


def test_a_key_is_found_with_all_its_settings(where: str) -> None:
    key = added(
        where, "Ann Ü", Restriction(top_k=2, digits=3), budget=10**15, rate=0.5, models=("a", "b"), owner=True
    )  # fmt: skip
    plain = added(where)

    async def use(ledger: Ledger) -> None:
        assert [await ledger.key(one.id) for one in (key, plain, key)] == [key, plain, key]
        assert await ledger.key("0" * 16) is None

    served(where, use)
    keys = open_keys(where)
    assert keys.keys() == [key, plain]
    keys.close()


def test_a_server_sees_keys_that_other_processes_add_and_revoke(where: str) -> None:
    key = added(where)

    async def use(ledger: Ledger) -> None:
        assert await ledger.key(key.id) == key
        other = added(where, "bob")
        assert await ledger.key(other.id) == other
        keys = open_keys(where)
        revoked = keys.revoke(key.id)
        assert keys.revoke(key.id) == revoked
        keys.close()
        async with asyncio.timeout(60):
            while (found := await ledger.key(key.id)) == key:  # the server looks twice a second
                await asyncio.sleep(0.01)
        assert found == revoked
        assert found is not None
        assert found.revoked is not None

    served(where, use)


def test_a_key_that_is_not_there_cannot_be_revoked(where: str) -> None:
    keys = open_keys(where)
    with pytest.raises(StealguardError, match=r"has no key `nobody`"):
        keys.revoke("nobody")
    keys.close()


@pytest.mark.parametrize("lease", [0, 7, 256])
def test_64_clients_of_one_key_get_exactly_the_budget(where: str, lease: int) -> None:
    key = added(where, budget=1000)

    async def use(ledger: Ledger) -> None:
        assert sum(await asyncio.gather(*(drain(ledger, key) for _ in range(64)))) == 1000
        assert await ledger.left(key, WEIGHTS) == 0

    served(where, use, lease=lease)
    assert counted(where) == 1000


def test_a_request_gets_all_its_rows_or_none(where: str) -> None:
    key = added(where, budget=10)

    async def use(ledger: Ledger) -> None:
        await ledger.reserve(key, WEIGHTS, 7)
        with pytest.raises(Spent, match="has 3 rows left, fewer than the request's 4") as spent:
            await ledger.reserve(key, WEIGHTS, 4)
        assert spent.value.left == 3 == await ledger.left(key, WEIGHTS)
        await ledger.reserve(key, WEIGHTS, 3)
        ledger.give_back(key, WEIGHTS, 3)
        await ledger.reserve(key, WEIGHTS, 2)
        assert await ledger.left(key, WEIGHTS) == 1
        await ledger.reserve(key, "1" * 64, 10)  # other weights have a budget of their own
        with pytest.raises(Invalid, match="`n` should be at least 1"):
            await ledger.reserve(key, WEIGHTS, 0)

    served(where, use)
    assert counted(where) == 9


def test_keys_of_an_account_share_what_was_asked(where: str) -> None:
    small, large, free = added(where, budget=100), added(where, budget=5000), added(where)

    async def use(ledger: Ledger) -> None:
        await ledger.reserve(small, WEIGHTS, 60)
        await ledger.reserve(large, WEIGHTS, 60)
        with pytest.raises(Spent):
            await ledger.reserve(small, WEIGHTS, 1)
        await ledger.reserve(free, WEIGHTS, 10_000)
        assert await ledger.left(free, WEIGHTS) is None
        assert await ledger.left(large, WEIGHTS) == 0

    served(where, use)
    assert counted(where) == 10_120


def test_a_restart_keeps_what_was_counted(where: str) -> None:
    key = added(where, budget=100)

    async def use(ledger: Ledger) -> None:
        await ledger.reserve(key, WEIGHTS, 30)

    served(where, use)
    served(where, use)
    assert counted(where) == 60

    async def look(ledger: Ledger) -> None:
        assert await ledger.left(key, WEIGHTS) == 40

    served(where, look)


def test_a_rate_is_for_rows_of_a_key_and_rows_beyond_the_budget_do_not_count(where: str) -> None:
    key, other = added(where, rate=1e-3, budget=1), added(where, "bob", rate=1e-3)

    async def use(ledger: Ledger) -> None:
        with pytest.raises(Spent):
            await ledger.reserve(key, WEIGHTS, 2)
        await ledger.reserve(key, WEIGHTS, 1)
        with pytest.raises(TooFast) as error:
            await ledger.reserve(key, WEIGHTS, 1)
        assert 0 < error.value.retry_after <= 1000
        await ledger.reserve(other, WEIGHTS, 1)

    served(where, use)


def test_rows_that_are_given_back_count_for_the_rate(where: str) -> None:
    """They were computed: else an account that a guard refuses would keep a server busy at any rate."""
    key = added(where, rate=1e-3, budget=10)

    async def use(ledger: Ledger) -> None:
        await ledger.reserve(key, WEIGHTS, 4)
        ledger.give_back(key, WEIGHTS, 4)
        assert await ledger.left(key, WEIGHTS) == 10
        with pytest.raises(TooFast):
            await ledger.reserve(key, WEIGHTS, 1)

    served(where, use)


def test_the_history_tells_what_was_asked_when(where: str) -> None:
    start = float(int(time.time()) - 5)
    event = Event(start, "ann", "k", "digits", 3, "answered")

    async def use(ledger: Ledger) -> None:
        ledger.record(event._replace(at=start + 0.25, hashes=("a",), suspicion=1.0))
        ledger.record(event._replace(at=start + 0.75, hashes=("b",)))
        ledger.record(event._replace(outcome="budget"))
        ledger.record(event._replace(at=start + 1, rows=1))
        ledger.record(event._replace(account="bob"))

    served(where, use)
    keys = open_keys(where)
    assert keys.history("bob") == [event._replace(account="bob")]
    both, spent, later = sorted(keys.history("ann", start), key=lambda event: (event.at, event.outcome))
    assert both == event._replace(rows=6, requests=2, hashes=("a", "b"), suspicion=1.0)
    assert (spent.outcome, later.rows, later.at) == ("budget", 1, start + 1)
    assert keys.history("ann", start + 1) == [later]
    assert keys.history("nobody") == []
    keys.close()


def one_more(state: State | None) -> tuple[int, State]:
    """A step that counts itself."""
    n = 1 + (0 if state is None else int(state["n"]))
    return n, {"n": torch.tensor(n)}


def test_memory_belongs_to_a_release_and_an_account_and_survives_a_restart(where: str) -> None:
    async def use(ledger: Ledger) -> None:
        first, second = ledger.states("a"), ledger.states("b")
        assert [s.update(name, one_more) for s, name in ((first, "ann"), (first, ""), (second, "ann"))] == [1, 1, 1]
        assert first.update("ann", one_more) == 2

    async def again(ledger: Ledger) -> None:
        states = ledger.states("a")
        assert [states.update(name, one_more) for name in ("ann", "", "bob")] == [3, 2, 1]
        assert ledger.states("b").update("ann", lambda state: (state, state)) == {"n": torch.tensor(1)}

    served(where, use)
    served(where, again)


def test_models_that_are_one_release_share_its_memory(where: str) -> None:
    async def use(ledger: Ledger) -> None:
        ours, theirs = ledger.states("a"), ledger.states("a")
        assert [states.update("ann", one_more) for states in (ours, theirs, ours, theirs)] == [1, 2, 3, 4]

    served(where, use)


def test_eight_threads_lose_no_step(where: str) -> None:
    together = Barrier(8)

    async def use(ledger: Ledger) -> None:
        states = ledger.states("a")

        def steps(_: int) -> list[int]:
            together.wait()
            return [states.update("ann", one_more) for _ in range(25)]

        with ThreadPoolExecutor(8) as pool:
            found = await asyncio.gather(
                *(asyncio.get_running_loop().run_in_executor(pool, steps, i) for i in range(8))
            )
        assert sorted(n for some in found for n in some) == list(range(1, 201))

    served(where, use)


def test_a_step_that_raises_or_changes_nothing_leaves_the_memory(where: str) -> None:
    async def use(ledger: Ledger) -> None:
        states = ledger.states("a")
        assert states.update("ann", lambda state: (state, state)) is None
        states.update("ann", one_more)
        with pytest.raises(ZeroDivisionError):
            states.update("ann", lambda state: (1 // 0, state))
        assert states.update("ann", one_more) == 2

    served(where, use)


def test_a_closed_ledger_grants_nothing(where: str) -> None:
    key = added(where)

    async def use(ledger: Ledger) -> None:
        await ledger.reserve(key, WEIGHTS, 1)
        await ledger.close()
        with pytest.raises(LedgerUnavailable, match="is closed"):
            await ledger.reserve(key, WEIGHTS, 1)

    served(where, use)
    assert counted(where) == 1
