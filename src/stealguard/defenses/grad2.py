"""GRAD^2, gradient redirection (Mazeika, Li & Forsyth, ICML 2022, arXiv 2206.14157)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from stealguard.boxes.base import CHUNK, logits
from stealguard.defenses.base import Cost, Defense
from stealguard.errors import require
from stealguard.nets import reinitialized
from stealguard.seeds import derive
from stealguard.simplex import check_budget, steepest
from stealguard.types import BlackBox


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
    for some epochs, cannot be had from a release alone. The top class is not held: with an `eps` of 1 or more, even a
    sure answer gives half its mass away and may lose its top.

    Args:
        eps: strength: the L1 budget, in [0, 2].
        direction: `opposite` or `all-ones`.
        seed: what the surrogate is drawn from.
    """

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

    def guard(self, box: BlackBox, model: nn.Module) -> BlackBox:
        surrogate = reinitialized(model, seed=derive(self.seed, "grad2", "surrogate")).eval()
        return Redirected(box, surrogate, self.eps, self.direction)


class Redirected:
    """A box whose answers send a surrogate's step in another direction."""

    def __init__(self, box: BlackBox, surrogate: nn.Module, eps: float, direction: str):
        self._box, self._surrogate, self._eps, self._direction = box, surrogate, eps, direction

    def __call__(self, x: Tensor, /) -> Tensor:
        y = self._box(x)
        if self._direction == "opposite":
            return steepest(y, logits(self._surrogate, x).softmax(dim=1).to(y) - y, self._eps)
        return steepest(y, slope_along_ones(self._surrogate, x).to(y), self._eps)


@torch.no_grad()
def slope_along_ones(module: nn.Module, x: Tensor) -> Tensor:
    """How fast each logit (N, K) grows at `x` as every parameter grows alike, on the device of `x`."""
    weights = {name: p.detach() for name, p in module.named_parameters()}
    ones = {name: torch.ones_like(p) for name, p in weights.items()}
    device = next(iter(weights.values())).device

    def slope(part: Tensor) -> Tensor:
        return jvp(lambda w: functional_call(module, w, (part,)), (weights,), (ones,))[1].to(x.device)

    return torch.cat([slope(part.to(device)) for part in x.split(CHUNK)])
