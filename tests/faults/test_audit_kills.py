"""An audit that is killed at any step pays for no answer twice, and goes on to the same rows."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import KILLS, Commands, Ended, listing

pytestmark = pytest.mark.slow

BUDGET, THEFTS = 100, 4
TIMES = ("seconds", "when", "created", "ms", "milliseconds")


def audit(sets: Path, victim: str, *more: str) -> list[str]:
    return [
        "audit", victim, "--pools", f"npz:{sets}/pool.npz", "--budget", str(BUDGET), "--seeds", "0", "1",
        "--set", "training.epochs=1", "training.batch=32", "--json", *more,
    ]  # fmt: skip


def rows(run: Ended) -> list[dict[str, Any]]:
    """The rows that an audit printed, without what tells the time."""
    return [timeless(json.loads(line)) for line in run.printed.splitlines() if line.startswith("{")]


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not any(word in k.split("_") for word in TIMES)}
    return value


def reaches_the_same_rows(
    commands: Commands, start: Path, folder: Path, arguments: list[str], moment: str, stride: int
) -> None:
    """Kill the audit at each of its steps in a copy of `start`, and let the same command finish it."""
    shutil.copytree(start, folder / "0" / "work")
    undisturbed = commands(folder / "0" / "work", *arguments)
    assert undisturbed.status == 0, undisturbed.errors
    expected = rows(undisturbed)
    assert [row["status"] for row in expected] == ["ok"] * THEFTS
    for step in itertools.count(1 if moment == "before" else 2, stride):
        work = folder / str(step) / "work"
        shutil.copytree(start, work)
        killed = commands(work, *arguments, kill=(step, moment))
        if killed.status == 0:
            break
        assert killed.killed, killed.errors
        told = f"killed {moment} step {step}, after {killed.steps[-1:]}"
        resumed = commands(work, *arguments)
        assert resumed.status == 0, f"{told}: {resumed.errors}"
        assert rows(resumed) == expected, told
        assert listing(work) == listing(folder / "0" / "work"), f"{told}: files are left over"
    assert step > len(undisturbed.steps) > THEFTS
    print(f"audit: {len(range(1 if moment == 'before' else 2, step, stride))} kills {moment} a step")


@pytest.fixture(scope="module")
def release(commands: Commands, sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undefended release after one epoch."""
    folder = tmp_path_factory.mktemp("victim") / "work"
    made = commands(
        folder, "protect", "mlp", f"npz:{sets}/task.npz", "--defense", "none", "--epochs", "1", "--out", "release"
    )
    assert made.status == 0, made.errors
    return folder


@KILLS
def test_a_killed_audit_of_a_release_ends_with_the_same_rows(
    commands: Commands, sets: Path, release: Path, tmp_path: Path, moment: str, stride: int
) -> None:
    reaches_the_same_rows(commands, release, tmp_path, audit(sets, "release"), moment, stride)


@pytest.fixture(scope="module")
def strangers(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool whose inputs can be told from those of the task: their first pixel is 1."""
    folder = tmp_path_factory.mktemp("stranger") / "work"
    folder.mkdir()
    with np.load(sets / "task.npz") as task:
        parts = dict(task)
    pool = np.load(sets / "pool.npz")["x"]
    for name in ("train_x", "test_x"):
        parts[name][:, 0, 0, 0] = 0
    pool[:, 0, 0, 0] = 1
    np.savez(folder / "task.npz", **parts)
    np.savez(folder / "pool.npz", x=pool)
    return folder


@KILLS
def test_no_answer_of_a_given_model_is_paid_for_twice(
    commands: Commands, strangers: Path, tmp_path: Path, moment: str, stride: int
) -> None:
    arguments = [
        *audit(strangers, "counting:answer"), "--data", f"npz:{strangers}/task.npz", "--clone", "mlp",
        "--store", "rows.sqlite",
    ]  # fmt: skip
    reaches_the_same_rows(commands, strangers, tmp_path, arguments, moment, stride)
    paid = {int(path.parent.name): path.stat().st_size for path in tmp_path.glob("*/paid")}
    assert paid.pop(0) == THEFTS * BUDGET
    # Answers that were not on the disk yet at the kill are asked again: before a step, those of one question.
    assert max(paid.values()) <= (THEFTS + (moment == "before")) * BUDGET
    assert min(paid.values()) == THEFTS * BUDGET
