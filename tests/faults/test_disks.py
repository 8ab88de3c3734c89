"""A disk that is full or cannot be written to: one line, nothing half-written, and the same command ends well later."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import Commands, listing
from test_audit_kills import audit, rows
from test_compare_kills import compare, grid, told
from test_protect_kills import content, protect

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="limits as on POSIX")]

__all__ = ["grid"]  # a fixture

LARGE = 150_000
ROOM = [pytest.param(1_000, marks=pytest.mark.thorough), 20_000, pytest.param(LARGE, marks=pytest.mark.thorough)]
# bytes that a file may have: a line, rows but no weights, weights but no checkpoint


@pytest.mark.parametrize("room", ROOM)
def test_a_training_on_a_full_disk_is_one_line_and_can_go_on(
    commands: Commands, sets: Path, tmp_path: Path, room: int
) -> None:
    folder = tmp_path / "work"
    stopped = commands(folder, *protect(sets), room=room)
    assert stopped.status == 2, stopped.errors
    assert len(stopped.errors.splitlines()) == 1, stopped.errors
    assert not (folder / "release").exists()
    assert commands(folder, *protect(sets, "--resume")).status == 0
    undisturbed = tmp_path / "other" / "work"
    assert commands(undisturbed, *protect(sets)).status == 0
    assert content(folder / "release") == content(undisturbed / "release")
    assert listing(folder) == listing(undisturbed)


@pytest.mark.parametrize("room", ROOM)
def test_an_audit_on_a_full_disk_is_one_line_and_can_go_on(
    commands: Commands, sets: Path, tmp_path: Path, room: int
) -> None:
    folder = tmp_path / "work"
    assert commands(folder, *protect(sets)).status == 0
    stopped = commands(folder, *audit(sets, "release", "--store", "rows.sqlite"), room=room)
    assert stopped.status == 2 or (room == LARGE and stopped.status == 0), stopped.errors
    assert "Traceback" not in stopped.errors
    assert stopped.errors.count("error: ") == (stopped.status == 2)
    done = commands(folder, *audit(sets, "release", "--store", "rows.sqlite"))
    assert done.status == 0, done.errors
    assert rows(done) == rows(commands(folder, *audit(sets, "release", "--store", "other.sqlite")))


@pytest.mark.parametrize("room", ROOM)
def test_a_comparison_on_a_full_disk_tells_why_and_can_go_on(
    commands: Commands, grid: Path, tmp_path: Path, room: int
) -> None:
    folder = tmp_path / "work"
    stopped = commands(folder, *compare(grid), room=room)
    assert stopped.status in (1, 2), stopped.errors
    assert "Traceback" not in stopped.errors
    done, undisturbed = commands(folder, *compare(grid)), commands(tmp_path / "other" / "work", *compare(grid))
    assert done.status == undisturbed.status == 0, done.errors
    assert told(done) == told(undisturbed)


def test_a_folder_without_permission_is_one_line(commands: Commands, sets: Path, grid: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    assert commands(folder, *protect(sets)).status == 0
    made = listing(folder)
    for path in (folder / "release", folder):
        path.chmod(0o500)
    try:
        for command in (protect(sets, "--overwrite"), audit(sets, "release"), compare(grid)):
            refused = commands(folder, *command)
            assert refused.status == 2, refused.errors
            assert refused.errors.splitlines()[-1].startswith("error: ")
            assert refused.errors.count("ermission") == 1, refused.errors
            assert listing(folder) == made
    finally:
        for path in (folder, folder / "release"):
            path.chmod(0o700)
