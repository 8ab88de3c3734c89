"""KnockoffNets (Orekondy, Schiele & Fritz, CVPR 2019): label a pool with the victim's answers and train on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from stealguard.attacks.base import PoolAttack, QueryPool
from stealguard.attacks.transfer import random_queries
from stealguard.seeds import derive
from stealguard.training.loop import Training, fit
from stealguard.types import Asked


@dataclass(frozen=True)
class Knockoff(PoolAttack):
    """Random queries from the pool, then ordinary training on the answers, soft or hard as the box gives them.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
        training: how the clone trains.
    """

    training: Training = field(default_factory=lambda: Training(epochs=8))

    @classmethod
    def authors(cls) -> Knockoff:
        """The budget and the epochs of the InI paper: 50,000 and 50."""
        return cls(budget=50_000, training=Training(epochs=50))

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        transfer = random_queries(box, pool, self.budget, seed=seed)
        fit(clone, transfer.x, transfer.answers, self.training, seed=derive(seed, "clone"), progress=False)
        return clone
