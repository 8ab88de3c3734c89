"""Sieve: drop the answers that a linear classifier predicts. An attack on decoys, original to stealguard."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from stealguard.attacks.base import PoolAttack, QueryPool
from stealguard.attacks.transfer import random_queries
from stealguard.boxes.base import logits
from stealguard.seeds import derive, seeded
from stealguard.training.loop import Training, fit
from stealguard.types import Asked


@dataclass(frozen=True)
class Sieve(PoolAttack):
    """KnockoffNets on those answers whose class a linear classifier, trained on all of them, does not predict.

    The decoys of robust InI are linear in the input, so the classifier predicts most of them, and honest answers are
    a greater share of the rest. The attacker need not know which classes stand for which.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
        training: how the clone trains on the rest; on all answers if the classifier predicts every one.
        sieve: how the linear classifier trains.
    """

    training: Training = field(default_factory=lambda: Training(epochs=24))
    sieve: Training = field(default_factory=lambda: Training(epochs=8, lr=0.02))

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        transfer = random_queries(box, pool, self.budget, seed=seed)
        x, answers = transfer.x, transfer.answers
        with seeded(derive(seed, "linear")):
            linear = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), answers.shape[1])).to(x.device)
        fit(linear, x, answers, self.sieve, seed=derive(seed, "sieve"), progress=False)
        surprising = logits(linear, x).argmax(dim=1) != answers.argmax(dim=1)
        kept = surprising if surprising.any() else torch.ones_like(surprising)
        fit(clone, x[kept], answers[kept], self.training, seed=derive(seed, "clone"), progress=False)
        return clone
