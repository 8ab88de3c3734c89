"""Children of queries: their range, their parents' parts, and inputs that are not images."""

from __future__ import annotations

import pytest
import torch

from samples import noise
from stealguard.attacks.variation import children, elastic


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 12), (16,), (4, 5)])
@pytest.mark.parametrize("combined", [True, False])
def test_children_are_new_inputs_of_the_shape_and_range(shape: tuple[int, ...], combined: bool) -> None:
    first, second = noise(30, shape), noise(30, shape, seed=4)
    made = children(first, second, combined=combined)
    assert made.shape == first.shape
    assert made.min() >= 0
    assert made.max() <= 1
    assert (made != first).flatten(1).any(dim=1).all()


def test_without_strength_nothing_is_distorted() -> None:
    x = noise(3, (2, 8, 8))
    torch.testing.assert_close(elastic(x, strength=0.0), x, atol=1e-5, rtol=0)


def test_a_distortion_stays_near_its_image() -> None:
    x = torch.zeros(50, 1, 28, 28)
    x[:, :, 10:18, 10:18] = 1
    moved = elastic(x)
    assert (moved - x).abs().mean() < 0.1
    assert not torch.equal(moved, x)


def test_a_third_are_blends_a_third_are_halves_and_a_third_are_the_first_alone() -> None:
    dark, light = torch.zeros(300, 1, 8, 8), torch.ones(300, 1, 12, 12)[:, :, :8, :8]
    blends, halves, alone = (children(dark, light)[k::3] for k in range(3))
    assert (alone == 0).all()
    inner = blends[:, :, 3:5, 3:5]
    assert 0.2 < inner.min() < inner.max() < 0.7
    assert halves[:, :, 4:].max() == 0
    assert halves[:, :, 2:4, 3:5].mean() > 0.9


def test_columns_are_of_one_parent_or_the_other() -> None:
    made = children(torch.zeros(3000, 6), torch.ones(3000, 6))[1::3]
    near = (made < 0.3) | (made > 0.7)
    assert near.all()
    assert made.round().mean().item() == pytest.approx(0.5, abs=0.05)
