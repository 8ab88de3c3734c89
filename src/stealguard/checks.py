"""Rules for tensors and numbers that come from outside. Each breach is one `Invalid`: parameter, rule and value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stealguard.errors import require


def from_numpy(x: Any) -> Tensor:
    """An array of NumPy's floats as a tensor that shares nothing with it; anything else as it is."""
    if isinstance(x, np.ndarray) and x.dtype.char in "efd":
        return torch.from_numpy(x.astype(x.dtype.newbyteorder("=")))
    return x  # type: ignore[no-any-return]


def check_inputs(x: Tensor, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """Inputs are a dense floating tensor (N, *shape), N at least 1, of values in [0, 1]; returned in float32.

    An array of NumPy's floats counts as one.

    Raises:
        Invalid: a rule is broken; names the parameter, the rule and the value found.
    """
    return check_numbers(x, name, shape, unit=True).to(torch.float32)


def check_numbers(x: Tensor, name: str, shape: tuple[int, ...] | None = None, *, unit: bool = False) -> Tensor:
    """As `check_inputs` for inputs in units of their own: finite values of any size, in [0, 1] only where `unit`."""
    x = from_numpy(x)
    require(isinstance(x, Tensor), name, "a tensor or an array of NumPy's floats", type(x).__name__)
    require(x.layout == torch.strided, name, "a dense tensor", x.layout)
    require(x.is_floating_point(), name, "of a floating dtype", x.dtype)
    if shape is not None:
        expected = f"(N, {', '.join(map(str, shape))})"
        require(tuple(x.shape[1:]) == shape and x.dim() > 1, name, f"of shape {expected}", tuple(x.shape))
    require(x.dim() > 1 and len(x) > 0, name, "of shape (N, ...) with at least one row", tuple(x.shape))
    require(x.numel() > 0, name, "not empty", tuple(x.shape))
    low, high = (v.item() for v in torch.aminmax(x))
    require(low == low, name, "free of NaN", f"{int(x.isnan().sum())} NaN" if low != low else "none")
    check_range(low, high, name, unit=unit)
    return x


def check_range(low: float, high: float, name: str, *, unit: bool) -> None:
    """The least and the greatest of some values are finite, and in [0, 1] where `unit` is set."""
    found = f"values from {low:g} to {high:g}"
    require(not unit or (low >= 0 and high <= 1), name, "in [0, 1]", found)
    require(math.isfinite(low) and math.isfinite(high), name, "of finite values", found)


def check_labels(y: Tensor, n: int, classes: int, name: str) -> None:
    """Labels are an integer tensor (n,) in 0 .. classes - 1."""
    found = getattr(y, "dtype", type(y))
    integers = isinstance(y, Tensor) and not y.is_floating_point() and not y.is_complex()
    require(integers, name, "an integer tensor", found)
    require(y.shape == (n,), name, f"of shape ({n},)", tuple(y.shape))
    low, high = (v.item() for v in torch.aminmax(y))
    require(low >= 0 and high < classes, name, f"in 0 .. {classes - 1}", f"labels from {low} to {high}")


def check_seed(seed: object, parameter: str = "seed") -> None:
    """Raise `Invalid` unless a seed is a whole number of 64 bits, which is what recipes and stores hold."""
    whole = isinstance(seed, int) and not isinstance(seed, bool) and -(2**63) <= seed < 2**63
    require(whole, parameter, "a whole number of 64 bits", repr(seed))
