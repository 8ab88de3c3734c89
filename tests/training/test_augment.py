"""Augmentations keep shape, range and content where they should."""

from __future__ import annotations

import pytest
import torch

from stealguard.training.augment import AUGMENTATIONS, affine, crop, half_affine


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (3, 3, 32, 32)])
def test_shape_range_and_seed(name: str, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    torch.manual_seed(0)
    one = AUGMENTATIONS[name](x)
    torch.manual_seed(0)
    assert torch.equal(one, AUGMENTATIONS[name](x))
    assert one.shape == x.shape
    assert one.min() >= 0
    assert one.max() <= 1 + 1e-6
    assert (name == "none") == torch.equal(one, x)


def test_half_of_the_images_are_moved_and_no_table_is() -> None:
    x, table = torch.rand(7, 1, 28, 28), torch.rand(7, 16)
    moved = half_affine(x)
    assert [torch.equal(a, b) for a, b in zip(moved, x, strict=True)] == 3 * [False] + 4 * [True]
    assert torch.equal(half_affine(table), table)


def test_crop_moves_whole_images() -> None:
    x = torch.zeros(200, 2, 9, 9)
    x[:, 0, 4, 4], x[:, 1, 4, 4] = 1.0, 0.5
    moved = crop(x, pad=2)
    assert torch.equal(moved[:, 0], 2 * moved[:, 1])
    places = {tuple(p.nonzero()[0].tolist()) for p in moved[:, 0]}
    assert places == {(i, j) for i in range(2, 7) for j in range(2, 7)}


def test_affine_without_motion_is_the_identity() -> None:
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(affine(x, angle=0, scale=0, shift=0), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_generator_of_its_own_leaves_torchs_alone(name: str) -> None:
    x = torch.rand(5, 3, 8, 8)
    before = torch.get_rng_state()
    one, same, other = (AUGMENTATIONS[name](x, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, same)
    assert (name == "none") == torch.equal(one, other)
