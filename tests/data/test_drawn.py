"""Strokes and textures: the same from the same seed, in range, and not all alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from stealguard.data.formats import Arrays
from stealguard.data.generated.drawn import strokes, textures

Make = Callable[..., Arrays]


@pytest.mark.parametrize("make", [strokes, textures])
class TestBoth:
    def test_the_seed_alone_decides(self, make: Make) -> None:
        torch.manual_seed(123)
        first = make(300)["x"]
        torch.manual_seed(7)
        assert np.array_equal(first, make(300)["x"])
        assert not np.array_equal(first, make(300, seed=1)["x"])
        assert (first.shape, first.dtype) == ((300, 1, 28, 28), np.uint8)

    def test_no_two_are_alike_and_the_bar_moves(self, make: Make) -> None:
        done: list[float] = []
        x = make(300, tick=done.append)["x"]
        assert len(np.unique(x.reshape(300, -1), axis=0)) > 295
        assert done == [250, 300]


def test_strokes_are_white_on_black_in_a_digits_place() -> None:
    x = strokes(500)["x"]
    assert (x.max(axis=(1, 2, 3)) > 120).all()
    assert 0.03 < x.mean() / 255 < 0.3
    assert x[:, :, [0, -1]].mean() < 3
    centre = (x.sum(axis=(0, 1, 2)) * np.arange(28)).sum() / x.sum()
    assert 12.5 < centre < 14.5


def test_textures_fill_the_image_or_are_shapes_on_black() -> None:
    x = textures(500)["x"]
    black = (x == 0).all(axis=(1, 2, 3)).mean()
    assert black < 0.05
    assert 0.2 < (x[:, 0, 0, 0] > 0).mean() < 0.9
