"""CopycatCNN (Correia-Silva et al., IJCNN 2018): natural images, labelled by the victim, and nothing but labels."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from stealguard.attacks.transfer import random_queries
from stealguard.boxes.base import top_1
from stealguard.errors import require
from stealguard.seeds import derive
from stealguard.training.loop import Training, fit
from stealguard.types import Asked


@dataclass(frozen=True)
class CopycatCNN:
    """Random queries from the pool, then training on hard labels, whatever the box tells beyond them.

    The paper's NPD-SL: non-problem-domain images with stolen labels. Its thief starts from weights of ImageNet; this
    one starts from those it is given.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
        training: how the thief trains.
    """

    budget: int = 20_000
    training: Training = field(default_factory=lambda: Training(epochs=8))

    def __post_init__(self) -> None:
        require(self.budget >= 1, "budget", "at least 1", self.budget)

    @property
    def needed(self) -> int:
        return self.budget

    def __call__(self, box: Asked, pool: Tensor, clone: nn.Module, *, seed: int) -> nn.Module:
        stolen = random_queries(box, pool, self.budget, seed=seed)
        fit(clone, stolen.x, hard(stolen.answers), self.training, seed=derive(seed, "clone"), progress=False)
        return clone


def hard(answers: Tensor) -> Tensor:
    """Answers (N, K) as one-hot rows of their most probable class; a row of zeros, which says nothing, stays one."""
    return top_1(answers) * (answers > 0).any(dim=1, keepdim=True)
