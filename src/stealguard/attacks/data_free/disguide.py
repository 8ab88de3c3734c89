"""DisGUIDE (Rosenthal, Enouen, Pham & Tan, AAAI 2023): two clones, and queries on which they disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stealguard.attacks.base import QueryPool, check_budget
from stealguard.attacks.data_free.alternating import GAPS, Alternating, alternation, evenness
from stealguard.attacks.data_free.generators import squash
from stealguard.errors import pick, require
from stealguard.nets import reinitialized
from stealguard.seeds import derive
from stealguard.types import Asked


def disagreement(probabilities: Tensor) -> Tensor:
    """The clones' standard deviation in a class's probability, mean over images and classes.

    Args:
        probabilities: of two or more clones, (clones, N, K).
    """
    return probabilities.std(dim=0).mean()


@dataclass(frozen=True)
class DisGUIDE:
    """The generator makes images on which two clones of different initial weights disagree, and as many of each class.

    With p_1, p_2 the clones' probabilities for a batch and a their mean over it, it descends L_D + lambda L_div,
    L_D = -mean std(p_1, p_2) over images and classes, L_div = sum_k a_k log a_k. No gradient of the box is needed, so
    its steps cost no queries. Both clones learn from the same answers, new and replayed.

    The authors' program draws every eighth image in gray levels, which is left out, and measures the vote of both
    clones (`vote`). The default rates are for budgets far below the paper's.

    Args:
        budget: queries, at least 1.
        generator_steps, clone_steps, replay_steps: in a round; at least 0, 1, 0.
        diversity: lambda, the weight of even classes against disagreement, at least 0: 0.2 for ten classes, 0.04 for
            a hundred.
        loss: what clones minimize. `l1`: between logits, those of the box recovered from its answers; `kl`. On
            labels alone both are cross-entropy, as in the paper.
        replay: the number of latest images that are kept for replay, at least 1.
        vote: return both clones as one net with their mean probabilities, as the authors' program measures, rather
            than the given clone.
        training: how generator and clones train.
    """

    data_free: ClassVar[bool] = True

    budget: int = 60_000
    generator_steps: int = 1
    clone_steps: int = 1
    replay_steps: int = 3
    diversity: float = 0.2
    loss: Literal["l1", "kl"] = "l1"
    replay: int = 100_000
    vote: bool = False
    training: Alternating = field(default_factory=lambda: Alternating(batch=128, lr=0.1, generator_lr=3e-3))

    def __post_init__(self) -> None:
        check_budget(self.budget)
        for name, least in (("generator_steps", 0), ("clone_steps", 1), ("replay_steps", 0)):
            require(getattr(self, name) >= least, name, f"at least {least}", getattr(self, name))
        require(self.replay >= 1, "replay", "at least 1", self.replay)
        require(self.diversity >= 0, "diversity", "at least 0", self.diversity)
        pick(GAPS, self.loss, "loss")

    @property
    def needed(self) -> int:
        return 1

    @classmethod
    def paper(cls) -> DisGUIDE:
        """20 million queries, as the authors' program for CIFAR-10 (half, and a diversity of 0.04, for CIFAR-100)."""
        training = Alternating(lr=0.03, drops=(0.4, 0.8), latent=256, width=64)
        return cls(budget=20_000_000, replay=1_000_000, training=training)

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        gap, clones = GAPS[self.loss], [clone, reinitialized(clone, seed=derive(seed, "second clone"))]
        kept = self.replay if self.replay_steps else 0
        with alternation(box, self.budget, pool, clones, self.training, seed=seed, replay=kept) as turns:
            for n, _ in turns.rounds(self.clone_steps):
                for _ in range(self.generator_steps):
                    x = squash(turns.unsquashed(self.training.batch))
                    answers = torch.stack([clone.eval()(x).softmax(dim=1) for clone in clones])
                    turns.train_generator(-disagreement(answers) - self.diversity * evenness(answers))
                turns.train_clones(n, self.clone_steps, gap)
                turns.replay(self.replay_steps, gap)
        return Vote(clones) if self.vote else clone


class Vote(nn.Module):
    """Several nets as one: the logarithm of their mean probabilities, (N, K)."""

    def __init__(self, nets: list[nn.Module]):
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        logs = torch.stack([net(x).log_softmax(dim=1) for net in self.nets])
        return logs.logsumexp(dim=0) - math.log(len(logs))
