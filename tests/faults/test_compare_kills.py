"""A comparison that is killed at any step loses no cell that was done, and goes on to the same rows."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import KILLS, Commands, Ended, listing
from test_audit_kills import rows

from grids import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grid(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net that is trained once and answers in two ways, each robbed once: five cells, with the weights shared."""
    path = tmp_path_factory.mktemp("grid") / "grid.yaml"
    path.write_text(yaml.safe_dump(tiny(sets, nets="mlp", defenses=["none", "rounding"], labels="hard", seeds=[0])))
    return path


def compare(grid: Path) -> list[str]:
    return ["compare", str(grid), "--out", "out", "--json"]


def begun(folder: Path) -> list[str]:
    """The keys of the cells that were begun, in order."""
    notes = [json.loads(line) for line in (folder / "out" / "attempts.jsonl").read_text().splitlines()]
    return [note["key"] for note in notes if note["event"] == "begins"]


def ended(folder: Path) -> set[str]:
    path = folder / "out" / "attempts.jsonl"
    notes: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {note["key"] for note in notes if note["event"] == "ends"}


def told(run: Ended) -> list[dict[str, Any]]:
    """The rows, without what tells the time."""
    return sorted(rows(run), key=lambda row: (row["victim"]["name"], row["key"]))


@KILLS
def test_a_killed_comparison_ends_with_the_same_rows(
    commands: Commands, grid: Path, tmp_path: Path, moment: str, stride: int
) -> None:
    expected = tmp_path / "0" / "work"
    undisturbed = commands(expected, *compare(grid))
    assert undisturbed.status == 0, undisturbed.errors
    assert [row["status"] for row in told(undisturbed)] == ["ok", "ok"]
    kills = 0
    for step in itertools.count(1 if moment == "before" else 2, stride):
        folder = tmp_path / str(step) / "work"
        killed = commands(folder, *compare(grid), kill=(step, moment))
        if killed.status == 0:
            break
        assert killed.killed, killed.errors
        kills += 1
        where = f"killed {moment} step {step}, after {killed.steps[-1:]}"
        done = ended(folder)
        resumed = commands(folder, *compare(grid))
        assert resumed.status == 0, f"{where}: {resumed.errors}"
        assert told(resumed) == told(undisturbed), where
        assert done.isdisjoint(begun(folder)[len(done) + 1 :]), f"{where}: a cell that was done was done again"
        assert listing(folder) == listing(expected), f"{where}: files are left over"
        shutil.rmtree(folder.parent)
    assert kills >= 10 / stride
    print(f"compare: {kills} kills {moment} a step")
