"""Changes of answers: pure functions from rows on the simplex, (N, K), to rows on the simplex."""

from __future__ import annotations

import torch
from torch import Tensor

from stealguard.errors import require


def check_budget(eps: float) -> None:
    """Raise `Invalid` unless `eps` can be an L1 distance between rows on the simplex: in [0, 2]."""
    require(0 <= eps <= 2, "eps", "in [0, 2]", eps)


def toward(y: Tensor, target: Tensor, eps: float) -> Tensor:
    """The point on the straight line from `y` to `target`, both (N, K), at an L1 distance of `eps` or at the target.

    The most probable class stays the most probable if it is the target's too: rounding is monotone.

    >>> toward(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]]), 0.5)
    tensor([[0.3750, 0.3750, 0.2500]])
    """
    distance = (target - y).abs().sum(dim=1, keepdim=True)
    share = (eps / distance.clamp_min(torch.finfo(y.dtype).tiny)).clamp_max(1)
    return (1 - share) * y + share * target


def steepest(y: Tensor, gain: Tensor, eps: float) -> Tensor:
    """The y' on the simplex within L1 distance `eps` of `y` with the greatest sum_k gain_k y'_k: a linear program.

    Exact and greedy (Mazeika, Li & Forsyth 2022, algorithm 1): the class of the greatest gain receives up to eps / 2,
    and the classes of the least gains lose all they have, one after the other.

    Args:
        y: rows on the simplex, (N, K).
        gain: finite, (N, K).
        eps: at least 0.

    >>> steepest(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.0, 1.0, 2.0]]), 1.0)
    tensor([[0.0000, 0.2500, 0.7500]])
    """
    best = gain.argmax(dim=1, keepdim=True)
    order = gain.argsort(dim=1)
    givers = y.scatter(1, best, 0).gather(1, order)
    wanted = givers.sum(dim=1, keepdim=True).clamp_max(eps / 2)
    given = torch.minimum((wanted - (givers.cumsum(dim=1) - givers)).clamp_min(0), givers)
    left = y - torch.zeros_like(y).scatter(1, order, given)
    return left.scatter_add(1, best, given.sum(dim=1, keepdim=True))


def reverse_sigmoid(y: Tensor, beta: float | Tensor = 0.7, gamma: float = 0.2) -> Tensor:
    """y - beta (sigmoid(gamma logit(y)) - 1/2), renormalized (Lee et al., IEEE SPW 2019).

    The sigmoid is written without logarithms, so that it is finite at 0 and at 1.

    Args:
        y: rows on the simplex, (N, K).
        beta: in [0, 2), one for all rows or (N, 1).
        gamma: in (0, 1].
    """
    odds, against = y.clamp(0, 1).pow(gamma), (1 - y).clamp(0, 1).pow(gamma)
    return _bent(y, odds / (odds + against), beta)


def reverse_sigmoid_of(logits: Tensor, beta: float | Tensor = 0.7, gamma: float = 0.2) -> Tensor:
    """The same of y = softmax(logits), to the precision of the logits: near 1, a float says little about 1 - y.

    >>> reverse_sigmoid_of(torch.zeros(1, 2))
    tensor([[0.5000, 0.5000]])
    """
    log_y = logits.log_softmax(dim=1)
    y, top = log_y.exp(), log_y.argmax(dim=1, keepdim=True)
    log_rest = log_y.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)  # of 1 - y, for the greatest y
    log_others = torch.log1p(-y.clamp_max(0.5))  # and for all others, which are 1/2 at most
    against = torch.where(_places(y) == top, log_rest, log_others)
    return _bent(y, torch.sigmoid(gamma * (log_y - against)), beta)


def _places(y: Tensor) -> Tensor:
    return torch.arange(y.shape[1], device=y.device)


def _bent(y: Tensor, share: Tensor, beta: float | Tensor) -> Tensor:
    bent = (y - beta * (share - 0.5)).clamp_min(0)  # negative values are rounding errors of a zero
    return bent / bent.sum(dim=1, keepdim=True)
