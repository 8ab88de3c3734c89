"""A thief who knows of decoys: what a linear classifier explains of the answers is dropped. This house's own attack."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stealguard.attacks.transfer import random_queries
from stealguard.boxes.base import logits
from stealguard.errors import require
from stealguard.seeds import derive, seeded
from stealguard.training.loop import Training, fit
from stealguard.types import Asked


@dataclass(frozen=True)
class Sieve:
    """KnockoffNets on those answers whose class a linear classifier, trained on all of them, does not foresee.

    It turns robust InI's decoys against itself: they are linear in the input, so most of them are foreseen, and honest
    answers are a greater share of the rest. A thief need not know which classes stand for which.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
        training: how the thief trains on what is left, if that is anything, else on all answers.
        sieve: how the linear classifier is trained.
    """

    budget: int = 20_000
    training: Training = field(default_factory=lambda: Training(epochs=24))
    sieve: Training = field(default_factory=lambda: Training(epochs=8, lr=0.02))

    def __post_init__(self) -> None:
        require(self.budget >= 1, "budget", "at least 1", self.budget)

    @property
    def needed(self) -> int:
        return self.budget

    def __call__(self, box: Asked, pool: Tensor, clone: nn.Module, *, seed: int) -> nn.Module:
        stolen = random_queries(box, pool, self.budget, seed=seed)
        x, answers = stolen.x, stolen.answers
        with seeded(derive(seed, "linear")):
            linear = nn.Sequential(nn.Flatten(), nn.Linear(x.flatten(1).shape[1], answers.shape[1])).to(x.device)
        fit(linear, x, answers, self.sieve, seed=derive(seed, "sieve"), progress=False)
        left = logits(linear, x).argmax(dim=1) != answers.argmax(dim=1)
        kept = left if left.any() else torch.ones_like(left)
        fit(clone, x[kept], answers[kept], self.training, seed=derive(seed, "clone"), progress=False)
        return clone
