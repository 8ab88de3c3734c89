"""The ledger in a file: one server, its owner's eyes alone, and clear words when the file cannot be used."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

from served import with_ledger
from stealguard.errors import StealguardError
from stealguard.serving.keys import Key, new_key
from stealguard.serving.ledger import Event, LedgerUnavailable, open_keys
from stealguard.serving.ledger.sqlite import SqliteKeys, SqliteLedger

KEY, WEIGHTS = Key("k", "ann", ""), "0" * 64


def served(path: Path, use: Callable[[SqliteLedger], Awaitable[object]], **settings: float) -> None:
    """Use a ledger as a server does."""
    with_ledger(lambda: SqliteLedger(path, **settings), use)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_the_file_is_readable_by_its_owner_alone(path: Path) -> None:
    async def use(ledger: SqliteLedger) -> None:
        await ledger.reserve(KEY, WEIGHTS, 1)
        assert {p.name for p in path.parent.iterdir()} == {path.name + end for end in ("", "-wal", "-shm", ".lock")}
        assert {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()} == {0o600}

    served(path, use)


def test_a_second_server_is_told_that_another_uses_the_file(path: Path) -> None:
    async def use(ledger: SqliteLedger) -> None:
        with pytest.raises(LedgerUnavailable, match=r"Another server uses the ledger `.*ledger.sqlite`. Several"):
            SqliteLedger(path)

    served(path, use)
    served(path, use)


def test_a_process_of_another_program_is_told_too(path: Path) -> None:
    async def use(_: SqliteLedger) -> None:
        program = f"from stealguard.serving.ledger import open_ledger; open_ledger({str(path)!r})"
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert "Another server uses the ledger" in ended.stderr

    served(path, use)


def test_a_missing_file_is_made_for_a_server_and_named_elsewhere(path: Path) -> None:
    with pytest.raises(
        LedgerUnavailable, match=r"There is no ledger `.*ledger.sqlite`; `stealguard keys add` makes one"
    ):
        open_keys(str(path), create=False)
    assert list(path.parent.iterdir()) == []
    assert open_keys(str(path.parent / "new" / "l.sqlite")).keys() == []


def test_a_file_of_a_newer_version_is_named(path: Path) -> None:
    SqliteKeys(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    for opened in (SqliteKeys, SqliteLedger):
        with pytest.raises(
            StealguardError, match=r"ledger.sqlite` has version 99; this stealguard reads version 1: use"
        ):
            opened(path)


@pytest.mark.parametrize("content", [b"", b"not a database" * 99, None])
def test_a_file_that_is_no_ledger_is_named(path: Path, content: bytes | None) -> None:
    if content is None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE other (x)")
    else:
        path.write_bytes(content)
    with pytest.raises(LedgerUnavailable, match=r"ledger.sqlite` (is not a stealguard ledger|cannot be used)"):
        SqliteKeys(path)


def test_a_damaged_file_grants_nothing(path: Path) -> None:
    served(path, lambda ledger: ledger.reserve(KEY, WEIGHTS, 1))
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))

    async def use(ledger: SqliteLedger) -> None:
        with pytest.raises(LedgerUnavailable, match=r"ledger.sqlite` cannot be used: .*malformed"):
            await ledger.reserve(KEY, WEIGHTS, 1)
        with pytest.raises(LedgerUnavailable, match="malformed"):
            await ledger.key("k")

    served(path, use)


async def fill(ledger: SqliteLedger) -> None:
    """Count rows of many accounts."""
    for i in range(200):
        await ledger.reserve(Key("k", f"account {i}", ""), WEIGHTS, 1)


def test_a_full_disk_grants_nothing_until_there_is_room(path: Path) -> None:
    event = Event(time.time(), "ann", "k", "digits", 1, "answered", hashes=tuple("0" * 64 for _ in range(1000)))

    async def use(ledger: SqliteLedger) -> None:
        (most,) = ledger._db.execute("PRAGMA max_page_count").fetchone()
        ledger._db.execute("PRAGMA max_page_count = 1")  # as much as there is
        with pytest.raises(LedgerUnavailable, match=r"ledger.sqlite` cannot be used: database or disk is full"):
            await fill(ledger)
        ledger.record(event)
        with pytest.raises(LedgerUnavailable, match="disk is full"):
            await ledger.tick()
        ledger._db.execute(f"PRAGMA max_page_count = {most}")
        await fill(ledger)
        await ledger.tick()
        assert len(ledger.keys.history("ann")) == 1, "what could not be written was kept"

    served(path, use, lease=0)


def test_the_history_is_written_once_where_the_memory_cannot_be_written(path: Path) -> None:
    """A disk that is nearly full may have room for an entry of the history, but not for an account's memory."""
    event = Event(float(int(time.time())), "ann", "k", "digits", 1, "answered")

    async def use(ledger: SqliteLedger) -> None:
        ledger.states("a").update("ann", lambda known: (None, {"n": torch.tensor(1)}))
        ledger.record(event)
        ledger._db.execute("CREATE TEMP TRIGGER t BEFORE INSERT ON memory BEGIN SELECT RAISE(ABORT, 'no room'); END")
        for _ in range(3):
            with pytest.raises(LedgerUnavailable, match="no room"):
                await ledger.tick()
        ledger._db.execute("DROP TRIGGER t")
        await ledger.tick()
        assert ledger.keys.history("ann") == [event]

    served(path, use)


def test_a_file_that_is_locked_for_long_grants_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stealguard.serving.ledger.sqlite.BUSY", 0.01)

    async def use(ledger: SqliteLedger) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerUnavailable, match="database is locked"):
                await ledger.reserve(KEY, WEIGHTS, 1)
            other.execute("ROLLBACK")
        await ledger.reserve(KEY, WEIGHTS, 1)

    served(path, use)


def test_a_file_that_was_deleted_or_replaced_grants_nothing(path: Path) -> None:
    async def use(ledger: SqliteLedger) -> None:
        await ledger.reserve(KEY, WEIGHTS, 1)
        path.rename(path.with_name("moved.sqlite"))
        with pytest.raises(LedgerUnavailable, match="was moved, deleted or replaced"):
            await ledger.reserve(KEY, WEIGHTS, 1000)
        SqliteKeys(path)
        with pytest.raises(LedgerUnavailable, match="was moved, deleted or replaced"):
            await ledger.reserve(KEY, WEIGHTS, 1000)
        path.with_name("moved.sqlite").replace(path)
        await ledger.reserve(KEY, WEIGHTS, 1000)

    served(path, use)


def test_requests_that_wait_for_the_disk_share_one_commit(path: Path) -> None:
    async def use(ledger: SqliteLedger) -> None:
        commits = []
        ledger._db.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
        await asyncio.gather(*(ledger.reserve(Key("k", f"account {i}", ""), WEIGHTS, 1) for i in range(128)))
        assert 1 <= len(commits) <= 2

    served(path, use)


def test_history_that_is_too_old_is_removed(path: Path) -> None:
    now = time.time()
    event = Event(now, "ann", "k", "digits", 1, "answered")

    async def use(ledger: SqliteLedger) -> None:
        for day in range(300):
            ledger.record(event._replace(at=now - 86_400 * (299.5 - day)))
        await ledger.tick()
        ledger.record(event)
        await ledger.tick()

    served(path, use)
    ages = [now - event.at for event in SqliteKeys(path).history("ann")]
    assert len(ages) == 91
    assert max(ages) < 90 * 86_400 + 1


def test_memory_is_written_by_a_tick_and_held_within_the_limit(path: Path) -> None:
    async def use(ledger: SqliteLedger) -> None:
        states = ledger.states("a")
        for turn in range(3):
            for i in range(20):
                states.update(
                    f"account {i}",
                    lambda known: (None, {"n": torch.tensor(1 if known is None else int(known["n"]) + 1)}),
                )
            assert len(states._known) <= 8
            assert states.update("account 0", lambda known: (int(known["n"]), known)) == turn + 1  # type: ignore[index]
        await ledger.tick()
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT count(*) FROM memory").fetchone() == (20,)

    served(path, use, memories=8)


def test_keys_are_looked_up_again_when_the_file_cannot_tell_what_changed(path: Path) -> None:
    key, _ = new_key("ann")
    SqliteKeys(path).add_key(key)

    async def use(ledger: SqliteLedger) -> None:
        assert await ledger.key(key.id) == key
        ledger._db.close()
        with pytest.raises(LedgerUnavailable):
            await ledger.tick()
        assert ledger._known == {}

    served(path, use)


@pytest.mark.long
@pytest.mark.thorough
def test_ten_thousand_accounts_take_less_than_50_mb(path: Path) -> None:
    program = Path(__file__).parent / "ten_thousand.py"
    ended = subprocess.run([sys.executable, str(program), str(path)], capture_output=True, text=True, check=True)
    assert 0 < float(ended.stdout) < 50
