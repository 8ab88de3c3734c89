"""Marich (Karmakar & Basu, NeurIPS 2023): three selections, one after the other, choose what is asked next."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.attacks.base import PoolAttack, QueryPool
from stealguard.attacks.selection import entropy, entropy_gradients, guesses, k_means, near_all, near_each
from stealguard.attacks.transfer import Transfer
from stealguard.boxes.base import logits
from stealguard.errors import pick, require
from stealguard.seeds import derive
from stealguard.training.loop import Training, fit
from stealguard.types import Asked

_NEAR: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {"each": near_each, "all": near_all}


@dataclass(frozen=True)
class MARICH(PoolAttack):
    """Rounds of inputs that are uncertain, differ in their gradients, and resemble what the clone gets wrong.

    With n queries in a round and the clone's answer q(x), (K,), algorithm 1 of the paper keeps of all inputs
    not yet asked

    1. the n / (gamma_1 gamma_2) with the greatest entropy H(q(x));
    2. of those the n / gamma_2 whose gradients dH(q(x))/dx lie near the k centers that k-means finds for them;
    3. of those the n that lie near the k inputs, of all that were asked, with the greatest mismatch KL(p || q) of the
       box's answer and the clone's; for labels this is the cross-entropy;

    then asks them and goes on training the clone on all answers.

    The paper's text and its program select points around every center: `near="each"`. Its formula, the smallest sum of
    squared distances to all centers, prefers points near the centers' mean: `near="all"`.
    The program's entropies take the softmax over the batch of 128 inputs instead of the classes: `softmax="batch"`.
    It also trains 2 % more epochs every round, and chooses the best of them by a second, labeled set; here all
    trainings are alike and the last epoch counts.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
        rounds: after the first.
        initial: share of the budget that is asked at random to begin with, in (0, 1]; at least one query.
        growth: the ratio of a round's queries to those of the round before, positive; 1.01 as in the program.
        gammas: the shares that the second and the third selection keep, each in (0, 1].
        clusters: k; 0 for the number of classes, as in the paper. The program always has 10.
        near: whether selected points are near `each` center, or near `all` of them.
        softmax: over `classes`, or over the `batch`.
        candidates: the least number of random inputs that a round chooses among; 0 for all, as in the paper.
        training: how the clone trains in each round.
    """

    rounds: int = 10
    initial: float = 0.1
    growth: float = 1.01
    gammas: tuple[float, float] = (0.8, 0.8)
    clusters: int = 0
    near: Literal["each", "all"] = "each"
    softmax: Literal["classes", "batch"] = "classes"
    candidates: int = 0
    training: Training = field(default_factory=lambda: Training(epochs=8))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rounds >= 1, "rounds", "at least 1", self.rounds)
        require(0 < self.initial <= 1, "initial", "in (0, 1]", self.initial)
        require(self.growth > 0 and math.isfinite(self.growth), "growth", "a positive number", self.growth)
        require(all(0 < g <= 1 for g in self.gammas), "gammas", "shares in (0, 1]", self.gammas)
        for name in ("clusters", "candidates"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        pick(_NEAR, self.near, "near")
        require(self.softmax in ("classes", "batch"), "softmax", "`classes` or `batch`", f"`{self.softmax}`")

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        size = min(self.budget, box.left, len(pool))
        initial, *later = self._parts(size)
        generator = torch.Generator().manual_seed(derive(seed, "queries"))
        unasked = torch.randperm(len(pool), generator=generator)
        transfer = Transfer(size)
        rows = torch.arange(initial)
        for number, k in enumerate([initial, *later]):
            if number:
                rows = self._choose(clone, pool, unasked, transfer, k, derive(seed, "clusters", number))
            transfer.ask(box, pool, unasked[rows])
            rest = torch.ones(len(unasked), dtype=torch.bool).index_fill(0, rows, False)
            unasked = unasked[rest][torch.randperm(len(unasked) - len(rows), generator=generator)]
            fit(clone, transfer.x, transfer.answers, self.training, seed=derive(seed, "clone", number), progress=False)
        return clone

    def _parts(self, size: int) -> list[int]:
        """Queries of the beginning (at least one), and of each later round that has any."""
        initial = max(1, int(self.initial * size))
        weights = torch.full((self.rounds,), self.growth, dtype=torch.float64).cumprod(dim=0)
        ends = ((size - initial) * weights.cumsum(dim=0) / weights.sum()).round().long()
        return [initial, *(k for k in ends.diff(prepend=ends.new_zeros(1)).tolist() if k)]

    def _choose(
        self, clone: nn.Module, pool: QueryPool, unasked: Tensor, transfer: Transfer, k: int, seed: int
    ) -> Tensor:
        """The k inputs to ask next among `unasked`, which is in random order: rows of `unasked`, (k,)."""
        unasked = unasked[: max(k, self.candidates or len(unasked))]
        second = min(len(unasked), math.ceil(k / self.gammas[1]))
        first = min(len(unasked), math.ceil(second / self.gammas[0]))
        clusters, near = self.clusters or transfer.answers.shape[1], _NEAR[self.near]
        rows = entropy(guesses(clone, pool, unasked)).topk(first).indices.cpu()
        gradients = entropy_gradients(clone, pool[unasked[rows]], over=self.softmax)
        rows = rows[near(gradients, _centers(gradients, min(clusters, first), seed), second).cpu()]
        wrong = _mismatch(clone, transfer).topk(min(clusters, len(transfer.x))).indices
        return rows[near(pool[unasked[rows]].flatten(1), transfer.x[wrong].flatten(1), k).cpu()]


def _centers(points: Tensor, k: int, seed: int) -> Tensor:
    """The means, (at most k, D), of the groups that k-means finds; a group without points has none."""
    groups = k_means(points, k, seed=seed)
    counts = groups.bincount(minlength=k)
    sums = points.new_zeros(k, points.shape[1]).index_add_(0, groups, points)
    return (sums / counts.clamp_min(1)[:, None])[counts > 0]


def _mismatch(clone: nn.Module, transfer: Transfer) -> Tensor:
    """KL(p || q) of the box's answers and the clone's to all that was asked, (N,)."""
    log_q = logits(clone, transfer.x).log_softmax(dim=1)
    return F.kl_div(log_q, transfer.answers.to(log_q), reduction="none").sum(dim=1)
