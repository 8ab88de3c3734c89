"""Adaptive Misinformation (Kariyappa & Qureshi, CVPR 2020, arXiv 1911.07100): wrong answers where a net is unsure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.defenses.base import Cost, Defended, Defense, Plain
from stealguard.errors import require, require_weight
from stealguard.nets import sibling
from stealguard.types import Batch


def reverse_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean -log(1 - p_y): least where the label has no probability. Logits (N, K), labels (N,)."""
    others = F.log_softmax(logits, dim=1).scatter(1, y[:, None], -torch.inf)
    return -others.logsumexp(dim=1).mean()


def mixing_share(answers: Tensor, tau: float, nu: float) -> Tensor:
    """alpha = 1 / (1 + exp(nu (max f - tau))) of each row (N, K), (N, 1): near 1 where f is less sure than tau."""
    return torch.sigmoid(nu * (tau - answers.amax(dim=1, keepdim=True)))


class Mixed(Plain):
    """Answers (1 - alpha) f + alpha f-hat, from the heads `logits` and `misinformation`."""

    def __init__(self, tau: float, nu: float):
        self._tau, self._nu = tau, nu

    def answer(self, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        honest = super().answer(outputs, x)
        return torch.lerp(honest, outputs["misinformation"].softmax(dim=1), mixing_share(honest, self._tau, self._nu))


class Misinformed(Defended):
    """The user's net, f, and `misinforming`, f-hat, whose answers replace those of f; forward is f's logits."""

    steady = True

    def __init__(self, net: nn.Module, misinforming: nn.Module, settings: AdaptiveMisinformation):
        super().__init__(net, Mixed(settings.tau, settings.nu))
        self.misinforming, self.settings = misinforming, settings

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        terms = {"task": F.cross_entropy(self.net(batch.x), batch.y)}
        if self.settings.exposure:
            terms["exposure"] = -self.settings.exposure * F.log_softmax(self.net(batch.z), dim=1).mean()
        terms["misinformation"] = reverse_cross_entropy(self.misinforming(batch.x), batch.y)
        return terms

    def heads(self) -> Mapping[str, nn.Module]:
        return {**super().heads(), "misinformation": self.misinforming}


@dataclass(frozen=True)
class AdaptiveMisinformation(Defense):
    """Answers (1 - alpha) f + alpha f-hat: f where it is sure, a net trained to be wrong where it is not.

    L = CE(f(x), y) + lambda CE(f(z), uniform) for f, outlier exposure that makes it unsure on outliers z; and
    -log(1 - f-hat_y(x)) for f-hat, which never sees outliers. Both nets are parts of one module and train in one run;
    they share no weights, so that neither loss changes the other's.

    The published program has nu = 10,000 where the paper has 1,000; either is nearly a step.

    Args:
        tau: the strength, in [0, 1]: the confidence below which answers are replaced. Comparisons vary it up to 0.99.
        nu: how steep the step at tau is, above 0.
        exposure: lambda, the weight of outlier exposure, at least 0.
    """

    # The second net's answers, which stand where f is unsure, can be told from f's own and dropped.
    countered_by = ("filter", "explore")

    answering = ("tau", "nu")

    tau: float = 0.5
    nu: float = 1000.0
    exposure: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.tau <= 1, "tau", "in [0, 1]", self.tau)
        require(self.nu > 0 and math.isfinite(self.nu), "nu", "a positive number", self.nu)
        require_weight(self.exposure, "exposure")

    @property
    def needs_outliers(self) -> bool:
        return self.exposure > 0

    @property
    def distortion_limit(self) -> float:
        return 2.0

    @property
    def cost(self) -> Cost:
        return Cost(forwards=1.0, trained="a second net of the same architecture")

    def build(self, net: nn.Module, like: Tensor) -> Defended:
        return Misinformed(net, sibling(net, 1), self)
