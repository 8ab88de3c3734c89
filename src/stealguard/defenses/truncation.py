"""Truncation: each answer tells less (Tramer et al., USENIX Security 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from stealguard.defenses.base import Defense, Rule
from stealguard.errors import require
from stealguard.types import Guard

Rest = Literal["renormalize", "spread"]


@dataclass(frozen=True)
class TopK(Defense):
    """The k most probable classes alone; with k = 1, as by default, the label alone.

    Args:
        k: the strength: how many classes keep a probability of their own, less than there are; the fewer, the stronger.
        rest: what becomes of the others' mass. `renormalize` shares it among the k in proportion; `spread` shares it
            evenly among the others, so that the k keep their probabilities.
    """

    # What is cut off are the other probabilities: labels are the net's.
    countered_by = ("labels",)

    k: int = 1
    rest: Rest = "renormalize"

    def __post_init__(self) -> None:
        require(self.k >= 1, "k", "at least 1", self.k)
        require(self.rest in ("renormalize", "spread"), "rest", "renormalize or spread", f"`{self.rest}`")

    @property
    def distortion_limit(self) -> float:
        return 2.0

    def check_classes(self, classes: int) -> None:
        require(self.k < classes, "k", f"less than {classes:,}, the number of classes", self.k)

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        return Rule(partial(truncated, k=self.k, rest=self.rest))


def truncated(y: Tensor, k: int, rest: Rest = "renormalize") -> Tensor:
    """Rows on the simplex (N, K) in which the `k` most probable classes alone keep a probability of their own.

    >>> truncated(torch.tensor([[0.5, 0.3, 0.2]]), 2)
    tensor([[0.6250, 0.3750, 0.0000]])
    """
    if k >= y.shape[1]:
        return y
    # A stable sort: among equal classes, topk may drop the one that argmax names.
    order = y.sort(dim=1, descending=True, stable=True).indices
    kept = torch.zeros_like(y).scatter(1, order[:, :k], 1)
    if rest == "renormalize":
        return y * kept / (y * kept).sum(dim=1, keepdim=True)
    others = 1 - kept
    return y * kept + others * (y * others).sum(dim=1, keepdim=True) / (y.shape[1] - k)


@dataclass(frozen=True)
class Rounding(Defense):
    """Probabilities of so many decimal digits.

    Rows are rounded by the largest remainder, so that they still sum to one: each class gets the whole units of
    10^-digits in its probability, and the units that are left go to the greatest remainders. Public programs round each
    class to the nearest unit, and their rows do not sum to one. Classes closer than a unit may become equal.

    Args:
        digits: the strength, from 1 to 6; the fewer, the stronger.
    """

    # What is rounded off are small differences: labels are the net's, but for ties.
    countered_by = ("labels",)

    digits: int = 1

    def __post_init__(self) -> None:
        require(1 <= self.digits <= 6, "digits", "from 1 to 6, what a float holds", self.digits)

    @property
    def distortion_limit(self) -> float:
        return 2.0

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        return Rule(partial(rounded, digits=self.digits))


def rounded(y: Tensor, digits: int) -> Tensor:
    """Rows on the simplex (N, K) in whole units of 10^-digits, by the largest remainder.

    >>> rounded(torch.tensor([[0.55, 0.25, 0.2]]), 1)
    tensor([[0.6000, 0.2000, 0.2000]])
    """
    units = 10**digits
    shares = y.double() * units
    full = (shares + 1e-4).floor()  # a float may be a little below a whole unit
    left = units - full.sum(dim=1, keepdim=True)
    rank = (shares - full).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ((full + (rank < left)) / units).to(y)
