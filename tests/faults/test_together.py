"""Two processes at once: one of two trainings waits for nobody, and two audits or comparisons share the work."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Commands, listing
from test_audit_kills import THEFTS, audit, rows
from test_compare_kills import compare, ended, grid, told
from test_protect_kills import content, protect

pytestmark = pytest.mark.slow

__all__ = ["grid"]  # a fixture


def test_two_trainings_of_one_release_give_one_whole_release(commands: Commands, sets: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "work", tmp_path / "other" / "work"
    runs = sorted(commands.together(folder, *protect(sets), copies=2), key=lambda run: run.status)
    assert [run.status for run in runs] == [0, 2], runs
    assert len(runs[1].errors.splitlines()) == 1
    assert "Another process is writing the release" in runs[1].errors or "does not exist yet" in runs[1].errors
    assert commands(other, *protect(sets)).status == 0
    assert content(folder / "release") == content(other / "release")
    assert listing(folder) == listing(other)


def test_two_audits_of_one_release_give_the_same_rows_and_pay_once(
    commands: Commands, sets: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    assert commands(folder, *protect(sets)).status == 0
    alone = commands(folder, *audit(sets, "release", "--store", "alone.sqlite"))
    runs = commands.together(folder, *audit(sets, "release"), copies=2)
    assert [run.status for run in runs] == [0, 0], runs
    assert rows(runs[0]) == rows(runs[1]) == rows(alone)
    assert len(rows(alone)) == THEFTS
    assert runs[0].count("unlink", ".lock") >= THEFTS
    assert not (folder / "release" / "audit.sqlite.answers").exists()


def test_two_comparisons_of_one_folder_give_the_same_rows_and_do_no_cell_twice(
    commands: Commands, grid: Path, tmp_path: Path
) -> None:
    runs = commands.together(tmp_path / "work", *compare(grid), copies=2)
    alone = commands(tmp_path / "alone" / "work", *compare(grid))
    assert [run.status for run in (*runs, alone)] == [0, 0, 0], runs
    assert told(runs[0]) == told(runs[1]) == told(alone)
    assert ended(tmp_path / "work") == ended(tmp_path / "alone" / "work")
    assert listing(tmp_path / "work") == listing(tmp_path / "alone" / "work")
