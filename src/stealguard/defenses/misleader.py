"""MISLEADER (Cheng, Zheng, Zhu & Dong, 2025, arXiv 2506.02362): distilled nets that their thieves learn little from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.defenses.base import Cost, Defense
from stealguard.errors import require, require_weight
from stealguard.nets import sibling
from stealguard.training.augment import affine
from stealguard.training.losses import kl
from stealguard.types import Batch, Objective


class Ensemble(nn.Module):
    """A teacher, the members that answer, a thief of each; forward is the log of the members' mean probabilities."""

    def __init__(self, teacher: nn.Module, members: Sequence[nn.Module], clones: Sequence[nn.Module]):
        super().__init__()
        self.teacher, self.members, self.clones = teacher, nn.ModuleList(members), nn.ModuleList(clones)

    def forward(self, x: Tensor) -> Tensor:
        logs = torch.stack([member(x).log_softmax(dim=1) for member in self.members])
        return logs.logsumexp(dim=0) - math.log(len(logs))


class Terms(NamedTuple):
    """One member's losses, not weighted yet."""

    task: Tensor
    distillation: Tensor
    extraction: Tensor
    theft: Tensor


def member_terms(
    member: nn.Module, clone: nn.Module, teacher: Tensor, batch: Batch, asked: Tensor, temperature: float
) -> Terms:
    """What a member d and its thief s minimize.

    Args:
        teacher: its logits on the batch, (B, K), detached.
        asked: what the thief queries with, (B, ...).
    """
    logits, told, learned = member(batch.x), member(asked).log_softmax(dim=1), clone(asked).log_softmax(dim=1)
    log_p, log_q = ((rows / temperature).log_softmax(dim=1) for rows in (teacher, logits))
    return Terms(
        task=F.cross_entropy(logits, batch.y),
        distillation=temperature**2 * kl(log_p, log_q),
        extraction=-kl(told, learned.detach()),
        theft=kl(told.detach(), learned),
    )


@dataclass(frozen=True)
class Misleader(Defense):
    """min_d (1 - a) CE(d(x), y) + a T^2 KL(f_T || d_T) - lambda min_s KL(d(x') || s(x')), and the mean of several d.

    f is a teacher, x' an altered batch of task inputs, as a thief's queries may be, and s the thief of d. Outliers are
    not needed. The members answer together: logits are the logarithm of their mean probabilities, which a softmax
    takes back. (The published program's ensemble hands probabilities to an attack that takes logits and applies
    log_softmax to them: that thief is measured on answers that nobody gives.)

    Both levels train in one run: each thief descends its loss on detached answers, each member ascends it on a detached
    thief, and f learns by its own cross-entropy while members learn from its detached logits. The program trains f
    first, weighs the thieves' steps five times, and clips gradients. Its members have three architectures, as many
    temperatures, a and lambda; here they have the user's architecture, weights drawn apart, and three temperatures.

    Args:
        extraction: lambda, the strength, at least 0: 0.001 to 0.05 in the authors' settings.
        distillation: a, in [0, 1].
        temperatures: T of each member, above 0; as many members.
    """

    extraction: float = 0.05
    distillation: float = 0.3
    temperatures: tuple[float, ...] = (6.0, 4.0, 2.0)

    def __post_init__(self) -> None:
        require_weight(self.extraction, "extraction")
        require(0 <= self.distillation <= 1, "distillation", "in [0, 1]", self.distillation)
        ok = len(self.temperatures) >= 1 and all(t > 0 and math.isfinite(t) for t in self.temperatures)
        require(ok, "temperatures", "at least one positive number", self.temperatures)

    @property
    def cost(self) -> Cost:
        n = len(self.temperatures)
        return Cost(forwards=n - 1.0, trained=f"{n} nets in the place of one, a teacher and {n} thieves")

    def build(self, net: nn.Module, like: Tensor) -> nn.Module:
        n, others = len(self.temperatures), (sibling(net, number) for number in count(1))
        members = [net, *(next(others) for _ in range(n - 1))]
        return Ensemble(next(others), members, [next(others) for _ in range(n)])

    def plain(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, Ensemble)
        return model.members[0]

    def objective(self, model: nn.Module, like: Tensor, *, seed: int) -> Objective:
        return self._losses

    def _losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, Ensemble)
        teacher, asked = model.teacher(batch.x), altered(batch.x)
        terms = [
            member_terms(member, clone, teacher.detach(), batch, asked, temperature)
            for member, clone, temperature in zip(model.members, model.clones, self.temperatures, strict=True)
        ]
        summed = Terms(*(torch.stack(values).sum() for values in zip(*terms, strict=True)))
        return {
            "task": (1 - self.distillation) * summed.task,
            "distillation": self.distillation * summed.distillation,
            "extraction": self.extraction * summed.extraction,
            "theft": summed.theft,
            "teacher": F.cross_entropy(teacher, batch.y),
        }


def altered(x: Tensor) -> Tensor:
    """Images (N, C, H, W) turned, scaled and shifted; other inputs with a little noise. Both stay in [0, 1]."""
    return affine(x) if x.dim() == 4 else (x + 0.05 * torch.randn_like(x)).clamp(0, 1)
