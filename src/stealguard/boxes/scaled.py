"""Boxes whose inputs have units of their own, and the same boxes as they look in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from stealguard.checks import from_numpy
from stealguard.data.scaling import Scaling
from stealguard.errors import require
from stealguard.types import BlackBox


class Scaled:
    """A box of inputs in [0, 1] that takes inputs in the units of `scaling`; what leaves its range is cut off.

    Raises:
        Invalid: an input is not a floating-point tensor, or has a NaN or an infinity.
    """

    def __init__(self, box: BlackBox, scaling: Scaling):
        self._box, self._scaling = box, scaling

    def __call__(self, x: Tensor, /) -> Tensor:
        x = from_numpy(x)
        require(isinstance(x, Tensor), "x", "a tensor or an array of NumPy's floats", type(x).__name__)
        require(x.is_floating_point(), "x", "of a floating dtype", x.dtype)
        require(bool(torch.isfinite(x).all()), "x", "finite", "a NaN or an infinity")
        return self._box(self._scaling.to01(x))


class Unscaled:
    """A box of inputs in the units of `scaling` that takes inputs in [0, 1], as attacks make them."""

    def __init__(self, box: BlackBox, scaling: Scaling):
        self._box, self._scaling = box, scaling

    def __call__(self, x: Tensor, /) -> Tensor:
        return self._box(self._scaling.raw(x))
