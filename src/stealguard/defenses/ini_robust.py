"""Robust InI: outliers are told from the task, and answered with a second lesson that a thief learns first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.errors import require
from stealguard.nets import seed_from
from stealguard.seeds import derive
from stealguard.types import Batch, Cost, Defense, Objective

SIDE = 32  # pixels of a side at most, of what decoys are made from
LENGTH = 10.0  # of an input as decoys are made from it, so that one learning rate suits every task
SHARPNESS = 3.0  # factor on the decoys' logits: they should look as sure of themselves as honest answers do


class Decoys(nn.Module):
    """A linear classifier of inputs (N, *shape) into *wrong* classes; forward is its logits (N, K).

    Attributes:
        wrong: the class that stands for each, (K,): a permutation that leaves none where it is.
    """

    wrong: Tensor

    def __init__(self, like: Tensor, classes: int, seed: int):
        super().__init__()
        self.linear = nn.Linear(_flat(like).shape[1], classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("wrong", derangement(classes, seed))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(_flat(x))  # type: ignore[no-any-return]


def _flat(x: Tensor) -> Tensor:
    """Inputs as vectors (N, D) of mean 0 and length `LENGTH`, large images at a coarser grain."""
    if x.dim() == 4 and max(x.shape[2:]) > SIDE:
        x = F.adaptive_avg_pool2d(x, SIDE)
    flat = x.flatten(1)
    return LENGTH * F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


def derangement(classes: int, seed: int) -> Tensor:
    """A random permutation (K,) without fixed points: one cycle through all classes."""
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


class Decoyed(nn.Module):
    """A net and its decoys; forward is the logarithm of both's masses, (N, K).

    The net's mass of class k is exp(v_k), that of all decoys together exp(strictness), so that the net's answer stands
    where it is large, and the decoys' where it is not. A decoy is never the class that the net finds most probable.
    """

    def __init__(self, net: nn.Module, decoys: nn.Module | None, strictness: float):
        super().__init__()
        self.net, self.decoys, self._strictness = net, decoys, strictness

    def forward(self, x: Tensor) -> Tensor:
        v = self.net(x)
        if self.decoys is None:
            return torch.logaddexp(v, torch.full_like(v, self._strictness - math.log(v.shape[1])))
        wrong = (SHARPNESS * self.decoys(x)).scatter(1, v.argmax(dim=1, keepdim=True), -torch.inf)
        return torch.logaddexp(v, self._strictness + wrong.log_softmax(dim=1))


@dataclass(frozen=True)
class RobustInI(Defense):
    """Isolation by an outlier class without a place in the answer, induction by decoys.

    Let v be the net's logits and let an outlier be a further class, whose logit is 0:

        L_task = mean log(1 + sum_k exp v_k(x)) - v_y(x),    L_ind = mean log(1 + sum_k exp v_k(z)),

    so that sum_k exp v_k is how much likelier an input is of the task than an outlier. A linear classifier d of the
    task learns to be wrong beside it, L_decoy = CE(d(x), w(y)), with w a secret permutation that moves every class.
    What is answered is

        log(exp v_k + exp(strictness) softmax(3 d)_k),   d_h = -inf for h = argmax v:

    v where the net is sure that the input is the task's, the decoys elsewhere.

    Why a *linear* d: a thief learns what is simplest first. Decoys are simple and of a piece, on the pixels themselves,
    and a linear classifier calls nine of ten task inputs by w's wrong name; so the thief's first lesson is wrong on the
    task, and the few outliers that are still answered honestly must undo it. Near-uniform answers teach nothing, which
    leaves those few as the whole lesson; wrong answers made from the net's own share its features, from which the thief
    learns the net's border.

    Args:
        strictness: the strength: the logarithm of how much likelier outliers are held to be than in training, where
            one input in two is. Every unit costs honest users accuracy on unusual inputs, and a thief more.
        decoys: whether outliers are answered with decoys. Without, the answer to them is uniform: an honest "unknown".
    """

    strictness: float = 0.0
    decoys: bool = True

    def __post_init__(self) -> None:
        require(math.isfinite(self.strictness), "strictness", "a finite number", self.strictness)

    @property
    def needs_outliers(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        return Cost(trained="a linear classifier" if self.decoys else "")

    def build(self, net: nn.Module, like: Tensor) -> nn.Module:
        with torch.no_grad():
            classes = net.eval()(like).shape[1]
        decoys = Decoys(like, classes, derive(seed_from(net), "decoys")) if self.decoys else None
        return Decoyed(net, decoys, self.strictness)

    def plain(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, Decoyed)
        return model.net

    def objective(self, model: nn.Module, like: Tensor, *, seed: int) -> Objective:
        return self._losses

    def _losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Task inputs and outliers go through the net together: batch normalization sees what it will see in use."""
        assert isinstance(model, Decoyed)
        x, y, z = batch
        assert z is not None, "fit hands outliers to whoever needs them"
        v = F.pad(model.net(torch.cat([x, z])), (0, 1))
        outlier = torch.full((len(z),), v.shape[1] - 1, device=v.device)
        terms = {"task": F.cross_entropy(v[: len(x)], y), "induction": F.cross_entropy(v[len(x) :], outlier)}
        if model.decoys is not None:
            terms["decoys"] = F.cross_entropy(model.decoys(x), model.decoys.wrong[y])  # type: ignore[index]
        return terms
