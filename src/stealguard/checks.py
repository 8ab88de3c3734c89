"""Rules for tensors that come from outside. Each breach is one `Invalid` that names parameter, rule and value."""

from __future__ import annotations

import torch
from torch import Tensor

from stealguard.errors import require


def check_inputs(x: Tensor, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """Inputs are a floating tensor (N, *shape), N at least 1, finite and in [0, 1]; returned in float32.

    Raises:
        Invalid: a rule is broken; names the parameter, the rule and the value found.
    """
    require(isinstance(x, Tensor), name, "a tensor", type(x).__name__)
    require(x.is_floating_point(), name, "of a floating dtype", x.dtype)
    if shape is not None:
        expected = f"(N, {', '.join(map(str, shape))})"
        require(tuple(x.shape[1:]) == shape and x.dim() > 1, name, f"of shape {expected}", tuple(x.shape))
    require(x.dim() > 1 and len(x) > 0, name, "of shape (N, ...) with at least one row", tuple(x.shape))
    low, high = (v.item() for v in torch.aminmax(x))
    require(low == low and high == high, name, "free of NaN", f"{int(x.isnan().sum())} NaN")
    require(low >= 0 and high <= 1, name, "in [0, 1]", f"values from {low:g} to {high:g}")
    return x.to(torch.float32)


def check_labels(y: Tensor, n: int, classes: int, name: str) -> None:
    """Labels are an integer tensor (n,) in 0 .. classes - 1."""
    require(
        isinstance(y, Tensor) and not y.is_floating_point(), name, "an integer tensor", getattr(y, "dtype", type(y))
    )
    require(y.shape == (n,), name, f"of shape ({n},)", tuple(y.shape))
    low, high = (v.item() for v in torch.aminmax(y))
    require(low >= 0 and high < classes, name, f"in 0 .. {classes - 1}", f"labels from {low} to {high}")
