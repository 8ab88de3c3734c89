"""Owned samples: drawn by the seed, queried near, and trained on without any theft."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import stealguard as sg
from samples import blobs, linear, mlp, noise, task
from stealguard.attacks import Knockoff
from stealguard.auditing.owned import fine_tuned, near, near_task, no_theft_accuracy, owned
from stealguard.data import SETS, Split
from stealguard.data import task as task_of
from stealguard.data.formats import Arrays
from stealguard.data.inputs import Stored
from stealguard.data.sets import made
from stealguard.progress import Tick

X, Y, TEST_X, TEST_Y = task(400, (16,), 3)
TRAIN, TEST = Split(Stored(X), Y), Split(Stored(TEST_X), TEST_Y)


def test_owned_samples_follow_from_the_seed_and_grow_with_n() -> None:
    ten, again, other = (owned(TRAIN, 10, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(ten.x[:], again.x[:])
    assert not torch.equal(ten.x[:], other.x[:])
    more = owned(TRAIN, 30, seed=0)
    assert torch.equal(more.x[:10], ten.x[:]), "more samples include these"
    assert torch.equal(more.y[:10], ten.y)


def test_queries_near_the_task_begin_with_the_samples_themselves() -> None:
    for x in (noise(7), noise(7, (16,))):
        pool = near(x, 50, seed=0)
        assert pool.shape == (50, *x.shape[1:])
        assert torch.equal(pool[:7], x)
        assert pool.min() >= 0
        assert pool.max() <= 1
        assert torch.equal(pool, near(x, 50, seed=0))
        assert not torch.equal(pool, near(x, 50, seed=1))
        assert torch.equal(near(x, 3, seed=0), x)


@pytest.mark.slow
def test_the_no_theft_accuracy_is_what_the_samples_alone_give() -> None:
    torch.manual_seed(0)
    line = no_theft_accuracy(mlp(), owned(TRAIN, 60, seed=0), TEST, seed=0)
    assert line > 0.8
    one = no_theft_accuracy(mlp(), owned(TRAIN, 1, seed=0), TEST, seed=0)
    assert one < line


@pytest.mark.slow
def test_fine_tuning_helps_a_clone_that_knows_nothing() -> None:
    torch.manual_seed(0)
    clone = mlp()
    before = (clone(TEST_X).argmax(1) == TEST_Y).double().mean()
    tuned = fine_tuned(clone, owned(TRAIN, 400, seed=0), seed=0)
    assert (tuned(TEST_X).argmax(1) == TEST_Y).double().mean() > before + 0.1


class TestNearTask:
    @pytest.fixture
    def digits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """Replace the set `digits` by 120 inputs of the task for training, and 24 for testing."""
        monkeypatch.setenv("STEALGUARD_DATA", str(tmp_path / "store"))

        def make(n: int, seed: int, tick: Tick) -> Arrays:
            x, y = blobs(n, seed=5)
            x, y = (255 * x).byte().numpy(), y.numpy()
            return {"train_x": x[:120], "train_y": y[:120], "test_x": x[120:], "test_y": y[120:]}

        def replaced(**changes: object) -> None:
            spec = replace(SETS["digits"], sizes=(120, 24), sources=made("digits", make, 144), **changes)  # type: ignore[arg-type]
            monkeypatch.setitem(SETS, "digits", spec)

        return replaced

    def test_its_labels_are_those_of_the_attacker(self, digits: Callable[..., None]) -> None:
        digits()
        found = near_task("digits", task_of(task(300)))
        assert found is not None
        assert (len(found.x), len(found.y)) == (120, 120)
        assert near_task("letters", task_of(task(300))) is None, "a pool without labels"
        assert near_task("own:20", task_of(task(300))) is None
        assert near_task("digits", task_of(task(300, (16,), 3))) is None, "a task of another kind"

    @pytest.mark.thorough
    @pytest.mark.slow
    def test_a_row_has_what_the_pool_gives_without_theft(
        self, digits: Callable[..., None], folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digits()
        attack, clone = Knockoff(budget=100, training=sg.Training(epochs=1, batch=32)), linear()
        (row,) = sg.audit(folder, [attack], "digits", "soft", data=task(), clone=clone, progress=False)
        assert (row.pool, row.queries, row.own, row.in_family) == ("digits", 100, 0, False)
        assert row.metrics["no_theft_pool"] > 0.8, "inputs of the task itself, with their labels"
        (other,) = sg.audit(folder, [attack], noise(150), "soft", data=task(), clone=clone, progress=False)
        assert "no_theft_pool" not in other.metrics
