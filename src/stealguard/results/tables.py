"""The three tables of a store, `victims`, `thefts` and `metrics`: rows in, rows out. Importing this loads no torch.

A victim's facts are written once and never changed: their `id` is a hash of them all. Facts that were measured again
and differ are another entry, which the thefts measured with them point to.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from stealguard.identity import fingerprint
from stealguard.results.migrations import FORMAT, upgraded
from stealguard.results.row import Row, VictimFacts

APPLICATION = int.from_bytes(b"stgd")  # marks the file as a row store, for `file` and for this package

_SQL_TYPES = {
    "str": "TEXT NOT NULL", "int": "INTEGER NOT NULL", "int | None": "INTEGER", "bool": "INTEGER NOT NULL",
    "float": "REAL NOT NULL", "tuple[str, ...]": "TEXT NOT NULL", "tuple[int, ...]": "TEXT NOT NULL",
}  # fmt: skip


def _columns(of: type[VictimFacts] | type[Row]) -> dict[str, str]:
    """The columns of a dataclass, with the types of its fields; tuples are kept as JSON."""
    return {f.name: str(f.type) for f in fields(of) if f.name not in ("metrics", "victim")}


VICTIM, THEFT = _columns(VictimFacts), _columns(Row)
_ROW = "thefts.victim, " + ", ".join(f'thefts."{name}"' for name in THEFT)
_FACTS = "victims.id, " + ", ".join(f'victims."{name}"' for name in VICTIM)


def create(db: sqlite3.Connection) -> None:
    """Empty tables of the present format, in a database that has none of these names."""
    victim, theft = (", ".join(f'"{name}" {_SQL_TYPES[kind]}' for name, kind in of.items()) for of in (VICTIM, THEFT))
    db.execute(f"CREATE TABLE victims (id TEXT NOT NULL PRIMARY KEY, {victim})")
    db.execute(f"CREATE TABLE thefts (victim TEXT NOT NULL REFERENCES victims (id), {theft}, PRIMARY KEY (key))")
    db.execute(
        "CREATE TABLE metrics (owner TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, "
        "PRIMARY KEY (owner, name)) WITHOUT ROWID"
    )
    db.execute("CREATE INDEX thefts_by_victim ON thefts (victim)")
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {FORMAT}")


def strangers(db: sqlite3.Connection) -> list[str]:
    """Names of views and triggers, which no store has: reading a table could run whatever they say, without an end."""
    return [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type IN ('view', 'trigger')")]


def migrate(db: sqlite3.Connection, version: int) -> None:
    """Tables of an older version become those of the present one, within the caller's transaction."""
    rows = [Row.of(upgraded({"format": version, **record})) for record in READERS[version](db)]
    for name in OLD_TABLES[version]:
        db.execute(f"DROP TABLE {name}")
    create(db)
    insert(db, rows)


def _flat_records(db: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    """The records of version 2: one table, a column for each field."""
    found = db.execute("SELECT * FROM rows")
    names = [column[0] for column in found.description]
    for values in found.fetchall():
        record = dict(zip(names, values, strict=True))
        yield {name: bool(value) if name in ("own_family", "in_family") else value for name, value in record.items()}


READERS: dict[int, Callable[[sqlite3.Connection], Iterator[dict[str, Any]]]] = {2: _flat_records}
OLD_TABLES = {2: ("rows",)}


def insert(db: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Write rows; a row takes the place of the one with the same key."""
    for row in rows:
        victim = row.victim.record()
        identity = fingerprint(victim)
        _write(db, "INSERT OR IGNORE INTO victims", [identity, *_values(VICTIM, victim)])
        _write(db, "INSERT OR REPLACE INTO thefts", [identity, *_values(THEFT, row.record())])
        db.execute("DELETE FROM metrics WHERE owner = ?", (row.key,))
        for owner, measured in ((identity, row.victim.metrics), (row.key, row.metrics)):
            db.executemany(
                "INSERT OR IGNORE INTO metrics VALUES (?, ?, ?)",
                [(owner, name, value) for name, value in measured.items()],
            )
    _forget_victims_without_thefts(db)


def delete(db: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Remove the thefts of these keys, and victims that have no others."""
    for key in keys:
        db.execute("DELETE FROM thefts WHERE key = ?", (key,))
        db.execute("DELETE FROM metrics WHERE owner = ?", (key,))
    _forget_victims_without_thefts(db)


def select(db: sqlite3.Connection, key: str | None = None) -> list[Row]:
    """Every row, oldest first, or the one of `key`."""
    where, of = ("WHERE thefts.key = ?", (key,)) if key is not None else ("", ())
    thefts = db.execute(f'SELECT {_ROW} FROM thefts {where} ORDER BY "when", key', of).fetchall()
    owners = [key, thefts[0][0]] if key is not None and thefts else None
    metrics = _metrics(db, owners)
    facts = db.execute(f"SELECT {_FACTS} FROM victims {'WHERE id = ?' if owners else ''}", owners[1:] if owners else ())
    victims = {
        identity: VictimFacts(**_fields(VICTIM, values), metrics=metrics[identity])
        for identity, *values in facts.fetchall()
    }
    return [_row(victims.get(identity), _fields(THEFT, values), metrics) for identity, *values in thefts]


def _row(victim: VictimFacts | None, theft: Mapping[str, Any], metrics: Mapping[str, dict[str, float]]) -> Row:
    return Row(
        victim=victim,  # type: ignore[arg-type]  # a row checks it
        metrics=metrics[theft["key"]],
        **theft,
    )


def _metrics(db: sqlite3.Connection, owners: list[str] | None) -> Mapping[str, dict[str, float]]:
    """Metrics by owner and name: of these owners, or of all."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    where = "WHERE owner IN (?, ?)" if owners else ""
    for owner, name, value in db.execute(f"SELECT owner, name, value FROM metrics {where}", owners or ()):
        found[owner][name] = value
    return found


def _write(db: sqlite3.Connection, into: str, values: list[Any]) -> None:
    db.execute(f"{into} VALUES ({', '.join('?' * len(values))})", values)


def _values(columns: Mapping[str, str], record: Mapping[str, Any]) -> list[Any]:
    return [
        json.dumps(record[name]) if isinstance(record[name], list) else record[name] for name in columns
    ]  # fmt: skip


def _fields(columns: Mapping[str, str], values: Iterable[Any]) -> dict[str, Any]:
    return {name: _field(kind, value) for (name, kind), value in zip(columns.items(), values, strict=True)}


def _field(kind: str, value: Any) -> Any:
    if kind.startswith("tuple"):
        return tuple(json.loads(value))
    return bool(value) if kind == "bool" else value


def _forget_victims_without_thefts(db: sqlite3.Connection) -> None:
    orphans = "SELECT id FROM victims WHERE NOT EXISTS (SELECT 1 FROM thefts WHERE victim = victims.id)"
    db.execute(f"DELETE FROM metrics WHERE owner IN ({orphans})")
    db.execute(f"DELETE FROM victims WHERE id IN ({orphans})")
