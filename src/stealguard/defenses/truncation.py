"""Truncation: tell less of each answer (Tramer et al., USENIX Security 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stealguard.boxes.base import Rewritten
from stealguard.defenses.base import Defense
from stealguard.errors import require
from stealguard.types import BlackBox


@dataclass(frozen=True)
class TopK(Defense):
    """The k most probable classes alone; with k = 1, as by default, the label alone.

    Args:
        k: how many classes keep a probability of their own; the fewer, the stronger.
        rest: what becomes of the others' mass. `renormalize` shares it among the k in proportion; `spread` shares it
            evenly among the others, so that the k keep the very probabilities they had.
    """

    k: int = 1
    rest: Literal["renormalize", "spread"] = "renormalize"

    def __post_init__(self) -> None:
        require(self.k >= 1, "k", "at least 1", self.k)
        require(self.rest in ("renormalize", "spread"), "rest", "renormalize or spread", f"`{self.rest}`")

    @property
    def distortion_limit(self) -> float:
        return 2.0

    def guard(self, box: BlackBox, model: nn.Module) -> BlackBox:
        return Rewritten(box, self._truncated)

    def _truncated(self, y: Tensor) -> Tensor:
        if self.k >= y.shape[1]:
            return y
        # A stable sort, for among equals topk is free to drop the one that argmax names.
        order = y.sort(dim=1, descending=True, stable=True).indices
        kept = torch.zeros_like(y).scatter(1, order[:, : self.k], 1)
        if self.rest == "renormalize":
            return y * kept / (y * kept).sum(dim=1, keepdim=True)
        others = 1 - kept
        return y * kept + others * (y * others).sum(dim=1, keepdim=True) / (y.shape[1] - self.k)


@dataclass(frozen=True)
class Rounding(Defense):
    """Probabilities of so many decimal digits.

    The digits are dealt by largest remainder, so that the rounded row still sums to one: each class gets the units of
    10^-digits that its probability is full of, and the units left over go to the greatest remainders. Public programs
    round each class to the nearest and leave rows whose sum is not 1. Classes closer than a unit may become equal.

    Args:
        digits: at least 1; the fewer, the stronger.
    """

    digits: int = 1

    def __post_init__(self) -> None:
        require(1 <= self.digits <= 6, "digits", "from 1 to 6, what a float holds", self.digits)

    @property
    def distortion_limit(self) -> float:
        return 2.0

    def guard(self, box: BlackBox, model: nn.Module) -> BlackBox:
        return Rewritten(box, self._rounded)

    def _rounded(self, y: Tensor) -> Tensor:
        units = 10**self.digits
        shares = y.double() * units
        full = (shares + 1e-4).floor()  # what a float falls short of a whole unit counts as whole
        left = units - full.sum(dim=1, keepdim=True)
        rank = (shares - full).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return ((full + (rank < left)) / units).to(y)
