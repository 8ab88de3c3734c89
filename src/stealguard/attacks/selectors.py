"""Which answers a defended net gave itself, and which are decoys: what an attacker can tell from answers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stealguard.attacks.base import PoolAttack
from stealguard.attacks.decoy_family import divergence, fitted, missing, without_floor
from stealguard.boxes.base import logits
from stealguard.errors import pick, require

Selector = Callable[[Tensor, Tensor], Tensor]
"""Inputs (N, *shape) and their answers (N, K) -> which answers (N,) are taken to be the net's own."""

Honest = Callable[[Tensor], Tensor]
"""Inputs (N, *shape) -> which of them (N,) the net answers itself: no attacker can know it; for upper bounds."""


def small_minimum(threshold: float) -> Selector:
    """The answers whose smallest probability is below the threshold: decoys with a floor have none so small."""
    return lambda x, answers: (answers.amin(dim=1) < threshold) & (answers.amax(dim=1) > 0)


def large_residual(x: Tensor, answers: Tensor, *, share: float, trim: float, doubt: float) -> Selector:
    """The answers that a decoy family fitted to these (N, K) explains least: this share of them, or of others alike."""
    family = fitted(x, without_floor(answers, doubt), trim=trim)

    def residual(x: Tensor, answers: Tensor) -> Tensor:
        rest = without_floor(answers, doubt)
        return divergence(rest, logits(family, x), missing(rest)).where(rest.sum(dim=1) > 0, -torch.inf)

    found = residual(x, answers)
    threshold = found[found.isfinite()].quantile(1 - share) if found.isfinite().any() else torch.inf
    return lambda x, answers: residual(x, answers) > threshold


def unforeseen(x: Tensor, answers: Tensor, *, trim: float, ranks: int) -> Selector:
    """The answers whose class is not among the `ranks` most probable of a decoy family fitted to these labels (N, K).

    Args:
        ranks: 2 against decoys that leave out one class, whose label is then the second most probable; at most K - 1.
    """
    family, ranks = fitted(x, answers, trim=trim), min(ranks, answers.shape[1] - 1)

    def select(x: Tensor, answers: Tensor) -> Tensor:
        foreseen = logits(family, x).topk(ranks, dim=1).indices == answers.argmax(dim=1, keepdim=True)
        return ~foreseen.any(dim=1) & (answers.amax(dim=1) > 0)

    return select


@dataclass(frozen=True)
class SelectingAttack(PoolAttack):
    """What the attacks share that train on the answers which a selector takes for the net's own.

    Args:
        budget: queries, at least 1.
        selector: how answers are selected, one of `selectors`.
        threshold: of `minimum`: the probability that the smallest entry of a selected answer is below, in (0, 1).
        share: of `residual`: the share of the pool's answers that is selected, in (0, 1).
        trim: the share of answers that is dropped when decoys are fitted, in [0, 1).
        doubt: the share of a decoy that is uniform, in [0, 1), as the defense's code says; 0 if there is none.
    """

    selectors: ClassVar[tuple[str, ...]] = ("minimum", "residual")

    selector: str = "minimum"
    threshold: float = 0.005
    share: float = 0.05
    trim: float = 0.15
    doubt: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        pick(dict.fromkeys(self.selectors), self.selector, "selector")
        for name in ("threshold", "share"):
            require(0 < getattr(self, name) < 1, name, "in (0, 1)", getattr(self, name))
        for name in ("trim", "doubt"):
            require(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))

    def selecting(self, x: Tensor, answers: Tensor) -> Selector:
        """The selector, fitted to the pool's inputs (N, *shape) and answers (N, K) if it needs to be."""
        if self.selector == "minimum":
            return small_minimum(self.threshold)
        return large_residual(x, answers, share=self.share, trim=self.trim, doubt=self.doubt)


def chosen(kept: Tensor) -> Tensor:
    """The selected rows, or all of them if none is selected: an attacker trains on something."""
    return kept if kept.any() else torch.ones_like(kept)
