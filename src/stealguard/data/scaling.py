"""From the units in which users have their numbers to [0, 1], and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from stealguard.errors import Invalid, require


@dataclass(frozen=True)
class Scaling:
    """An affine map of the range from `low` to `high` to [0, 1], with one pair of bounds or one for each column.

    Args:
        low, high: finite bounds, both of length 1 (images, signals) or D (tables, inputs of shape (N, D)). A column
            whose bounds are equal is constant: it is 0 in [0, 1], whatever its value.

    Raises:
        Invalid: the bounds are not finite, not ordered, or of different lengths.

    >>> scaling = Scaling((10.0,), (20.0,))
    >>> scaling.to01(torch.tensor([[10.0, 15.0, 99.0]]))
    tensor([[0.0000, 0.5000, 1.0000]])
    >>> scaling.raw(torch.tensor([[0.5]]))
    tensor([[15.]])
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        require(len(self.low) == len(self.high) >= 1, "scaling", "as many low bounds as high ones", self)
        ordered = all(-math.inf < a <= b < math.inf for a, b in zip(self.low, self.high, strict=True))
        require(ordered, "scaling", "finite bounds, low before high", self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Scaling:
        """The scaling that `state` came from.

        Raises:
            Invalid: `state` is not of the form {"low": [...], "high": [...]}.
        """
        try:
            low, high = (tuple(float(bound) for bound in state[key]) for key in ("low", "high"))
        except (KeyError, TypeError, ValueError) as error:
            raise Invalid("scaling", "lists of numbers `low` and `high`", state) from error
        return cls(low, high)

    def state(self) -> dict[str, list[float]]:
        """The bounds as lists that can be written as JSON."""
        return {"low": list(self.low), "high": list(self.high)}

    def to01(self, x: Tensor) -> Tensor:
        """Numbers (N, ...) in the users' units -> float32 in [0, 1]. Values beyond the bounds are clamped."""
        low, high = self._bounds(x)
        width = torch.where(high > low, high - low, math.inf)
        return ((x - low) / width).clamp(0, 1).to(torch.float32)

    def outside(self, x: Tensor) -> Tensor:
        """Which of the numbers (N, ...) are beyond the bounds, and would be clamped."""
        low, high = self._bounds(x)
        return (x < low) | (x > high)

    def raw(self, x: Tensor) -> Tensor:
        """Inputs (N, ...) in [0, 1] -> float32 in the users' units: the inverse of `to01` between the bounds."""
        low, high = self._bounds(x)
        return (low + x * (high - low)).to(torch.float32)

    def _bounds(self, x: Tensor) -> Tensor:
        """(2, 1) or (2, D) in float64, so that large numbers which differ by little stay apart."""
        columns = len(self.low)
        require(columns == 1 or x.shape[-1] == columns, "x", f"of {columns} columns", tuple(x.shape))
        return self._both.to(x.device)

    @cached_property
    def _both(self) -> Tensor:
        return torch.tensor([self.low, self.high], dtype=torch.float64)
