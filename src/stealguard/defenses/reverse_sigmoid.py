"""Answers changed by a reversed sigmoid, always or only where the model is unsure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stealguard.defenses.base import Defense, Plain
from stealguard.errors import require
from stealguard.simplex import reverse_sigmoid_of
from stealguard.types import Guard


class Bent(Plain):
    """Answers changed by a reversed sigmoid; with a steepness, only those that are less sure than `beta`.

    Args:
        beta: strength, in [0, 2).
        gamma: steepness of the reversed sigmoid, in (0, 1].
        steepness: of the gate; None for no gate.
    """

    def __init__(self, beta: float, gamma: float, steepness: float | None = None):
        self._beta, self._gamma, self._steepness = beta, gamma, steepness

    def answer(self, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        beta: float | Tensor = self._beta
        if self._steepness is not None:
            sure = super().answer(outputs, x).amax(dim=1, keepdim=True)
            beta = beta * torch.sigmoid(self._steepness * (self._beta - sure))
        return reverse_sigmoid_of(outputs["logits"], beta, self._gamma)


@dataclass(frozen=True)
class ReverseSigmoid(Defense):
    """y' = alpha (y - beta (sigmoid(gamma logit(y)) - 1/2)), with alpha such that rows sum to one.

    Lee, Edwards, Molloy & Su, "Defending Against Neural Network Model Stealing Attacks Using Deceptive Perturbations"
    (IEEE SPW 2019). Comparisons vary beta; which gamma is best depends on the data. Two public programs clamp the odds
    y / (1 - y) to 1, which leaves classes above one half as they were; here nothing is clamped, and a probability of
    exactly 0 or 1 has its limit.

    Args:
        beta: strength, in [0, 2): from 2 on, answers would be negative.
        gamma: steepness, in (0, 1]: the smaller, the more alike different answers become.
    """

    # The top class is kept, and the map from rows to rows is known, so that it can be inverted.
    countered_by = ("labels", "treatment:p-bayes", "treatment:d-dae")

    beta: float = 0.7
    gamma: float = 0.2

    def __post_init__(self) -> None:
        _check(self.beta, self.gamma)

    @property
    def distortion_limit(self) -> float:
        return 2.0

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        return Bent(self.beta, self.gamma)


@dataclass(frozen=True)
class DCP(Defense):
    """Reverse Sigmoid with a gate: y' ~ y - a r(y), a = sigmoid(steepness (beta - max y)), r = beta (s(y) - 1/2).

    Khaled, Dhaouadi, Gohring de Magalhaes & Nicolescu, "Efficient Defense Against Model Stealing Attacks on
    Convolutional Neural Networks" (arXiv 2309.01838), after its program, `method_dcp`: answers surer than beta stay as
    they are, and beta is the strength of the others' perturbation too. The program clamps the odds to 1 as above, and
    so does not change a class above one half; here nothing is clamped. Gamma and the steepness are the program's.

    Args:
        beta: strength, in [0, 2): how much answers are changed, and up to which confidence.
        gamma: steepness of the reversed sigmoid, in (0, 1].
        steepness: of the gate, above 0.
    """

    # As for Reverse Sigmoid; answers surer than beta are hardly changed at all.
    countered_by = ("labels", "treatment:p-bayes", "treatment:d-dae")

    beta: float = 0.7
    gamma: float = 0.1
    steepness: float = 1000.0

    def __post_init__(self) -> None:
        _check(self.beta, self.gamma)
        require(self.steepness > 0, "steepness", "above 0", self.steepness)

    @property
    def distortion_limit(self) -> float:
        return 2.0

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        return Bent(self.beta, self.gamma, self.steepness)


def _check(beta: float, gamma: float) -> None:
    require(0 <= beta < 2, "beta", "in [0, 2)", beta)
    require(0 < gamma <= 1, "gamma", "in (0, 1]", gamma)
