"""Older rows: flat JSON lines and stores of version 2 become rows of the present format."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from report.made_up import make_row
from results.test_row_store import read_only, write_together
from stealguard.errors import Invalid, StealguardError
from stealguard.results import Row, Store, read
from stealguard.results.migrations import FORMAT, upgraded

PUBLISHED = Path(__file__).parents[2] / "docs" / "results"


def flat(path: Path) -> bool:
    """Whether its lines are rows of version 0.1."""
    with path.open() as file:
        return "thief" in json.loads(file.readline())


FILES = sorted(filter(flat, PUBLISHED.glob("*.jsonl")))

COLUMNS = """key TEXT, release TEXT, release_hash TEXT, data TEXT, net TEXT, defense TEXT, defense_settings TEXT,
attack TEXT, attack_settings TEXT, pool TEXT, pool_hash TEXT, own_family INTEGER, labels TEXT, answers TEXT,
own INTEGER, budget INTEGER, queries INTEGER, seed INTEGER, thief TEXT, benign_accuracy REAL, clone_accuracy REAL,
agreement REAL, no_theft REAL, seconds REAL, status TEXT, reason TEXT, "when" TEXT, version TEXT, torch TEXT,
python TEXT, hardware TEXT, threads INTEGER, setting TEXT, victim_seed INTEGER, top_1_kept REAL, distortion REAL,
calibration_error REAL, ms_1 REAL, ms_64 REAL, plain_ms_1 REAL, plain_ms_64 REAL, protect_seconds REAL"""


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def old_store(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A store as version 0.1.0 made it: one table, schema version 2."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"CREATE TABLE rows ({COLUMNS}, PRIMARY KEY (key))")
        names = [name for _, name, *_ in db.execute("PRAGMA table_info(rows)")]
        marks = ", ".join("?" * len(names))
        db.executemany(f"INSERT INTO rows VALUES ({marks})", [[row[name] for name in names] for row in rows])
        db.execute(f"PRAGMA application_id = {int.from_bytes(b'stgd')}")
        db.execute("PRAGMA user_version = 2")
    return path


@pytest.mark.no_cover
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_published_file_is_read_and_says_what_it_said(path: Path) -> None:
    rows, flat = read(path), records(path)
    assert len(rows) == len(flat) > 0
    for row, old in zip(rows, flat, strict=True):
        assert (row.key, row.victim.name, row.victim.key) == (old["key"], old["release"], old["release_hash"])
        assert (row.victim.data, row.victim.net, row.victim.defense) == (old["data"], old["net"], old["defense"])
        assert (row.clone, row.treatment, row.in_family) == (old["thief"], old["answers"], old["own_family"])
        assert (row.benign_accuracy, row.clone_accuracy) == (old["benign_accuracy"], old["clone_accuracy"])
        assert (row.agreement, row.no_theft, row.accounts) == (old["agreement"], old["no_theft"], 1)
        assert (row.victim.setting, row.victim.seed) == (old.get("setting", ""), old.get("victim_seed", 0))
        assert row.victim.metrics.get("protect_seconds") == old.get("protect_seconds")
        assert row.victim.classes == 10
        assert Row.of(json.loads(json.dumps(row.record()))) == row


def test_a_newer_format_and_an_unknown_column_are_named() -> None:
    with pytest.raises(Invalid, match=r"at most 3, the newest that this version of stealguard reads\. Found 4"):
        upgraded({"format": FORMAT + 1})
    with pytest.raises(Invalid, match="did you mean `budget`"):
        Row.of(records(PUBLISHED / "robust.jsonl")[0] | {"bugdet": 1})
    assert upgraded(make_row().record()) == make_row().record()


def test_a_store_of_version_2_is_migrated_in_place(tmp_path: Path) -> None:
    path = old_store(tmp_path / "audit.sqlite", records(PUBLISHED / "robust-owners.jsonl"))
    rows = {row.key: row for row in read(PUBLISHED / "robust-owners.jsonl")}
    assert {row.key: row for row in Store(path)} == rows
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert names == {"victims", "thefts", "metrics"}
    Store(path).put(make_row())
    assert len(read(path)) == len(rows) + 1


def test_a_store_of_version_2_without_permission_to_write_is_read_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old_store(tmp_path / "audit.sqlite", records(PUBLISHED / "robust-owners.jsonl"))
    store, content = Store.__new__(Store), path.read_bytes()
    store.path = path
    read_only(store, monkeypatch)
    try:
        assert len(read(path)) == 45
        assert path.read_bytes() == content
    finally:
        tmp_path.chmod(0o755)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    rows = records(PUBLISHED / "robust-owners.jsonl")
    path = old_store(tmp_path / "audit.sqlite", [*rows[1:], rows[0] | {"labels": "medium"}])
    with pytest.raises(StealguardError, match=r"audit\.sqlite` holds a row that breaks a rule: .*`medium`"):
        Store(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        assert db.execute("SELECT count(*) FROM rows").fetchone() == (len(rows),)


@pytest.mark.slow
def test_two_processes_that_open_an_old_store_at_once_lose_nothing(tmp_path: Path) -> None:
    rows = records(PUBLISHED / "robust.jsonl")
    path = old_store(tmp_path / "audit.sqlite", rows)
    write_together(path, 2, 5)
    assert len(Store(path)) == len(rows) + 10


KILLED = """
import os, signal, sys
from stealguard.results import Store, tables
insert = tables.insert
def halfway(db, rows):
    insert(db, rows[:5])
    os.kill(os.getpid(), signal.SIGKILL)
tables.insert = halfway
Store(sys.argv[1])
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_migration_is_done_again(tmp_path: Path) -> None:
    rows = records(PUBLISHED / "robust-owners.jsonl")
    path = old_store(tmp_path / "audit.sqlite", rows)
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -9
    assert len(Store(path)) == len(rows)
