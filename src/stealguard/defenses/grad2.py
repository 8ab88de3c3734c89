"""GRAD^2, gradient redirection (Mazeika, Li & Forsyth, ICML 2022, arXiv 2206.14157)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from stealguard.defenses.base import Cost, Defense, Plain, surrogate_of
from stealguard.errors import require
from stealguard.seeds import derive
from stealguard.simplex import check_budget, steepest
from stealguard.types import Guard

_FORWARD_MODE = Lock()  # torch has one level of forward differentiation in a process, whatever the thread


@torch.no_grad()
def slope_along_ones(module: nn.Module, x: Tensor) -> Tensor:
    """How fast each logit (N, K) of a module grows at `x` as all of its parameters grow alike."""
    weights = {name: p.detach() for name, p in module.named_parameters()}
    ones = {name: torch.ones_like(p) for name, p in weights.items()}
    with _FORWARD_MODE:
        slope: Tensor = jvp(lambda w: functional_call(module, w, (x,)), (weights,), (ones,))[1]
    return slope


class Slope(nn.Module):
    """`slope_along_ones` of a net as a head: from inputs (N, *shape) to (N, K)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return slope_along_ones(self.net, x)


class Redirected(Plain):
    """Answers that send a surrogate's step in another direction, from the head `surrogate` or `slope`."""

    def __init__(self, net: nn.Module, settings: GRAD2):
        self._net, self._settings = net, settings

    def heads(self) -> Mapping[str, nn.Module]:
        surrogate = surrogate_of(self._net, derive(self._settings.seed, "grad2", "surrogate"))
        return {"surrogate": surrogate} if self._settings.direction == "opposite" else {"slope": Slope(surrogate)}

    def answer(self, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        y = super().answer(outputs, x)
        if self._settings.direction == "opposite":
            return steepest(y, outputs["surrogate"].softmax(dim=1).to(y) - y, self._settings.eps)
        return steepest(y, outputs["slope"].to(y), self._settings.eps)


@dataclass(frozen=True)
class GRAD2(Defense):
    """max over y' of <G^T y', z>, with y' on the simplex within L1 distance `eps` of y: a linear program.

    "How to Steer Your Adversary: Targeted and Efficient Model Stealing Defenses with Gradient Redirection",
    algorithm 1, which is exact. G^T y' is the step that a surrogate takes from the answer y', the gradient of
    sum_k y'_k log q_k, and z is where to redirect it:

    - `opposite`: z = -G^T y, the paper's minimum inner product, with G that of the last layer. There
      G^T y' = (y' - q) (x) h, so the gain of class k is q_k - y_k but for a positive factor. The program takes all
      layers and the mean of G^T y over whatever was asked together, so that an answer depends on its neighbors; here
      each row has its own.
    - `all-ones`: z = 1 in every parameter, the same direction for all answers. The gain of class k is then the
      surrogate's k-th logit's derivative along z: one Jacobian-vector product. In the last layer alone this direction
      gives every class the same gain, so all layers are taken.

    The surrogate is a random network of the victim's architecture; the paper's, which were trained on stolen answers
    for some epochs, cannot be had from a release alone. The most probable class is not kept: with an `eps` of 1 or
    more, even a sure answer gives half of its mass away and may get another most probable class.

    Args:
        eps: strength: the L1 budget, in [0, 2].
        direction: `opposite` or `all-ones`.
        seed: what the surrogate is drawn from.
    """

    # The top class tells what the redirected answer hides; maps fitted to shadow models undo the change.
    countered_by = ("labels", "treatment:p-bayes", "treatment:d-dae")

    eps: float = 0.5
    direction: Literal["opposite", "all-ones"] = "opposite"
    seed: int = 0

    def __post_init__(self) -> None:
        check_budget(self.eps)
        known = ("opposite", "all-ones")
        require(self.direction in known, "direction", f"one of {', '.join(known)}", f"`{self.direction}`")

    @property
    def distortion_limit(self) -> float:
        return self.eps

    @property
    def cost(self) -> Cost:
        return Cost(forwards=1.0 if self.direction == "opposite" else 2.0)

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        return Redirected(net, self)
