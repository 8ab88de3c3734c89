"""Audit rows and where they are kept: a frozen `Row`, and a SQLite `Store` that many processes may write at once.

A row is flat on purpose: whoever has `sqlite3`, pandas or a pager can read it without this package.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import MISSING, asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from stealguard.errors import StealguardError, nearest, require
from stealguard.files import write_text
from stealguard.identity import fingerprint

STATUSES = ("ok", "skip", "failed")
LABELS = ("soft", "hard")
ACCURACIES = ("benign_accuracy", "clone_accuracy", "agreement")


@dataclass(frozen=True)
class Row:
    """One audited cell: one thief, of one seed, against one release.

    Accuracies are fractions in [0, 1] on the victim's test set, None where nothing could be measured.
    Raises `Invalid` where a value breaks its rule; a row whose `status` is not "ok" has to give its `reason`.
    """

    key: str  # SHA-256 (hex) of everything that made the row: see `key_of`
    release: str  # name of the release's folder
    release_hash: str
    data: str
    net: str
    defense: str  # "none" for the undefended baseline
    defense_settings: str  # JSON
    attack: str
    attack_settings: str  # JSON
    pool: str
    pool_hash: str
    in_family: bool  # the pool is a held-out part of the defender's own outliers
    labels: str  # "soft" | "hard"
    answers: str  # what the thief does with the answers: "" for nothing, treatments joined by "+"
    own: int  # labelled task samples that the thief owns
    budget: int  # answers the thief may have
    queries: int  # answers the thief did have
    seed: int
    clone: str
    benign_accuracy: float | None
    clone_accuracy: float | None
    agreement: float | None  # share of the test set on which the clone's top-1 equals the victim's
    no_theft: float | None  # accuracy that the owned samples give without any theft; None where none are owned
    seconds: float
    status: str  # "ok" | "skip" | "failed"
    reason: str
    when: str  # ISO 8601, UTC
    version: str  # stealguard's
    torch: str
    python: str
    hardware: str
    threads: int
    # Facts of the victim rather than of the theft; missing in rows of version 0.1.0's first format.
    setting: str = ""  # SHA-256 (hex) of all that the victim was made from but its seed: see `release.setting_of`
    victim_seed: int = 0
    top_1_kept: float | None = None  # share of the test set whose most probable class the guard leaves as it was
    distortion: float | None = None  # mean L1 distance that the guard puts between answers, in [0, 2]
    calibration_error: float | None = None  # of the answers, in [0, 1]
    ms_1: float | None = None  # milliseconds that an answer takes, one at a time
    ms_64: float | None = None  # and an input in a batch of 64
    plain_ms_1: float | None = None  # the same of a plain net of the same architecture
    plain_ms_64: float | None = None
    protect_seconds: float | None = None  # that training the victim took

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_type(field.name, str(field.type), getattr(self, field.name))
        for name in (*ACCURACIES, "no_theft", "top_1_kept", "calibration_error"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, name, "a fraction in [0, 1] or None", value)
        require(bool(self.key), "key", "the hash of what made the row", "an empty string")
        require(self.labels in LABELS, "labels", "`soft` or `hard`", f"`{self.labels}`")
        require(self.status in STATUSES, "status", "`ok`, `skip` or `failed`", f"`{self.status}`")
        require(self.own >= 0, "own", "a non-negative integer", self.own)
        require(self.budget >= 0, "budget", "a non-negative integer", self.budget)
        require(self.queries >= 0, "queries", "a non-negative integer", self.queries)
        for name in ("seconds", "distortion", "ms_1", "ms_64", "plain_ms_1", "plain_ms_64", "protect_seconds"):
            value = getattr(self, name)
            require(value is None or 0 <= value < math.inf, name, "finite and non-negative", value)
        complete = all(getattr(self, name) is not None for name in ACCURACIES)
        require(self.status != "ok" or complete, "status", "`ok` only with every accuracy measured", self.status)
        require(self.status == "ok" or bool(self.reason), "reason", f"given where `{self.status}`", "none")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Row:
        """A row from a mapping of its fields; only those with a default may be missing. Else raises `Invalid`."""
        values = {RENAMED.get(name, name): value for name, value in values.items()}
        for name in values:
            require(name in COLUMNS, name, "a field of a row", f"`{name}`{nearest(name, COLUMNS)}")
        missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]
        require(not missing, "row", "complete", f"no {', '.join(missing)}")
        return cls(**values)


RENAMED = {"thief": "clone", "own_family": "in_family"}  # columns of rows of version 0.1.0
COLUMNS = tuple(field.name for field in fields(Row))

_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
    "float | None": (float, int, type(None)),
}


def _check_type(name: str, kind: str, value: Any) -> None:
    ok = isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))  # a bool is an int too
    require(ok, name, f"of type {kind}", repr(value))
    require(kind != "int" or -(2**63) <= value < 2**63, name, "an integer of 64 bits", value)  # what SQLite holds


def key_of(**what: object) -> str:
    """SHA-256 (hex) of JSON-able values, whatever their order: equal makings give equal keys, in every process."""
    return fingerprint(what)


# The store --------------------------------------------------------------------------------------------------

APPLICATION = int.from_bytes(b"stgd")  # marks the file as ours, for `file` and for us
SCHEMA = 2
BUSY = 60.0  # seconds that a process waits for another's write; one takes milliseconds

_SQL_TYPES = {"str": "TEXT", "int": "INTEGER", "bool": "INTEGER", "float": "REAL", "float | None": "REAL"}


class Store:
    """Rows in one SQLite file (WAL mode), made if there is none; safe for many writing processes.

    Each call opens the file, does one transaction and closes it, so a store may be pickled, forked and forgotten;
    a process that is killed loses at most the transaction it was in. Raises `StealguardError`, naming the path, for
    a file that is no store or of another schema version, and when a write cannot be done (disk full, no permission).
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.exists():
            _create(self.path)
        with self._open():
            pass  # a file that is no store should say so now, not after the first hour-long cell

    def put(self, *rows: Row) -> None:
        """Write rows in one transaction; a row whose key is there already takes the old one's place."""
        marks = ", ".join("?" * len(COLUMNS))
        with self._open() as db, db:
            db.executemany(f"INSERT OR REPLACE INTO rows VALUES ({marks})", map(astuple, rows))

    def drop(self, *keys: str) -> None:
        """Forget the rows of these keys, where there are any."""
        with self._open() as db, db:
            db.executemany("DELETE FROM rows WHERE key = ?", [(key,) for key in keys])

    def get(self, key: str) -> Row | None:
        """The row of that key, or None."""
        with self._open() as db:
            found = db.execute("SELECT * FROM rows WHERE key = ?", (key,)).fetchone()
        return found and _row(found)

    def keys(self, *statuses: str) -> set[str]:
        """The keys of every row or, where statuses are given, of those with one of them."""
        among = f"WHERE status IN ({', '.join('?' * len(statuses))})" if statuses else ""
        with self._open() as db:
            return {key for (key,) in db.execute(f"SELECT key FROM rows {among}", statuses)}

    def __iter__(self) -> Iterator[Row]:
        """Every row, oldest first."""
        with self._open() as db:
            found = db.execute('SELECT * FROM rows ORDER BY "when", key').fetchall()
        return map(_row, found)

    def __len__(self) -> int:
        with self._open() as db:
            return int(db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def export_jsonl(self, path: str | Path) -> None:
        """Write every row as one JSON object a line; the file appears whole or not at all."""
        write_text(Path(path), "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in self))

    def import_jsonl(self, path: str | Path) -> None:
        """Put every row of an exported file, or none of them if one is wrong."""
        self.put(*_read_jsonl(Path(path)))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(_uri(self.path), uri=True, timeout=BUSY)) as db:
                _check_schema(db, self.path)
                yield db
        except sqlite3.OperationalError as error:
            raise StealguardError(f"The row store `{self.path}` cannot be used: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise StealguardError(f"`{self.path}` is not a stealguard row store: {error}.") from error


def read(path: str | Path) -> list[Row]:
    """Rows from a store, from an exported `.jsonl`, or from a release folder that holds `audit.sqlite`.

    Raises `StealguardError`, naming the path (and the line of a `.jsonl`), where there are none to be had.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "audit.sqlite"
        if not path.exists():
            raise StealguardError(f"`{path.parent}` has no audit.sqlite: run `stealguard audit {path.parent}` first.")
    if not path.exists():
        raise StealguardError(f"There is no file or folder `{path}`.")
    return _read_jsonl(path) if path.suffix == ".jsonl" else list(Store(path))


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if line.strip():
                rows.append(_parse(line, f"`{path}`, line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise StealguardError(f"`{path}` cannot be read: {error}.") from error
    return rows


def _parse(line: str, where: str) -> Row:
    try:
        values = json.loads(line)
        require(isinstance(values, dict), "row", "a JSON object", type(values).__name__)
        return Row.of(values)
    except ValueError as error:  # `Invalid` is one, and so is what json raises
        raise StealguardError(f"{where}: {error}") from error


def _row(values: Iterable[Any]) -> Row:
    named = dict(zip(COLUMNS, values, strict=True))
    return Row(**named | {"in_family": bool(named["in_family"])})


def _create(path: Path) -> None:
    """Make an empty store aside and link it into place: no process ever meets half of one, and the first one wins."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    columns = ", ".join(f'"{field.name}" {_SQL_TYPES[str(field.type)]}' for field in fields(Row))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(draft)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"CREATE TABLE rows ({columns}, PRIMARY KEY (key))")
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {SCHEMA}")
        with suppress(FileExistsError):
            os.link(draft, path)
    except (OSError, sqlite3.Error) as error:
        raise StealguardError(f"The row store `{path}` cannot be made: {error}.") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        raise StealguardError(f"`{path}` is not a stealguard row store: it is another program's database, or empty.")
    if version != SCHEMA:
        raise StealguardError(f"`{path}` has row schema version {version}; this stealguard reads version {SCHEMA}.")


def _uri(path: Path) -> str:
    # `rw`, so that a store deleted meanwhile is not made anew, empty. WAL wants to write beside the file even to
    # read it; where nothing can be written, nothing can change either.
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return f"{path.resolve().as_uri()}?{'mode=rw' if writable else 'mode=ro&immutable=1'}"
