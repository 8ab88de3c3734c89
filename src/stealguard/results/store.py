"""Where rows are kept: a SQLite store that several processes may write at once, and JSON lines to publish.

Importing this loads no torch.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from stealguard.errors import Invalid, StealguardError, require
from stealguard.files import read_text, real, runs, write_text
from stealguard.results import tables
from stealguard.results.migrations import FORMAT
from stealguard.results.row import Row
from stealguard.results.rows import Rows

STORE = "audit.sqlite"  # in a release folder
BUSY = 60.0  # seconds that a process waits for another's write; one takes milliseconds
COPIES = 20  # times that a store that is being written to is copied before the reader gives up


class Store:
    """Rows in one SQLite file, made if there is none; safe for several processes that read and write at once.

    The tables are `victims`, `thefts` and `metrics (owner, name, value)`; in SQL, a theft and what it reached is

        SELECT attack, value FROM thefts JOIN metrics ON owner = key WHERE name = 'clone_accuracy'

    Each call opens the file, does one transaction and closes it, so that a store may be pickled and forked. When `put`
    returns, the rows are on the disk: a commit waits for it (`synchronous = FULL`), which takes milliseconds where a
    row takes minutes. A store of an older version is migrated in place, in one transaction, when it is opened.

    The journal is SQLite's write-ahead log, whose index is shared memory: all processes must be on one machine, and
    the file on a local disk. Network file systems (NFS, SMB, Lustre) do not work; on a cluster, give each job a store
    on its own disk and collect them as JSON lines (`export_jsonl`, `import_jsonl`).

    Where there is no permission to write the file or its folder, a store is read from a copy in the temporary folder,
    its log included.

    Raises:
        StealguardError: the file is no store, its version is newer than this package, or it cannot be made, read or
            written (full disk, no permission); names the path.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with _told(self.path, "made"):
            if not self.path.exists():
                _create(self.path)
            _sweep(self.path)
        with self._reading():
            pass  # a file that is no store is found out now, and not after an hour's work

    def put(self, *rows: Row) -> None:
        """Write rows in one transaction; a row takes the place of the one with the same key."""
        with self._writing() as db:
            tables.insert(db, rows)

    def drop(self, *keys: str) -> None:
        """Remove the rows of these keys, where there are any."""
        with self._writing() as db:
            tables.delete(db, keys)

    def get(self, key: str) -> Row | None:
        """The row of that key, or None."""
        with self._reading() as db:
            found = tables.select(db, key)
        return found[0] if found else None

    def keys(self, *statuses: str) -> set[str]:
        """The keys of every row or, where statuses are given, of those with one of them."""
        among = f"WHERE status IN ({', '.join('?' * len(statuses))})" if statuses else ""
        with self._reading() as db:
            return {key for (key,) in db.execute(f"SELECT key FROM thefts {among}", statuses)}

    def __iter__(self) -> Iterator[Row]:
        """Every row, oldest first."""
        with self._reading() as db:
            found = tables.select(db)
        return iter(found)

    def __len__(self) -> int:
        with self._reading() as db:
            return int(db.execute("SELECT count(*) FROM thefts").fetchone()[0])

    def export_jsonl(self, path: str | Path) -> None:
        """Write every row as one JSON object a line; the file appears whole or not at all."""
        with _told(Path(path), "written"):
            lines = (json.dumps(row.record(), ensure_ascii=False) for row in self)
            write_text(Path(path), "".join(f"{line}\n" for line in lines))

    def import_jsonl(self, path: str | Path) -> None:
        """Put every row of an exported file, or none of them if one is wrong."""
        self.put(*_read_jsonl(Path(path)))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A connection within one transaction."""
        if not _writable(self.path):
            raise StealguardError(f"The row store `{self.path}` cannot be used to write: there is no permission.")
        with _told(self.path), closing(_connect(self.path)) as db, _transaction(db):
            yield db

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _told(self.path):
            if _writable(self.path):
                with closing(_connect(self.path)) as db:
                    yield db
            else:
                with tempfile.TemporaryDirectory() as folder, closing(_connect(_copy(self.path, Path(folder)))) as db:
                    yield db


def read(path: str | Path) -> Rows:
    """Rows from a store, from an exported `.jsonl`, or from a release folder that holds `audit.sqlite`.

    Raises:
        StealguardError: there are none to be had; names the path, and the line of a `.jsonl`.

    Example:
        >>> len(results.read("docs/results/mnist-lenet5.jsonl"))
        36
    """
    path = Path(path)
    with _told(path, "read"):
        if path.is_dir():
            path = path / STORE
            if not path.exists():
                raise StealguardError(f"`{path.parent}` has no {STORE}: run `stealguard audit {path.parent}` first.")
        if not path.exists():
            raise StealguardError(f"There is no file or folder `{path}`.")
        if not path.is_file():
            raise StealguardError(f"`{path}` is not a regular file, so it holds no rows.")
    return Rows(_read_jsonl(path) if path.suffix == ".jsonl" else Store(path))


def _read_jsonl(path: Path) -> list[Row]:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise StealguardError(f"`{path}` cannot be read: {error}.") from error
    lines = enumerate(text.split("\n"), start=1)  # JSON may hold other signs that `splitlines` would split at
    return [_parse(line, f"`{path}`, line {number}") for number, line in lines if line.strip()]


def _parse(line: str, where: str) -> Row:
    try:
        values = json.loads(line)
        require(isinstance(values, dict), "row", "a JSON object", type(values).__name__)
        return Row.of(values)
    except (ValueError, RecursionError) as error:  # `Invalid` is a ValueError, and so is what json raises
        raise StealguardError(f"{where}: {error}") from error


# Files ------------------------------------------------------------------------------------------------------


@contextmanager
def _told(path: Path, how: str = "used") -> Iterator[None]:
    """What SQLite and the system say, as one line that names the path."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StealguardError(f"The row store `{path}` cannot be {how}: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise StealguardError(f"`{path}` is not a stealguard row store: {error}.") from error
    except OSError as error:
        raise StealguardError(f"The rows `{path}` cannot be {how}: {error.strerror or error}.") from error
    except (Invalid, json.JSONDecodeError, TypeError) as error:
        raise StealguardError(f"The row store `{path}` holds a row that breaks a rule: {error}") from error


def _create(path: Path) -> None:
    """Make an empty store aside and link it into place: no process meets half of one, and the first one made stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):  # SQLite would not say why
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))
    draft = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}")
    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            with _transaction(db):
                tables.create(db)
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove the drafts of stores whose processes were killed; the process is named by its number."""
    prefix = f".{path.name}."
    for draft in path.parent.glob(f"{prefix}*.{'[0-9a-f]' * 32}*"):
        number = draft.name.removeprefix(prefix).partition(".")[0]
        if number.isdecimal() and not runs(int(number)):
            with suppress(OSError):  # a reader may not write here
                draft.unlink()


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to a store of the present version, which it is made if it is older."""
    # `rw`, so that a store that was deleted meanwhile is not made anew, empty
    db = sqlite3.connect(f"{real(path).as_uri()}?mode=rw", uri=True, timeout=BUSY, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = FULL")
        while (version := _version(db, path)) < FORMAT:
            with _transaction(db):
                if _version(db, path) == version:  # else another process was faster
                    tables.migrate(db, version)
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection, path: Path) -> int:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if strange := tables.strangers(db):
        raise StealguardError(f"`{path}` is not a stealguard row store: it has views or triggers ({strange[0]}).")
    if application != tables.APPLICATION:
        raise StealguardError(f"`{path}` is not a stealguard row store: it is another program's database, or empty.")
    if version != FORMAT and version not in tables.READERS:
        known = ", ".join(map(str, [*tables.READERS, FORMAT]))
        hint = ": use a newer version of stealguard" if version > FORMAT else ""
        raise StealguardError(
            f"`{path}` has row schema version {version}; this stealguard reads version {known}{hint}."
        )
    return int(version)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. The write lock is taken first, so that two processes take turns instead of one failing midway."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:  # a full disk rolls back by itself
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _writable(path: Path) -> bool:
    """SQLite writes beside the file even to read it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _copy(path: Path, folder: Path) -> Path:
    """A copy of the file and of its write-ahead log, in `folder`, as both were at one moment."""
    path = real(path)
    copy, log = folder / path.name, path.with_name(f"{path.name}-wal")
    for _ in range(COPIES):
        before = path.stat()
        shutil.copyfile(path, copy)
        copy.with_name(log.name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.copyfile(log, copy.with_name(log.name))
        after = path.stat()
        if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):  # else the log was moved into it
            return copy
        time.sleep(0.05)
    raise StealguardError(f"The row store `{path}` is being written to without a pause: try again later.")
