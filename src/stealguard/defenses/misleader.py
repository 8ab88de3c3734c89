"""MISLEADER (Cheng, Zheng, Zhu & Dong, 2025, arXiv 2506.02362): distilled nets from which clones learn little."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.defenses.base import Cost, Defended, Defense
from stealguard.errors import require, require_weight
from stealguard.nets import sibling
from stealguard.training.augment import affine
from stealguard.training.losses import kl
from stealguard.types import Batch


class Terms(NamedTuple):
    """The losses of one member and of its clone, not weighted yet."""

    task: Tensor
    distillation: Tensor
    extraction: Tensor
    clone: Tensor


def member_terms(
    member: nn.Module, clone: nn.Module, teacher: Tensor, batch: Batch, asked: Tensor, temperature: float
) -> Terms:
    """What a member d and its clone s minimize.

    Args:
        member, clone: from inputs to logits (N, K).
        teacher: its logits on the batch, (B, K), detached.
        batch: of the task.
        asked: the clone's queries, (B, ...).
        temperature: of the distillation, above 0.
    """
    logits, told, learned = member(batch.x), member(asked).log_softmax(dim=1), clone(asked).log_softmax(dim=1)
    log_p, log_q = ((rows / temperature).log_softmax(dim=1) for rows in (teacher, logits))
    return Terms(
        task=F.cross_entropy(logits, batch.y),
        distillation=temperature**2 * kl(log_p, log_q),
        extraction=-kl(told, learned.detach()),
        clone=kl(told.detach(), learned),
    )


class Ensemble(Defended):
    """A teacher, members that answer, and a clone of each; forward is the log of the members' mean probabilities.

    Args:
        net: the first member.
        others: the other members, one less than the settings' temperatures.
        teacher: what members learn from.
        clones: as many as members.
        settings: the defense.
    """

    def __init__(
        self, net: nn.Module, others: Iterable[nn.Module], teacher: nn.Module, clones: Iterable[nn.Module],
        settings: Misleader,
    ):  # fmt: skip
        super().__init__(net)
        self.others, self.teacher, self.clones = nn.ModuleList(others), teacher, nn.ModuleList(clones)
        self.settings = settings

    @property
    def members(self) -> list[nn.Module]:
        return [self.net, *self.others]

    def forward(self, x: Tensor) -> Tensor:
        logs = torch.stack([member(x).log_softmax(dim=1) for member in self.members])
        return logs.logsumexp(dim=0) - math.log(len(logs))

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        teacher, asked = self.teacher(batch.x), altered(batch.x)
        terms = [
            member_terms(member, clone, teacher.detach(), batch, asked, temperature)
            for member, clone, temperature in zip(self.members, self.clones, self.settings.temperatures, strict=True)
        ]
        summed = Terms(*(torch.stack(values).sum() for values in zip(*terms, strict=True)))
        return {
            "task": (1 - self.settings.distillation) * summed.task,
            "distillation": self.settings.distillation * summed.distillation,
            "extraction": self.settings.extraction * summed.extraction,
            "clones": summed.clone,
            "teacher": F.cross_entropy(teacher, batch.y),
        }


@dataclass(frozen=True)
class Misleader(Defense):
    """min_d (1 - a) CE(d(x), y) + a T^2 KL(f_T || d_T) - lambda min_s KL(d(x') || s(x')), and the mean of several d.

    f is a teacher, x' an altered batch of task inputs, as an attacker's queries may be, and s the clone of d. Outliers
    are not needed. The members answer together: logits are the logarithm of their mean probabilities, which a softmax
    takes back. (The published program's ensemble gives probabilities to an attack that takes logits and applies
    log_softmax to them: its clone is measured on answers that the defense never gives.)

    Both levels train in one run: each clone descends its loss on detached answers, each member ascends it on a detached
    clone, and f learns by its own cross-entropy while members learn from its detached logits. The published program
    trains f first, weighs the clones' steps five times, and clips gradients. Its members have three architectures, as
    many temperatures, a and lambda; here they have the user's architecture, weights drawn apart, and three
    temperatures.

    Args:
        extraction: lambda, the strength, at least 0: 0.001 to 0.05 in the authors' settings.
        distillation: a, in [0, 1].
        temperatures: T of each member, above 0; as many members.
    """

    # It misleads clones on altered task inputs; the top class there still says what the net was taught.
    countered_by = ("labels", "explore")

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
        return Cost(forwards=n - 1.0, trained=f"{n} nets in the place of one, a teacher and {n} clones")

    def build(self, net: nn.Module, like: Tensor) -> Defended:
        n, others = len(self.temperatures), (sibling(net, number) for number in count(1))
        members, teacher, clones = list(islice(others, n - 1)), next(others), islice(others, n)
        return Ensemble(net, members, teacher, clones, self)


def altered(x: Tensor) -> Tensor:
    """Images (N, C, H, W) rotated, scaled and shifted; other inputs with a little noise. Both stay in [0, 1]."""
    return affine(x) if x.dim() == 4 else (x + 0.05 * torch.randn_like(x)).clamp(0, 1)
