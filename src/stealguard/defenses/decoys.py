"""Consistently wrong answers: a linear classifier of the task into wrong classes, and a net that it answers beside."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.defenses.base import Defended
from stealguard.types import Batch

SIDE = 32  # pixels of a side at most, of what decoys are made from
LENGTH = 10.0  # of an input as decoys are made from it, so that one learning rate suits every task
SHARPNESS = 2.0  # factor on the decoys' logits, so that decoys are as confident as honest answers are
DOUBT = 0.1  # share of a decoy's answer that is uniform: it takes information from soft labels
STEEPNESS = 3.0  # how abruptly decoys replace the net's answers, and how little of these shows in them


class Decoys(nn.Module):
    """A linear classifier of inputs (N, *shape) into *wrong* classes; forward is its logits (N, K).

    Attributes:
        wrong: the class that stands for each, (K,): a permutation that moves every class.
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
    """Inputs as vectors (N, D) of mean 0 and length `LENGTH`, large images at a lower resolution."""
    if x.dim() == 4 and max(x.shape[2:]) > SIDE:
        x = F.adaptive_avg_pool2d(x, SIDE)
    flat = x.flatten(1)
    return LENGTH * F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


def derangement(classes: int, seed: int) -> Tensor:
    """A random permutation (K,) without fixed points: one cycle through all classes."""
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


class Decoyed(Defended):
    """A net and its decoys; forward is the logarithm of what is answered, (N, K).

    The net's answer has the weight g = sigmoid(STEEPNESS (log sum_k exp(v_k) - strictness)), the decoys' has 1 - g, so
    that the net answers where it is sure that an input is the task's. A decoy is never the class that the net finds
    most probable.

    Args:
        net: from inputs (N, *shape) to logits (N, K).
        decoys: from the same inputs to logits of wrong classes, (N, K).
        strictness: the log odds at which both answers weigh the same.
        doubt: the share of the decoys' answer that all classes have alike, in (0, 1]; at 1 there are no decoys.
    """

    def __init__(self, net: nn.Module, decoys: Decoys, strictness: float, doubt: float = DOUBT):
        super().__init__(net)
        self.decoys, self._strictness, self._doubt = decoys, strictness, doubt

    def forward(self, x: Tensor) -> Tensor:
        v = self.net(x)
        decoys = (SHARPNESS * self.decoys(x)).scatter(1, v.argmax(dim=1, keepdim=True), -torch.inf)
        wrong = (1 - self._doubt) * decoys.softmax(dim=1) + self._doubt / v.shape[1]
        odds = v.logsumexp(dim=1, keepdim=True)
        sure = STEEPNESS * (odds - self._strictness)
        return torch.logaddexp(v - odds + F.logsigmoid(sure), wrong.log() + F.logsigmoid(-sure))

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Task inputs and outliers go through the net together: batch normalization sees what it will see in use."""
        x, y, z = batch.x, batch.y, batch.z
        v = F.pad(self.net(torch.cat([x, z])), (0, 1))
        outlier = torch.full((len(z),), v.shape[1] - 1, device=v.device)
        return {
            "task": F.cross_entropy(v[: len(x)], y),
            "induction": F.cross_entropy(v[len(x) :], outlier),
            "decoys": F.cross_entropy(self.decoys(x), self.decoys.wrong[y]),
        }
