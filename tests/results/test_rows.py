from __future__ import annotations

import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.made_up import failed_row, make_row
from stealguard.errors import Invalid, StealguardError
from stealguard.results.row import COLUMNS, Row, Store, key_of, read


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "audit.sqlite")


# Rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clone_accuracy": 92.5}, "Parameter `clone_accuracy` should be a fraction in [0, 1] or None. Found 92.5."),
        ({"agreement": float("nan")}, "Found nan"),
        ({"labels": "medium"}, "`soft` or `hard`. Found `medium`"),
        ({"status": "done"}, "`status`"),
        ({"status": "failed"}, "`reason`"),
        ({"clone_accuracy": None}, "`ok` only with every accuracy measured"),
        ({"budget": -1}, "`budget`"),
        ({"queries": -1}, "`queries`"),
        ({"budget": "20000"}, "Parameter `budget` should be of type int. Found '20000'."),
        ({"seed": True}, "`seed`"),
        ({"seed": 2**63}, "64 bits"),
        ({"in_family": 1}, "`in_family`"),
        ({"seconds": float("inf")}, "`seconds`"),
        ({"key": ""}, "`key`"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid) as caught:
        make_row(**changes)
    assert message in str(caught.value)


def test_a_row_of_unknown_or_missing_fields_is_refused() -> None:
    values = asdict(make_row())
    with pytest.raises(Invalid, match="did you mean `budget`"):
        Row.of(values | {"bugdet": 1})
    with pytest.raises(Invalid, match=r"complete\. Found no key"):
        Row.of({name: values[name] for name in values if name != "key"})


def test_a_key_depends_on_what_made_it_and_not_on_the_order() -> None:
    assert key_of(a=1, b=[2, "x"]) == key_of(b=[2, "x"], a=1) != key_of(a=2, b=[2, "x"])
    assert len(key_of(a=1)) == 64


# The store


def test_rows_come_back_as_they_went_in(store: Store) -> None:
    rows = [make_row(seed=seed, when=f"2026-01-0{3 - seed}T00:00:00Z") for seed in range(3)]
    rows += [failed_row(when="2026-02-01T00:00:00Z"), make_row(in_family=True, when="2026-03-01T00:00:00Z")]
    store.put(*rows)
    assert list(store) == [rows[2], rows[1], rows[0], *rows[3:]]  # oldest first
    assert store.get(rows[4].key) == rows[4]
    assert store.get(rows[4].key).in_family is True  # type: ignore[union-attr]
    assert store.get("nothing") is None
    assert store.keys() == {row.key for row in rows}
    assert len(store) == 5


def test_putting_a_key_again_replaces_its_row(store: Store) -> None:
    failed = failed_row(key="k")
    store.put(failed)
    store.put(replace(make_row(), key="k"))
    store.put(replace(make_row(), key="k"))
    assert [row.status for row in store] == ["ok"]


def test_dropped_rows_are_gone_and_no_others(store: Store) -> None:
    rows = [make_row(seed=seed) for seed in range(3)]
    store.put(*rows)
    store.drop(rows[1].key, "unknown")
    assert store.keys() == {rows[0].key, rows[2].key}


def test_many_rows_go_in_together_or_not_at_all(store: Store) -> None:
    bad = make_row(seed=1)
    object.__setattr__(bad, "seed", object())
    with pytest.raises(StealguardError):
        store.put(make_row(), bad)
    assert len(store) == 0


def test_a_store_is_a_wal_database_that_others_can_read(store: Store) -> None:
    store.put(make_row())
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("SELECT attack, round(100 * clone_accuracy, 1) FROM rows").fetchall() == [("knockoff", 92.5)]
        assert [name for _, name, *_ in db.execute("PRAGMA table_info(rows)")] == list(COLUMNS)


def test_a_store_can_be_pickled_and_leaves_nothing_beside_it(store: Store) -> None:
    pickle.loads(pickle.dumps(store)).put(make_row())
    assert len(store) == 1
    assert [path.name for path in store.path.parent.iterdir()] == ["audit.sqlite"]


def test_opening_a_store_again_keeps_its_rows(store: Store) -> None:
    store.put(make_row())
    assert len(Store(store.path)) == 1


@pytest.mark.parametrize("content", [b"", b"hello, I am no database " * 100, b"SQLite format 3\0 but torn"])
def test_what_is_no_store_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "audit.sqlite"
    path.write_bytes(content)
    with pytest.raises(StealguardError) as caught:
        Store(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bookmarks.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE rows (url TEXT)")
    with pytest.raises(StealguardError, match="another program's database"):
        Store(path)


def test_another_schema_version_is_named(store: Store) -> None:
    with closing(sqlite3.connect(store.path)) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(StealguardError, match="version 7; this stealguard reads version 2"):
        list(store)


def test_a_store_that_has_gone_is_not_made_anew(store: Store) -> None:
    store.path.unlink()
    with pytest.raises(StealguardError, match="cannot be used"):
        store.put(make_row())
    assert not store.path.exists()


def test_a_store_where_no_file_can_be_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StealguardError, match="cannot be made"):
        Store(tmp_path / "file" / "audit.sqlite")


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_a_store_in_a_read_only_folder_can_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(make_row())
    store.path.chmod(0o444)
    store.path.parent.chmod(0o555)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # what the system says to all but root
    try:
        assert len(read(store.path)) == 1
        with pytest.raises(StealguardError, match="cannot be used"):
            store.put(make_row(seed=1))
    finally:
        store.path.parent.chmod(0o755)


# Many processes


WRITER = """
import sys
from dataclasses import replace
from stealguard.results.row import Row, Store
import json
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
row, store = Row.of(json.loads(sys.stdin.readline())), Store(path)
for seed in range(count):
    store.put(replace(row, key=f"{name}-{seed}", seed=seed))
    print(f"{name}-{seed}", flush=True)
"""


def start_writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_eight_processes_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "new" / "audit.sqlite"  # made by whoever comes first
    writers = [start_writer(path, f"writer{number}", 50) for number in range(8)]
    for writer in writers:  # they wait for their row, so that they start together
        assert writer.stdin is not None
        writer.stdin.write(json.dumps(asdict(make_row())) + "\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    assert Store(path).keys() == {f"writer{number}-{seed}" for number in range(8) for seed in range(50)}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_writer_loses_no_row_it_had_committed(store: Store) -> None:
    with start_writer(store.path, "doomed", 1_000_000) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(json.dumps(asdict(make_row())) + "\n")
        writer.stdin.flush()
        told = [writer.stdout.readline().strip() for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.read().split()
        assert writer.wait() == -signal.SIGKILL
    assert set(told) <= store.keys()
    store.put(make_row())
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# JSON lines, and reading whatever there is

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
fractions = st.floats(0, 1)


@given(texts, texts, st.integers(-(2**63), 2**63 - 1), fractions, st.booleans(), st.floats(0, 1e300))
def test_any_row_survives_json(pool: str, reason: str, seed: int, accuracy: float, own: bool, seconds: float) -> None:
    row = make_row(pool=pool, reason=reason, seed=seed, agreement=accuracy, in_family=own, seconds=seconds)
    assert Row.of(json.loads(json.dumps(asdict(row)))) == row


def test_export_and_import_are_inverse(store: Store, tmp_path: Path) -> None:
    store.put(make_row(pool="line one\nline two \u2028 three"), failed_row(seed=1), make_row(seed=2))
    store.export_jsonl(tmp_path / "rows.jsonl")
    other = Store(tmp_path / "other.sqlite")
    other.import_jsonl(tmp_path / "rows.jsonl")
    other.import_jsonl(tmp_path / "rows.jsonl")
    assert list(other) == list(store) == read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("line", ['{"key": "a"', '{"key": "a"}', "[1]", '{"key": NaN}'])
def test_a_wrong_line_is_named_and_nothing_is_imported(store: Store, tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(asdict(make_row())) + "\n" + line + "\n")
    with pytest.raises(StealguardError, match=r"rows\.jsonl`, line 2: "):
        store.import_jsonl(path)
    assert len(store) == 0


def test_a_jsonl_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StealguardError, match=r"rows\.jsonl` cannot be read"):
        read(tmp_path / "rows.jsonl")


def test_read_takes_a_store_a_jsonl_and_a_release_folder(store: Store, tmp_path: Path) -> None:
    store.put(make_row())
    store.export_jsonl(tmp_path / "rows.jsonl")
    assert read(store.path) == read(str(tmp_path / "rows.jsonl")) == read(tmp_path) == [make_row()]


def test_reading_what_is_not_there_says_so_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StealguardError, match="has no audit"):
        read(tmp_path)
    with pytest.raises(StealguardError, match="no file or folder"):
        read(tmp_path / "audit.sqlite")
    assert list(tmp_path.iterdir()) == []
