"""Adaptive Misinformation (Kariyappa & Qureshi, CVPR 2020, arXiv 1911.07100): unsure answers become wrong ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.boxes.base import Boxed
from stealguard.defenses.base import Cost, Defense
from stealguard.errors import require, require_weight
from stealguard.nets import sibling
from stealguard.types import Batch, BlackBox, Objective


class Misinformed(nn.Module):
    """The net that is served, f, and the one whose answers replace its own, f-hat; forward is f's logits."""

    def __init__(self, honest: nn.Module, misinforming: nn.Module):
        super().__init__()
        self.honest, self.misinforming = honest, misinforming

    def forward(self, x: Tensor) -> Tensor:
        return self.honest(x)


def reverse_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean -log(1 - p_y): least where the label has no probability. Logits (N, K), labels (N,)."""
    others = F.log_softmax(logits, dim=1).scatter(1, y[:, None], -torch.inf)
    return -others.logsumexp(dim=1).mean()


def mixing_share(answers: Tensor, tau: float, nu: float) -> Tensor:
    """alpha = 1 / (1 + exp(nu (max f - tau))) of each row (N, K), (N, 1): near 1 where f is less sure than tau."""
    return torch.sigmoid(nu * (tau - answers.amax(dim=1, keepdim=True)))


@dataclass(frozen=True)
class AdaptiveMisinformation(Defense):
    """Answers (1 - alpha) f + alpha f-hat: f where it is sure, a net trained to be wrong where it is not.

    L = CE(f(x), y) + lambda CE(f(z), uniform) for f, outlier exposure that makes it unsure on outliers z; and
    -log(1 - f-hat_y(x)) for f-hat, which never sees outliers. Both nets are parts of one module and train in one run;
    they share no weights, so that neither loss changes the other's.

    The published program has nu = 10,000 where the paper has 1,000; either is nearly a step.

    Args:
        tau: the strength, in [0, 1]: the confidence below which answers are replaced. Comparisons go through it, up
            to 0.99.
        nu: how steep the step at tau is, above 0.
        exposure: lambda, the weight of outlier exposure, at least 0.
    """

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

    def build(self, net: nn.Module, like: Tensor) -> nn.Module:
        return Misinformed(net, sibling(net, 1))

    def plain(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, Misinformed)
        return model.honest

    def objective(self, model: nn.Module, like: Tensor, *, seed: int) -> Objective:
        return self._losses

    def _losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, Misinformed)
        x, y, z = batch
        terms = {"task": F.cross_entropy(model.honest(x), y)}
        if self.exposure:
            assert z is not None, "fit hands outliers to whoever needs them"
            terms["exposure"] = -self.exposure * F.log_softmax(model.honest(z), dim=1).mean()
        terms["misinformation"] = reverse_cross_entropy(model.misinforming(x), y)
        return terms

    def guard(self, box: BlackBox, model: nn.Module) -> BlackBox:
        assert isinstance(model, Misinformed)
        wrong = model.misinforming

        def mixed(x: Tensor, /) -> Tensor:
            honest = box(x)
            alpha = mixing_share(honest, self.tau, self.nu)
            return torch.lerp(honest, Boxed(wrong, tuple(x.shape[1:]))(x), alpha)

        return mixed
