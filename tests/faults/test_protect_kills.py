"""A training that is killed at any step loses no finished epoch and no release, and resumes to the same release."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import KILLS, Commands, Ended, listing
from safetensors.torch import load_file

import stealguard as sg
from stealguard.files import sha256
from stealguard.identity import tensor_hash

pytestmark = pytest.mark.slow

EPOCHS = 3


def protect(sets: Path, *more: str, seed: int = 0) -> list[str]:
    return [
        "protect", "mlp", f"npz:{sets}/task.npz", "--outliers", f"npz:{sets}/outliers.npz", "--defense", "ini",
        "--train", "batch=64", "--epochs", str(EPOCHS), "--seed", str(seed), "--out", "release", *more,
    ]  # fmt: skip


def content(release: Path) -> dict[str, Any]:
    """All of a release that does not tell the time, its weights bit for bit."""
    recipe = dict(sg.load(release).recipe)
    for name in ("created", "seconds", "sha256"):
        recipe.pop(name, None)
    recipe["history"] = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in recipe["history"]]
    (weights, *_) = (path for path in release.glob("weights.*") if sha256(path) == recipe["weights_sha256"])
    return recipe | {"weights": {name: tensor_hash(tensor) for name, tensor in load_file(weights).items()}}


def whole(folder: Path) -> list[dict[str, Any]]:
    """The contents of all releases in a folder that can be loaded."""
    found = []
    for recipe in folder.rglob("recipe.json"):
        try:
            found.append(content(recipe.parent))
        except sg.StealguardError:
            continue
    return found


def epochs(run: Ended) -> int:
    """The number of checkpoints that a run wrote: one for each epoch."""
    return run.count("replace", "checkpoint")


@pytest.fixture(scope="module")
def undisturbed(commands: Commands, sets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The folder of a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "work"
    run = commands(folder, *protect(sets))
    assert run.status == 0, run.errors
    assert epochs(run) >= EPOCHS
    assert len(run.steps) > EPOCHS
    return folder, run


@pytest.fixture(scope="module")
def stopped(
    commands: Commands, sets: Path, undisturbed: tuple[Path, Ended], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a training that was killed after its first epoch."""
    _, run = undisturbed
    folder = tmp_path_factory.mktemp("stopped") / "work"
    first = next(
        number for number, (name, file) in enumerate(run.steps, 1) if (name, file) == ("replace", "checkpoint.pt")
    )
    assert commands(folder, *protect(sets), kill=(first, "after")).killed
    return folder


def steps(moment: str, stride: int) -> itertools.count[int]:
    return itertools.count(1 if moment == "before" else 2, stride)


@KILLS
@pytest.mark.parametrize("again", [[], ["--resume"]], ids=["first", "resumed"])
def test_a_killed_training_resumes_to_the_same_release(
    commands: Commands, sets: Path, undisturbed: tuple[Path, Ended], stopped: Path, tmp_path: Path,
    again: list[str], moment: str, stride: int,
) -> None:  # fmt: skip
    """Whether it is killed in its first run, or once more while it resumes."""
    expected, run = undisturbed
    kills = 0
    for step in steps(moment, stride):
        folder = tmp_path / f"{step}" / "work"
        if again:
            shutil.copytree(stopped, folder)
        killed = commands(folder, *protect(sets, *again), kill=(step, moment))
        if killed.status == 0:
            break
        assert killed.killed, killed.errors
        kills += 1
        told = f"killed {moment} step {step}, after {killed.steps[-1:]}"
        finished = (folder / "release").exists()
        if finished:
            assert whole(folder) == [content(expected / "release")], f"{told}: the release's name means a whole release"
        resumed = commands(folder, *protect(sets, "--resume"))
        assert finished or resumed.status == 0, f"{told}: {resumed.errors}"
        assert content(folder / "release") == content(expected / "release"), told
        assert epochs(killed) + epochs(resumed) <= epochs(run) + 1, f"{told}: epochs were trained twice"
        assert listing(folder) == listing(expected), f"{told}: files are left over"
        shutil.rmtree(folder.parent)
    assert kills >= 10 / stride
    print(f"protect {' '.join(again)}: {kills} kills {moment} a step")


@KILLS
def test_a_killed_overwrite_keeps_the_old_release_until_the_new_one_is_whole(
    commands: Commands, sets: Path, undisturbed: tuple[Path, Ended], tmp_path: Path, moment: str, stride: int
) -> None:
    expected, _ = undisturbed
    first = tmp_path / "first" / "work"
    assert commands(first, *protect(sets, seed=1)).status == 0
    old, new = content(first / "release"), content(expected / "release")
    assert old != new
    kills = 0
    for step in steps(moment, stride):
        folder = tmp_path / f"{step}" / "work"
        shutil.copytree(first, folder)
        killed = commands(folder, *protect(sets, "--overwrite"), kill=(step, moment))
        if killed.status == 0:
            break
        assert killed.killed, killed.errors
        kills += 1
        told = f"killed {moment} step {step}, after {killed.steps[-1:]}"
        assert any(found in (old, new) for found in whole(folder)), f"{told}: neither release is left"
        resumed = commands(folder, *protect(sets, "--overwrite", "--resume"))
        assert resumed.status == 0, f"{told}: {resumed.errors}"
        assert content(folder / "release") == new, told
        assert listing(folder) == listing(expected), f"{told}: files are left over"
        shutil.rmtree(folder.parent)
    assert kills >= 10 / stride
    print(f"protect --overwrite: {kills} kills {moment} a step")
