"""The store: rows come back as they went in, whatever other processes, permissions and disks do."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from report.made_up import failed_row, make_row
from stealguard.errors import StealguardError
from stealguard.results import Row, Store, read
from stealguard.results.tables import THEFT, VICTIM
from waiting import CAP


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "audit.sqlite")


def test_rows_come_back_as_they_went_in(store: Store) -> None:
    rows = [make_row(seed=seed, when=f"2026-01-0{3 - seed}T00:00:00Z") for seed in range(3)]
    rows += [failed_row(when="2026-02-01T00:00:00Z"), make_row(in_family=True, when="2026-03-01T00:00:00Z")]
    rows += [make_row(when="2026-04-01T00:00:00Z", outliers=("a", "b"), shape=(1, 28, 28), classes=None)]
    store.put(*rows)
    assert list(store) == [rows[2], rows[1], rows[0], *rows[3:]]  # oldest first
    assert store.get(rows[4].key) == rows[4]
    assert store.get(rows[4].key).in_family is True  # type: ignore[union-attr]
    assert store.get("nothing") is None
    assert store.keys() == {row.key for row in rows}
    assert store.keys("failed") == {rows[3].key}
    assert len(store) == 6


def test_the_facts_of_a_victim_are_stored_once(store: Store) -> None:
    store.put(*(make_row(seed=seed) for seed in range(5)), make_row(seed=5, ms_1=0.7))
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("SELECT count(*) FROM victims").fetchone() == (2,)  # `ms_1` was measured in one of them
        assert db.execute("SELECT count(*) FROM thefts").fetchone() == (6,)


def test_putting_a_key_again_replaces_its_row(store: Store) -> None:
    failed = failed_row(key="k", metrics={"tries": 3})
    store.put(failed)
    store.put(replace(make_row(), key="k"))
    store.put(replace(make_row(), key="k"))
    assert [row.status for row in store] == ["ok"]
    assert [row.metrics for row in store] == [make_row().metrics]


def test_dropped_rows_are_gone_and_no_others(store: Store) -> None:
    rows = [make_row(seed=seed) for seed in range(3)]
    store.put(*rows)
    store.drop(rows[1].key, "unknown")
    assert store.keys() == {rows[0].key, rows[2].key}


def test_nothing_is_left_of_a_victim_without_rows(store: Store) -> None:
    row = make_row()
    store.put(row)
    store.drop(row.key)
    with closing(sqlite3.connect(store.path)) as db:
        assert [db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("victims", "metrics")] == [0, 0]


def test_many_rows_go_in_together_or_not_at_all(store: Store) -> None:
    bad = make_row(seed=1)
    object.__setattr__(bad, "seed", object())
    with pytest.raises(StealguardError):
        store.put(make_row(), bad)
    assert len(store) == 0


def test_a_store_is_a_wal_database_that_others_can_read(store: Store) -> None:
    store.put(make_row())
    query = "SELECT attack, round(100 * value, 1) FROM thefts JOIN metrics ON owner = key WHERE name = 'clone_accuracy'"
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute(query).fetchall() == [("knockoff", 92.5)]
        assert [name for _, name, *_ in db.execute("PRAGMA table_info(thefts)")] == ["victim", *THEFT]
        assert [name for _, name, *_ in db.execute("PRAGMA table_info(victims)")] == ["id", *VICTIM]


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
    with pytest.raises(StealguardError, match="version 7; this stealguard reads version 2, 3: use a newer version"):
        list(store)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE thefts SET labels = 'medium'",
        "UPDATE thefts SET attack_settings = '['",
        "UPDATE victims SET shape = '[1'",
        "UPDATE victims SET shape = '3'",
        "UPDATE metrics SET value = 7",
        "DELETE FROM victims",
        "DROP TABLE metrics",
    ],
)
def test_rows_that_were_tampered_with_are_one_clear_line(store: Store, damage: str) -> None:
    store.put(make_row())
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute(damage)
    with pytest.raises(StealguardError) as caught:
        list(store)
    assert str(store.path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["VIEW endless AS", "TRIGGER endless AFTER INSERT ON thefts BEGIN"])
def test_a_store_that_brings_sql_of_its_own_is_refused(store: Store, what: str) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    body = f"INSERT INTO metrics SELECT i, 'x', 0.5 FROM ({endless}); END" if "TRIGGER" in what else endless
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute(f"CREATE {what} {body}")
    for use in (list, lambda store: store.put(make_row())):
        with pytest.raises(
            StealguardError, match=r"is not a stealguard row store: it has views or triggers \(endless\)"
        ):
            use(store)


def test_a_store_that_has_gone_is_not_made_anew(store: Store) -> None:
    store.path.unlink()
    with pytest.raises(StealguardError, match="cannot be used"):
        store.put(make_row())
    assert not store.path.exists()


@pytest.mark.parametrize("name", ["file/audit.sqlite", "a" * 300])
def test_a_store_where_no_file_can_be_is_one_clear_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StealguardError, match="cannot be made"):
        Store(tmp_path / name)


def test_the_draft_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, old = (tmp_path / f".rows.sqlite.{number}.{'a' * 32}" for number in (os.getpid(), ended.pid))
    for path in (mine, old, old.with_name(f"{old.name}-wal"), tmp_path / "other"):
        path.touch()
    Store(tmp_path / "rows.sqlite")
    assert sorted(path.name for path in tmp_path.iterdir()) == [mine.name, "other", "rows.sqlite"]


# Permissions and disks


def read_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.path.chmod(0o444)
    store.path.parent.chmod(0o555)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # what the system says to all but root


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_a_store_in_a_read_only_folder_can_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(make_row())
    read_only(store, monkeypatch)
    try:
        assert len(read(store.path)) == 1
        with pytest.raises(StealguardError, match="cannot be used to write: there is no permission"):
            store.put(make_row(seed=1))
    finally:
        store.path.parent.chmod(0o755)


def test_a_reader_without_permission_sees_the_rows_in_the_log_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is at work, or was killed, leaves rows in the write-ahead log."""
    store.put(*(make_row(seed=seed) for seed in range(5)))
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("SELECT count(*) FROM thefts").fetchone()  # while it is open, the log is not moved into the file
        store.put(*(make_row(seed=seed) for seed in range(5, 12)))
        names = sorted(path.name for path in store.path.parent.iterdir())
        assert (store.path.parent / "audit.sqlite-wal").stat().st_size > 0
        read_only(store, monkeypatch)
        try:
            assert len(store) == len(read(store.path)) == 12
            assert sorted(path.name for path in store.path.parent.iterdir()) == names
        finally:
            store.path.parent.chmod(0o755)


FULL_DISK = """
import resource, signal, sys
from stealguard.results import Store, read
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store, rows = Store(sys.argv[1]), read(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    store.put(*rows)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits as on POSIX")
def test_a_disk_that_is_full_is_one_clear_line_and_the_old_rows_stay(store: Store, tmp_path: Path) -> None:
    many = Store(tmp_path / "many.sqlite")
    many.put(*(make_row(seed=seed, hardware="x" * 1_000) for seed in range(400)))
    many.export_jsonl(tmp_path / "many.jsonl")
    store.put(make_row(key="before"))
    command = [sys.executable, "-c", FULL_DISK, str(store.path), str(tmp_path / "many.jsonl")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("StealguardError The row store"), found
    assert "cannot be used" in found.stdout
    assert store.keys() == {"before"}


# Many processes


WRITER = """
import sys
from dataclasses import replace
from stealguard.results import Row, Store
import json
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
row = Row.of(json.loads(sys.stdin.readline()))
store = Store(path)
for seed in range(count):
    store.put(replace(row, key=f"{name}-{seed}", seed=seed))
    print(f"{name}-{seed}", flush=True)
"""


def start_writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write_together(path: Path, writers: int, count: int) -> None:
    """Processes that open one store and write to it at once; they wait for their row, so that they start together."""
    started = [start_writer(path, f"writer{number}", count) for number in range(writers)]
    for writer in started:
        assert writer.stdin is not None
        writer.stdin.write(json.dumps(make_row().record()) + "\n")
        writer.stdin.flush()
    for writer in started:
        _, errors = writer.communicate(timeout=CAP)
        assert writer.returncode == 0, errors
    assert Store(path).keys() >= {f"writer{number}-{seed}" for number in range(writers) for seed in range(count)}


@pytest.mark.slow
def test_eight_processes_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "new" / "audit.sqlite"  # made by the process that comes first
    write_together(path, 8, 50)
    assert len(Store(path)) == 400


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_writer_loses_no_row_it_had_committed(store: Store) -> None:
    with start_writer(store.path, "doomed", 1_000_000) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(json.dumps(make_row().record()) + "\n")
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


def test_export_and_import_are_inverse(store: Store, tmp_path: Path) -> None:
    store.put(make_row(pool="line one\nline two \u2028 three"), failed_row(seed=1), make_row(seed=2))
    store.export_jsonl(tmp_path / "rows.jsonl")
    other = Store(tmp_path / "other.sqlite")
    other.import_jsonl(tmp_path / "rows.jsonl")
    other.import_jsonl(tmp_path / "rows.jsonl")
    assert list(other) == list(store) == read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "line", ['{"key": "a"', '{"key": "a"}', "[1]", '{"key": NaN}', '{"format": 4}', '{"format": true}', "[" * 100_000]
)
def test_a_wrong_line_is_named_and_nothing_is_imported(store: Store, tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(make_row().record()) + "\n" + line + "\n")
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
    with pytest.raises(StealguardError, match="cannot be read"):
        read(tmp_path / ("a" * 300))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(StealguardError, match="not a regular file"):
        read(tmp_path / "rows.jsonl")


def test_a_row_keeps_its_type_through_the_store(store: Store) -> None:
    store.put(make_row())
    assert [type(row) for row in store] == [Row]
