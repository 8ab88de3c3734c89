"""The order of rows follows from the seed and the epoch alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stealguard.training.sampler import Sampler


def steps(sampler: Sampler, epoch: int = 0) -> tuple[Tensor, Tensor]:
    rows, drawn = zip(*sampler.epoch(epoch), strict=True)
    return torch.stack(rows), torch.stack(drawn)


@pytest.mark.parametrize(("rows", "batch"), [(10, 3), (12, 4), (7, 128), (5, 5)])
def test_an_epoch_has_every_row_at_most_once_in_full_batches(rows: int, batch: int) -> None:
    sampler = Sampler(rows, batch, outliers=4, seed=0)
    order, drawn = steps(sampler)
    size = min(rows, batch)
    assert order.shape == drawn.shape == (rows // size, size)
    assert sampler.steps == len(order)
    assert len(order.unique()) == order.numel()
    assert drawn.min() >= 0
    assert drawn.max() < 4


def test_the_seed_and_the_epoch_decide_and_nothing_else() -> None:
    sampler = Sampler(40, 8, outliers=9, seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    order, drawn = steps(sampler, 3)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    for a, b in zip((order, drawn), steps(Sampler(40, 8, outliers=9, seed=1), 3), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(order, steps(sampler, 4)[0])
    assert not torch.equal(order, steps(Sampler(40, 8, outliers=9, seed=2), 3)[0])
    assert torch.equal(order, steps(Sampler(40, 8, seed=1), 3)[0]), "outliers do not shift the order"


def test_without_outliers_none_are_drawn() -> None:
    assert steps(Sampler(10, 5, seed=0))[1].shape == (2, 0)


def test_a_batch_of_one_row_has_it_twice() -> None:
    order, drawn = steps(Sampler(3, 1, outliers=5, seed=0))
    assert order.shape == drawn.shape == (3, 2)
    assert torch.equal(order[:, 0], order[:, 1])
    assert sorted(order[:, 0].tolist()) == [0, 1, 2]
