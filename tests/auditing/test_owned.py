"""Owned samples: drawn by the seed, queried near, and trained on without any theft."""

from __future__ import annotations

import torch

from samples import mlp, noise, task
from stealguard.auditing.owned import fine_tuned, near, no_theft_accuracy, owned
from stealguard.data import Split
from stealguard.data.inputs import Stored

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


def test_the_no_theft_accuracy_is_what_the_samples_alone_give() -> None:
    torch.manual_seed(0)
    line = no_theft_accuracy(mlp(), owned(TRAIN, 60, seed=0), TEST, seed=0)
    assert line > 0.8
    one = no_theft_accuracy(mlp(), owned(TRAIN, 1, seed=0), TEST, seed=0)
    assert one < line


def test_fine_tuning_helps_a_clone_that_knows_nothing() -> None:
    torch.manual_seed(0)
    clone = mlp()
    before = (clone(TEST_X).argmax(1) == TEST_Y).double().mean()
    tuned = fine_tuned(clone, owned(TRAIN, 400, seed=0), seed=0)
    assert (tuned(TEST_X).argmax(1) == TEST_Y).double().mean() > before + 0.1
