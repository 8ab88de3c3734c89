"""MemGuard: answers from which a membership classifier must guess (Jia et al., CCS 2019, arXiv 1909.10594)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.boxes.base import logits
from stealguard.defenses.base import Cost, Defense
from stealguard.defenses.hashing import projection, uniforms
from stealguard.errors import require
from stealguard.nets import seed_from
from stealguard.seeds import derive, seeded
from stealguard.simplex import check_budget
from stealguard.types import Batch, BlackBox, Objective

SEEN = 100  # of an answer's probabilities, the greatest, by the membership classifier
HIDDEN = (256, 128, 64)  # its layers
KEEPING = 10.0  # c2, the weight of keeping the most probable class
CLOSENESS = tuple(10.0**power for power in range(-1, 6))  # c3, the weights of the distortion, tried in this order
STRIDE = 0.1  # length of a step in the logits
ROUNDING = 1e-12  # below which a difference of answers is none: at e = 0 its sign would steer the search
SMALLEST = 1e-12  # probability whose logarithm is taken in the place of a smaller one's


class Held(nn.Module):
    """A net, and a classifier of its answers into those to inputs it learned from and others; forward is the net's.

    Args:
        net: from inputs to logits (N, K).
        share: of all inputs, that is not learned from.
    """

    key: Tensor

    def __init__(self, net: nn.Module, share: float):
        super().__init__()
        self.net, self._share = net, share
        self.register_buffer("key", torch.tensor(derive(seed_from(net), "held")))
        with seeded(derive(seed_from(net), "membership")):
            self.membership = Membership()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def members(self, x: Tensor) -> Tensor:
        """Which of x, (N, *shape) in [0, 1], are learned from: (N,). It follows from the input alone."""
        return self._draws(x)[:, 0] >= self._share

    def coins(self, x: Tensor) -> Tensor:
        """A number in [0, 1) for each of x, (N,), that has nothing to do with `members`."""
        return self._draws(x)[:, 1]

    def _draws(self, x: Tensor) -> Tensor:
        return uniforms(projection(x, int(self.key))[0], 2)


class Membership(nn.Module):
    """A classifier of answers (N, K) by their probabilities in falling order; forward is the log odds, (N,).

    For K up to 100 it is the authors' on sorted answers: the places that are left are zeros, and so weigh nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = (SEEN, *HIDDEN)
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.body = nn.Sequential(*layers, nn.Linear(HIDDEN[-1], 1))
        for part in self.body:
            if isinstance(part, nn.Linear):  # the authors' start; from torch's own it hardly learns
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, y: Tensor) -> Tensor:
        seen = y.topk(min(SEEN, y.shape[1]), dim=1).values
        return self.body(F.pad(seen, (0, SEEN - seen.shape[1])))[:, 0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class MemGuard(Defense):
    """Moves answers to where a membership classifier g is undecided, as often as an expected distortion allows.

    Training: a share of the inputs, chosen by an exact hash, is never learned from. The net learns from the others
    (members) by cross-entropy; g learns from the answers which is which, balanced, by a binary cross-entropy that the
    net does not feel. With an augmentation the hash sees altered inputs, so that every input is learned from in most of
    its guises and g finds nothing; nor is there anything to find where training starts from a net that already knows
    all inputs.

    Answering, the paper's algorithm 1 for all rows at once, with h the log odds of g and l the most probable class:

        min over e of  |h(y')| + c2 relu(max_{j != l} (z + e)_j - (z + e)_l) + c3 |y' - y|_1,   y' = softmax(z + e)

    by steps of length 0.1 from e = 0 until h has changed its sign and l is on top; c2 = 10, and c3 grows tenfold from
    0.1 to 10^5 for as long as that is reached in so many steps. Then y' is answered with the probability
    min(eps / |y' - y|_1, 1), or y if g is surer of y' than of y. The coin is the hash's, so that a question has one
    answer, whenever it is asked and whatever with.

    The authors' program trains g afterwards, on a set apart; here it is one run. Theirs sorts an answer before the
    steps and again after them; here g sees it sorted at every step. Here z = log y, which differs from the net's logits
    by a constant.

    Args:
        eps: the strength, in [0, 2]: how far an answer may be from y in expectation, in L1 distance. The authors go
            from 0.1 to 1.
        share: of the training inputs, which the net does not learn from, in (0, 1).
        steps: for each c3, counted from e = 0 on, at least 1: 300 in the authors' program.
    """

    answering = ("eps", "steps")

    eps: float = 1.0
    share: float = 0.1
    steps: int = 300

    def __post_init__(self) -> None:
        check_budget(self.eps)
        require(0 < self.share < 1, "share", "in (0, 1)", self.share)
        require(self.steps >= 1, "steps", "at least 1", self.steps)

    @property
    def distortion_limit(self) -> float:
        """`eps` bounds an expectation; a single answer may go as far as any."""
        return 2.0

    @property
    def cost(self) -> Cost:
        return Cost(trained=f"a membership classifier; {self.share:.0%} of the inputs are not learned from")

    def build(self, net: nn.Module, like: Tensor) -> nn.Module:
        return Held(net, self.share)

    def plain(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, Held)
        return model.net

    def objective(self, model: nn.Module, like: Tensor, *, seed: int) -> Objective:
        return self._losses

    def _losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, Held)
        members = model.members(batch.x)
        return {"task": _task(model.net, batch, members), "membership": self._telling(model, batch.x, members)}

    def _telling(self, model: Held, x: Tensor, members: Tensor) -> Tensor:
        """g's binary cross-entropy, members and others weighing the same in expectation, whoever is in the batch."""
        training = model.net.training
        with torch.autocast(x.device.type, enabled=False):  # as it will be when it answers
            odds = model.membership(logits(model.net, x).softmax(dim=1))
        model.net.train(training)
        weight = torch.where(members, 0.5 / (1 - self.share), 0.5 / self.share).to(odds)
        return F.binary_cross_entropy_with_logits(odds, members.to(odds), weight)

    def guard(self, box: BlackBox, model: nn.Module) -> BlackBox:
        assert isinstance(model, Held)
        return Undecided(box, model, self.eps, self.steps)


def _task(net: nn.Module, batch: Batch, members: Tensor) -> Tensor:
    """The members' cross-entropy; 0 for a batch without any."""
    if members.any():
        return F.cross_entropy(net(batch.x[members]), batch.y[members])
    return torch.stack([p.sum() for p in net.parameters()]).sum() * 0


class Undecided:
    """A box whose answers are exchanged, by a coin that follows from the question, for some that g cannot tell.

    g is asked in double precision: it takes many steps to an answer, in which roundings would add up.
    """

    def __init__(self, box: BlackBox, model: Held, eps: float, steps: int):
        self._box, self._model, self._eps, self._steps = box, model, eps, steps
        self._g = copy.deepcopy(model.membership).double().eval().requires_grad_(False)

    def __call__(self, x: Tensor, /) -> Tensor:
        y = self._box(x)
        rows = y.to(next(self._g.parameters()))
        moved = undecided(self._g, rows, self._steps).to(y)
        better = self._doubt(moved) < self._doubt(y)
        keeps = moved.argmax(dim=1) == y.argmax(dim=1)
        p = self._eps / (moved - y).abs().sum(dim=1).clamp_min(torch.finfo(y.dtype).tiny)
        taken = better & keeps & (self._model.coins(x).to(y.device) < p)
        return torch.where(taken[:, None], moved, y)

    def _doubt(self, y: Tensor) -> Tensor:
        """|g - 1/2| of answers (N, K), (N,)."""
        odds: Tensor = self._g(y.to(next(self._g.parameters())))
        return (odds.sigmoid() - 0.5).abs().to(y.device)


def undecided(h: nn.Module, y: Tensor, steps: int) -> Tensor:
    """Answers near those given at which h has another sign, (N, K); where none is found, the answers given.

    Args:
        h: from answers (N, K) to log odds (N,).
        y: rows on the simplex, (N, K).
        steps: for each c3, at least 1.
    """
    found, searched = y.clone(), torch.arange(len(y), device=y.device)
    for closeness in CLOSENESS:
        crossed, moved = _crossing(h, y[searched], closeness, steps)
        searched = searched[crossed]
        found[searched] = moved
    return found


def _crossing(h: nn.Module, y: Tensor, closeness: float, steps: int) -> tuple[Tensor, Tensor]:
    """Which of y (N, K) get to the other side of h with that weight of the distortion, (M,), and where, (M, K)."""
    top, z, side = y.argmax(dim=1, keepdim=True), y.clamp_min(SMALLEST).log(), h(y).sign()
    left = torch.arange(len(y), device=y.device)
    arrived, places = [left[:0]], [y[:0]]
    for _ in range(steps):
        if not len(left):
            break
        moved, odds, slope = _slope(h, z, y[left], top[left], closeness)
        there = (odds * side[left] <= 0) & (moved.argmax(dim=1) == top[left, 0])
        arrived.append(left[there])
        places.append(moved[there])
        left, z = left[~there], z[~there] - STRIDE * F.normalize(slope[~there], dim=1)
    order = torch.cat(arrived).argsort()
    return torch.cat(arrived)[order], torch.cat(places)[order]


def _slope(h: nn.Module, z: Tensor, y: Tensor, top: Tensor, closeness: float) -> tuple[Tensor, Tensor, Tensor]:
    """Answers softmax(z), their log odds, and the gradient of algorithm 1's loss in z."""
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        moved = z.softmax(dim=1)
        odds = h(moved)
        behind = F.relu(z.scatter(1, top, -torch.inf).amax(dim=1) - z.gather(1, top)[:, 0])
        far = F.softshrink(moved - y, ROUNDING).abs().sum(dim=1)
        loss = odds.abs() + KEEPING * behind + closeness * far
        (slope,) = torch.autograd.grad(loss.sum(), z)
    return moved.detach(), odds.detach(), slope
