"""Maximizing Angular Deviation: answers that turn the clone's gradient (Orekondy, Schiele & Fritz, ICLR 2020)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from stealguard.defenses.base import Cost, Defense, Plain, Rule, surrogate_of
from stealguard.seeds import derive
from stealguard.simplex import check_budget, toward
from stealguard.types import Guard

UPWEIGHED = 1e-5  # added to the most probable class's share of a vertex, so that it stays alone at the top
ENUMERATED = 10  # classes up to which every vertex is tried; beyond, they are grown greedily
EVALUATIONS = 1024  # of the objective, after which growing stops


@dataclass(frozen=True)
class MAD(Defense):
    """max over y' of the angle between G^T y' and G^T y, with y' on the simplex within L1 distance `eps` of y.

    "Prediction Poisoning: Towards Defenses Against DNN Model Stealing Attacks", equations 4 to 7. G is the K x D
    Jacobian of -log q in the last layer's weights, for a surrogate's q = softmax(W h + b). There G^T y is the outer
    product of q - y and h whenever y sums to one, so that the angle is the one between q - y' and q - y in K
    dimensions: no Jacobian is needed, and any number of rows is one batch.

    The solver is the authors': the best vertex of the simplex, and as far towards it as `eps` allows. To keep the most
    probable class, vertices are the even shares among it and any set of others (all 2^(K-1) for K up to 10; beyond,
    sets grown by the best class at a time, until 1,024 were tried). Their program by default takes |G^T (y' - y)| for
    the objective in choosing the vertex (`objmax` off), and then the surrogate drops out: the vertex is the one
    farthest from y. It grows greedily beyond ten classes by the angle even so; here the farthest is exact for any K.
    The surrogate is a random network of the victim's architecture, as the authors' are. The defaults are the setting of
    their program's instructions.

    Args:
        eps: strength: the L1 budget, in [0, 2].
        keep_top: the most probable class stays so (the paper's MAD-argmax).
        objmax: choose the vertex by the angle itself; costs the surrogate's forward pass.
        seed: what the surrogate is drawn from.
    """

    # The top class tells what the turned answer hides; maps fitted to shadow models undo the change.
    countered_by = ("labels", "treatment:p-bayes", "treatment:d-dae")

    eps: float = 0.5
    keep_top: bool = False
    objmax: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_budget(self.eps)

    @property
    def distortion_limit(self) -> float:
        return self.eps

    @property
    def cost(self) -> Cost:
        return Cost(forwards=1.0 if self.objmax else 0.0)

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        if self.objmax:
            return Turned(net, self)
        vertex = farthest_keeping_top if self.keep_top else farthest
        return Rule(lambda y: toward(y, vertex(y), self.eps))


class Turned(Plain):
    """Answers that turn the gradient that a surrogate would get from them, from the head `surrogate`."""

    def __init__(self, net: nn.Module, settings: MAD):
        self._net, self._settings = net, settings
        self._vertex = widest_keeping_top if settings.keep_top else widest

    def heads(self) -> Mapping[str, nn.Module]:
        return {"surrogate": surrogate_of(self._net, derive(self._settings.seed, "mad", "surrogate"))}

    def answer(self, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        y = super().answer(outputs, x)
        return toward(y, self._vertex(y, outputs["surrogate"].softmax(dim=1)), self._settings.eps)


def farthest(y: Tensor) -> Tensor:
    """The vertex of the simplex farthest from each row, (N, K): all on the least probable class."""
    return torch.zeros_like(y).scatter_(1, y.argmin(dim=1, keepdim=True), 1)


def farthest_keeping_top(y: Tensor) -> Tensor:
    """The even share among the top class and some others that is farthest from each row, (N, K).

    Of all shares among m classes the farthest takes the m - 1 least probable others, for its squared distance is
    |y|^2 + (1 - 2 sum of y over the m) / m.
    """
    order = _top_first(y)
    sizes = torch.arange(1, y.shape[1] + 1, device=y.device, dtype=y.dtype)
    size = ((1 - 2 * y.gather(1, order).cumsum(dim=1)) / sizes).argmax(dim=1, keepdim=True)
    members = (torch.arange(y.shape[1], device=y.device) <= size).to(y)
    return torch.zeros_like(y).scatter(1, order, _even(members))


def widest(y: Tensor, q: Tensor) -> Tensor:
    """The vertex e_k of the simplex at which q - e_k is turned farthest from q - y, (N, K)."""
    y64, q64 = y.double(), q.double()
    r = q64 - y64
    along = (q64 * r).sum(dim=1, keepdim=True) - r
    squared = q64.square().sum(dim=1, keepdim=True) - 2 * q64 + 1
    worst = _cosine(along, squared).argmin(dim=1, keepdim=True)
    return torch.zeros_like(y).scatter_(1, worst, 1)


def widest_keeping_top(y: Tensor, q: Tensor) -> Tensor:
    """The even share v among the top class and others at which q - v is turned farthest from q - y, (N, K)."""
    order = _top_first(y)
    y64, q64 = y.double().gather(1, order), q.double().gather(1, order)
    found = _enumerated(y64, q64) if y.shape[1] <= ENUMERATED else _grown(y64, q64)
    return torch.zeros_like(y).scatter(1, order, found.to(y))


def _enumerated(y: Tensor, q: Tensor) -> Tensor:
    """Every vertex (2^(K-1), K) tried on rows whose top class comes first."""
    vertices, r = _vertices(y.shape[1]).to(y), q - y
    along = (q * r).sum(dim=1, keepdim=True) - r @ vertices.T
    squared = q.square().sum(dim=1, keepdim=True) - 2 * q @ vertices.T + vertices.square().sum(dim=1)
    return vertices[_cosine(along, squared).argmin(dim=1)]


@cache
def _vertices(classes: int) -> Tensor:
    """The even shares among the first class and any set of the others, (2^(K-1), K)."""
    others = torch.tensor(list(itertools.product((0.0, 1.0), repeat=classes - 1)), dtype=torch.float64)
    return _even(torch.cat([torch.ones_like(others[:, :1]), others], dim=1))


def _grown(y: Tensor, q: Tensor) -> Tensor:
    """The best vertex met while the best class at a time joins, in rows whose top class comes first."""
    r, members = q - y, torch.zeros_like(y)
    members[:, 0] = 1 + UPWEIGHED
    least, best = torch.full_like(y[:, 0], torch.inf), members
    for size, tried in _sizes(y.shape[1]):
        total = size + UPWEIGHED
        along = (q * r).sum(dim=1, keepdim=True) - ((members * r).sum(dim=1, keepdim=True) + r) / total
        inside = ((members * q).sum(dim=1, keepdim=True) + q) / total
        length = ((1 + UPWEIGHED) ** 2 + size - 1) / total**2
        cosine = _cosine(along, q.square().sum(dim=1, keepdim=True) - 2 * inside + length)
        value, joins = cosine.masked_fill(members > 0, torch.inf).min(dim=1)
        members = members.scatter_add(1, joins[:, None], torch.ones_like(value)[:, None])
        best = torch.where((value < least)[:, None], members, best)
        least = torch.minimum(least, value)
        if tried >= EVALUATIONS:
            break
    return best / best.sum(dim=1, keepdim=True)


def _sizes(classes: int) -> list[tuple[int, int]]:
    """The sizes a growing vertex takes, each with how many vertices were tried by then."""
    tried = itertools.accumulate(range(classes - 1, 0, -1))
    return list(enumerate(tried, start=2))


def _top_first(y: Tensor) -> Tensor:
    """Classes of each row, (N, K): the most probable first, then the others from the least probable on."""
    return y.scatter(1, y.argmax(dim=1, keepdim=True), -1).argsort(dim=1, stable=True)


def _even(members: Tensor) -> Tensor:
    """Even shares among the members, (N, K) of zeros and ones, but for a little more to the first."""
    members = members.clone()
    members[:, 0] += UPWEIGHED
    return members / members.sum(dim=1, keepdim=True)


def _cosine(along: Tensor, squared: Tensor) -> Tensor:
    """<q - v, q - y> / |q - v|, the cosine but for a factor that all v of a row share; a v = q turns nothing."""
    return torch.where(squared > 1e-24, along / squared.clamp_min(1e-24).sqrt(), torch.inf)
