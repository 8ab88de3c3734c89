"""CopycatCNN (Correia-Silva et al., IJCNN 2018): natural images with the victim's labels, and nothing but labels."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from stealguard.attacks.base import PoolAttack, QueryPool
from stealguard.attacks.transfer import random_queries
from stealguard.boxes.base import top_1
from stealguard.seeds import derive
from stealguard.training.loop import Training, fit
from stealguard.types import Asked


@dataclass(frozen=True)
class CopycatCNN(PoolAttack):
    """Random queries from the pool, then training on hard labels, whatever the box answers beyond them.

    The paper's NPD-SL: non-problem-domain images with stolen labels. The paper's clone starts from weights trained on
    ImageNet; this one starts from the weights that it is given.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
        training: how the clone trains.
    """

    training: Training = field(default_factory=lambda: Training(epochs=8))

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        transfer = random_queries(box, pool, self.budget, seed=seed)
        fit(clone, transfer.x, hard(transfer.answers), self.training, seed=derive(seed, "clone"), progress=False)
        return clone


def hard(answers: Tensor) -> Tensor:
    """Answers (N, K) as one-hot rows of their most probable class; a row of zeros stays a row of zeros."""
    return top_1(answers) * (answers > 0).any(dim=1, keepdim=True)
