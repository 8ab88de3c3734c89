"""A ledger in one SQLite file, for one server. Importing this loads no torch.

The journal is SQLite's write-ahead log: the file must be on a local disk. A commit of reserved rows waits for the disk
(`synchronous = FULL`); leases make such commits rare, and requests that wait share one. History and memory are written
about every half second without that wait (`NORMAL`): `kill -9` loses what was not written yet, a power failure can lose
more, back to the last reserved rows.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from stealguard.errors import StealguardError
from stealguard.files import sync
from stealguard.serving.keys import Key, Restriction
from stealguard.serving.ledger.base import (
    HISTORY_DAYS,
    LEASE,
    Event,
    LedgerUnavailable,
    Order,
    Serving,
    Settled,
    settle,
)

if TYPE_CHECKING:
    from stealguard.boxes.accounts import LocalStates

T = TypeVar("T")

APPLICATION = 0x73676C65  # SQLite's application_id: "sgle"
VERSION = 1
BUSY = 10.0  # seconds to wait for another process's transaction; one takes milliseconds
SCHEMA = """
CREATE TABLE keys (
    id TEXT PRIMARY KEY, account TEXT NOT NULL, sha256 TEXT NOT NULL, labels INTEGER NOT NULL, top_k INTEGER,
    digits INTEGER, budget INTEGER, rate REAL, models TEXT NOT NULL, owner INTEGER NOT NULL, created REAL NOT NULL,
    revoked REAL
);
CREATE TABLE counted (
    account TEXT, weights TEXT, n INTEGER NOT NULL CHECK (n >= 0), PRIMARY KEY (account, weights)
) WITHOUT ROWID;
CREATE TABLE history (
    at REAL NOT NULL, account TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, rows INTEGER NOT NULL,
    outcome TEXT NOT NULL, requests INTEGER NOT NULL, suspicion REAL, hashes TEXT
);
CREATE INDEX history_of_account ON history (account, at);
CREATE TABLE memory (release TEXT, account TEXT, state BLOB NOT NULL, PRIMARY KEY (release, account));
"""


class SqliteKeys:
    """The keys of a ledger file; see `Keys`. Each call has a connection of its own.

    Args:
        path: of the file.
        create: whether a file that is not there is made.

    Raises:
        LedgerUnavailable: the file is missing, is no ledger, or cannot be read or written.
        StealguardError: a newer stealguard wrote it.
    """

    def __init__(self, path: str | Path, *, create: bool = True):
        self.path, self.name = Path(path), str(path)
        with _told(self.path):
            if create and not self.path.exists():
                _create(self.path)
            if not self.path.exists():
                raise LedgerUnavailable(f"There is no ledger `{self.path}`; `stealguard keys add` makes one.")
            _connect(self.path).close()

    def add_key(self, key: Key) -> None:
        """See `Keys.add_key`."""
        with self._opened() as db, _transaction(db):
            db.execute(f"INSERT INTO keys VALUES ({', '.join('?' * 12)})", _record(key))

    def keys(self) -> list[Key]:
        """See `Keys.keys`."""
        with self._opened() as db:
            return [_key(row) for row in db.execute("SELECT * FROM keys ORDER BY created, rowid")]

    def revoke(self, key_id: str) -> Key:
        """See `Keys.revoke`."""
        with self._opened() as db, _transaction(db):
            db.execute("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (time.time(), key_id))
            key = _find(db, key_id)
        if key is None:
            raise StealguardError(f"The ledger `{self.path}` has no key `{key_id}`.")
        return key

    def usage(self) -> Mapping[str, Mapping[str, int]]:
        """See `Keys.usage`."""
        counted = dict[str, dict[str, int]]()
        with self._opened() as db:
            for account, weights, n in db.execute("SELECT account, weights, n FROM counted"):
                counted.setdefault(account, {})[weights] = n
        return counted

    def history(self, account: str, since: float = 0.0) -> list[Event]:
        """See `Keys.history`."""
        with self._opened() as db:
            rows = db.execute("SELECT * FROM history WHERE account = ? AND at >= ? ORDER BY at", (account, since))
            return [Event._make((*row[:-1], tuple(json.loads(row[-1] or "[]")))) for row in rows]

    def close(self) -> None:
        """Nothing is open between two calls."""

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with _told(self.path), closing(_connect(self.path)) as db:
            yield db


class SqliteLedger(Serving):
    """A ledger in one SQLite file; see `Ledger`. One server at a time may use it; keys can be changed meanwhile.

    Args:
        path: of the file, which is made if it is not there.
        lease: rows that are counted ahead for an account and a net, at most.
        history_days: for how long the history is kept.
        memories: of accounts, for each release, that are held in the process at most; the others are in the file.
        clock: seconds.

    Raises:
        LedgerUnavailable: another server uses the file, or it cannot be read or written.
        StealguardError: a newer stealguard wrote it.
    """

    def __init__(
        self, path: str | Path, *, lease: int = LEASE, history_days: float = HISTORY_DAYS, memories: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self.path = Path(path)
        super().__init__(str(path), SqliteKeys(self.path), lease, clock)
        self._kept, self._memories = history_days * 86_400, memories
        self._lock = _locked(self.path)
        self._states: dict[str, LocalStates] = {}
        self._file = _identity(self.path)
        self._reading = Lock()
        try:
            with _told(self.path):
                self._reader = _connect(self.path)
                self._db = _connect(self.path)
                self._version = _data_version(self._db)
        except BaseException:
            self._lock.release()
            raise
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="stealguard-ledger")

    def states(self, release: str) -> LocalStates:
        """See `Ledger.states`."""
        from stealguard.boxes.accounts import LocalStates

        if release not in self._states:  # one for all models that are this release, or each would overwrite the other's
            self._states[release] = LocalStates(_Memory(self, release), self._memories)
        return self._states[release]

    async def _find(self, key_id: str) -> Key | None:
        return self._read(lambda db: _find(db, key_id))

    async def _counted(self, account: str, weights: str) -> int:
        return self._read(lambda db: _counted(db, account, weights))

    async def _changed(self) -> bool:
        """Another connection has committed; only those of other processes and of `keys` are others."""
        with _told(self.path):
            before, self._version = self._version, await self._write_soon(lambda: _data_version(self._db))
        return self._version != before

    async def _settle(self, orders: Sequence[Order]) -> Sequence[Settled]:
        return await self._write_soon(lambda: self._settle_now(orders))

    def _settle_now(self, orders: Sequence[Order]) -> list[Settled]:
        results = []
        with self._transaction("FULL") as db:
            for order in orders:
                counted = _counted(db, order.account, order.weights)
                results.append(settle(counted, order, alone=True))
                if results[-1].counted != counted:
                    row = order.account, order.weights, results[-1].counted
                    db.execute("INSERT OR REPLACE INTO counted VALUES (?, ?, ?)", row)
        return results

    async def _flush(self, events: Sequence[Event]) -> None:
        for states in self._states.values():
            await asyncio.to_thread(states.flush)
        if events:
            await self._write_soon(lambda: self._add(events))

    def _add(self, events: Sequence[Event]) -> None:
        """Write events, and remove some that are too old, more of them than were written."""
        rows = [(*event[:-1], json.dumps(event.hashes) if event.hashes else None) for event in events]
        latest = time.time() - self._kept
        with self._transaction("NORMAL") as db:
            db.executemany("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            if db.execute("SELECT at FROM history ORDER BY rowid LIMIT 1").fetchone()[0] < latest:
                oldest = "SELECT rowid FROM history ORDER BY rowid LIMIT ?"
                db.execute(f"DELETE FROM history WHERE rowid IN ({oldest}) AND at < ?", (2 * len(rows) + 100, latest))

    async def _release(self) -> None:
        await asyncio.to_thread(self._writer.shutdown)
        self._db.close()
        self._reader.close()
        self._lock.release()

    async def _write_soon(self, work: Callable[[], T]) -> T:
        """The result of work on the writer's thread, which is the only one that writes."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """A read by index takes microseconds, and no writer delays it: that is quicker than another thread."""
        with _told(self.path), self._reading:
            return query(self._reader)

    @contextmanager
    def _transaction(self, synchronous: str) -> Iterator[sqlite3.Connection]:
        if _identity(self.path) != self._file:  # SQLite would count in a file that nobody can open any more
            raise LedgerUnavailable(f"The ledger `{self.path}` was moved, deleted or replaced while a server used it.")
        with _told(self.path):
            self._db.execute(f"PRAGMA synchronous = {synchronous}")
            with _transaction(self._db):
                yield self._db


class _Memory:
    """The memory of the accounts of one release, as a `StateStore`."""

    def __init__(self, ledger: SqliteLedger, release: str):
        self._ledger, self._release = ledger, release

    def get(self, name: str, /) -> bytes | None:
        query = "SELECT state FROM memory WHERE release = ? AND account = ?"
        row = self._ledger._read(lambda db: db.execute(query, (self._release, name)).fetchone())
        return row and row[0]

    def update(self, written: Mapping[str, bytes], /) -> None:
        self._ledger._writer.submit(self._write, written).result()

    def _write(self, written: Mapping[str, bytes]) -> None:
        rows = [(self._release, name, state) for name, state in written.items()]
        with self._ledger._transaction("NORMAL") as db:
            db.executemany("INSERT OR REPLACE INTO memory VALUES (?, ?, ?)", rows)


# Rows -------------------------------------------------------------------------------------------------------


def _record(key: Key) -> tuple[Any, ...]:
    allowed = key.restriction
    return (
        key.id, key.account, key.sha256, allowed.labels, allowed.top_k, allowed.digits, key.budget, key.rate,
        json.dumps(key.models), key.owner, key.created, key.revoked,
    )  # fmt: skip


def _key(row: Sequence[Any]) -> Key:
    id_, account, sha256, labels, top_k, digits, budget, rate, models, owner, created, revoked = row
    allowed = Restriction(bool(labels), top_k, digits)
    return Key(id_, account, sha256, allowed, budget, rate, tuple(json.loads(models)), bool(owner), created, revoked)


def _find(db: sqlite3.Connection, key_id: str) -> Key | None:
    row = db.execute("SELECT * FROM keys WHERE id = ?", (key_id,)).fetchone()
    return None if row is None else _key(row)


def _counted(db: sqlite3.Connection, account: str, weights: str) -> int:
    row = db.execute("SELECT n FROM counted WHERE account = ? AND weights = ?", (account, weights)).fetchone()
    return 0 if row is None else int(row[0])


# The file ---------------------------------------------------------------------------------------------------


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What SQLite and the system say, as one line that names the path."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise LedgerUnavailable(f"The ledger `{path}` cannot be used: {reason}.") from error


def _locked(path: Path) -> FileLock:
    """The lock that a server holds on its ledger."""
    lock = FileLock(f"{path}.lock", mode=0o600, thread_local=False)  # any thread may close the ledger
    try:
        with _told(path):
            lock.acquire(blocking=False)
    except LedgerUnavailable as error:
        if isinstance(error.__cause__, Timeout):
            raise LedgerUnavailable(
                f"Another server uses the ledger `{path}`. Several servers can share one in Redis (redis://...)."
            ) from None
        raise
    return lock


def _create(path: Path) -> None:
    """Make an empty ledger aside, readable by its owner alone, and link it into place: no process meets half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(draft, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(
                f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT"
            )
        sync(draft)
        with suppress(FileExistsError):
            os.link(draft, path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def to_be_made(path: Path) -> bool:
    """Whether there is no file of that name, and `SqliteKeys` can make it. One is made beside it, and removed.

    Raises:
        LedgerUnavailable: it cannot be made.
    """
    if os.path.lexists(path):
        return False
    there = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    with _told(path), TemporaryDirectory(prefix=".stealguard-", dir=there) as folder:
        _create(Path(folder) / path.name)
    return True


def _connect(path: Path) -> sqlite3.Connection:
    # `rw`, so that a ledger that was deleted meanwhile is not made anew, without what was counted
    address = f"{path.resolve().as_uri()}?mode=rw"
    db = sqlite3.connect(address, uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        (application,), (version,) = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        if application != APPLICATION:
            raise LedgerUnavailable(f"`{path}` is not a stealguard ledger: it is another program's database, or empty.")
        if version > VERSION:
            raise StealguardError(
                f"The ledger `{path}` has version {version}; this stealguard reads version {VERSION}: use a newer one."
            )
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has that name; None for none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _data_version(db: sqlite3.Connection) -> int:
    """A number that changes when another connection commits."""
    return int(db.execute("PRAGMA data_version").fetchone()[0])


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. The write lock is taken first, so that two processes take turns instead of one failing midway."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk rolls back by itself
            db.execute("ROLLBACK")
        raise
