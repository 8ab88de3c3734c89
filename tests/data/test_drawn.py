"""Strokes and textures: the same from the same seed, in range, and not all alike."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stealguard.data import SETS, store
from stealguard.data.formats import Arrays
from stealguard.data.generated.drawn import _normal, strokes, textures

Make = Callable[..., Arrays]


@pytest.mark.parametrize("make", [strokes, textures])
class TestBoth:
    @pytest.mark.slow
    def test_the_seed_alone_decides(self, make: Make) -> None:
        torch.manual_seed(123)
        first = make(50)["x"]
        torch.manual_seed(7)
        assert np.array_equal(first, make(50)["x"])
        assert not np.array_equal(first, make(50, seed=1)["x"])
        assert (first.shape, first.dtype) == ((50, 1, 28, 28), np.uint8)

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


def test_normal_numbers_are_those_of_torch_but_for_their_last_bits() -> None:
    for shape in (250, 1, 3, 3), (7, 1, 5, 5), (1, 16), (1, 1, 3, 3):
        ours, theirs = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
        expected = torch.randn(shape, generator=theirs).double()
        assert torch.allclose(_normal(ours, *shape), expected, rtol=0, atol=1e-5)
        assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.slow
def test_pixels_do_not_depend_on_the_kernels_of_the_processor(tmp_path: Path) -> None:
    code = """
import sys, numpy
from stealguard.data.generated.drawn import strokes, textures
numpy.savez(sys.argv[1], strokes=strokes(40)["x"], textures=textures(40)["x"])
"""
    plain = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.npz")], check=True, env=plain)
    with np.load(tmp_path / "x.npz") as found:
        assert np.array_equal(found["strokes"], strokes(40)["x"])
        assert np.array_equal(found["textures"], textures(40)["x"])


@pytest.mark.thorough
def test_textures_are_those_whose_hash_is_pinned() -> None:
    assert store.digest(textures()) == SETS["textures"].sha256
