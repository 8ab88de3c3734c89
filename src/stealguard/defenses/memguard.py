"""MemGuard: answers that a membership classifier cannot tell apart (Jia et al., CCS 2019, arXiv 1909.10594)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.boxes.base import logits
from stealguard.defenses.base import Cost, Defended, Defense, Plain, evaluating
from stealguard.defenses.hashing import projection, uniforms
from stealguard.errors import require
from stealguard.nets import seed_from
from stealguard.seeds import derive, seeded
from stealguard.simplex import check_budget
from stealguard.types import Batch

SEEN = 100  # of an answer's probabilities, the greatest, by the membership classifier
HIDDEN = (256, 128, 64)  # its layers
KEEPING = 10.0  # c2, the weight of keeping the most probable class
CLOSENESS = tuple(10.0**power for power in range(-1, 6))  # c3, the weights of the distortion, tried in this order
STRIDE = 0.1  # length of a step in the logits
ROUNDING = 1e-12  # smaller differences of answers count as none: at e = 0 their sign would direct the search
SMALLEST = 1e-12  # smaller probabilities are replaced by this one before their logarithm is taken


class Membership(nn.Module):
    """A classifier of answers (N, K) by their probabilities in falling order; forward is the log odds, (N,).

    It tells answers to inputs that were learned from (members) from answers to others. For K up to 100 it is the
    authors' on sorted answers: the places that are left are zeros, and so weigh nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = (SEEN, *HIDDEN)
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.body = nn.Sequential(*layers, nn.Linear(HIDDEN[-1], 1))
        for part in self.body:
            if isinstance(part, nn.Linear):  # the authors' initialization; with torch's own it hardly learns
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, y: Tensor) -> Tensor:
        seen = y.topk(min(SEEN, y.shape[1]), dim=1).values
        return self.body(F.pad(seen, (0, SEEN - seen.shape[1])))[:, 0]  # type: ignore[no-any-return]


class MembershipHash(nn.Module):
    """What an exact hash of an input says: whether it is learned from, and a number that is independent of that.

    Args:
        key: of the hash.
        share: of all inputs, that is not learned from, in (0, 1).
    """

    key: Tensor

    def __init__(self, key: int, share: float):
        super().__init__()
        self._share = share
        self.register_buffer("key", torch.tensor(key))

    def members(self, x: Tensor) -> Tensor:
        """Which of x, (N, *shape) in [0, 1], are learned from: (N,)."""
        return self._draws(x)[:, 0] >= self._share

    def coins(self, x: Tensor) -> Tensor:
        """A number in [0, 1) for each of x, (N,), independent of `members`."""
        return self._draws(x)[:, 1]

    def _draws(self, x: Tensor) -> Tensor:
        return uniforms(projection(x, int(self.key))[0], 2)


class Undecided(Plain):
    """Exchanges answers, by a coin that follows from the query, for some from which g cannot tell members.

    g is computed in double precision: an answer takes many steps, in which rounding errors would add up.
    """

    def __init__(self, membership: Membership, split: MembershipHash, settings: MemGuard):
        self._membership, self._split, self._settings = membership, split, settings

    def answer(self, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        y = super().answer(outputs, x)
        g = copy.deepcopy(self._membership).double().eval().requires_grad_(False)
        rows = y.to(next(g.parameters()))
        moved = undecided(g, rows, self._settings.steps).to(y)
        better = _doubt(g, moved.to(rows)) < _doubt(g, rows)
        keeps = moved.argmax(dim=1) == y.argmax(dim=1)
        p = self._settings.eps / (moved - y).abs().sum(dim=1).clamp_min(torch.finfo(y.dtype).tiny)
        taken = better.to(y.device) & keeps & (self._split.coins(x).to(y.device) < p)
        return torch.where(taken[:, None], moved, y)


def _doubt(g: nn.Module, y: Tensor) -> Tensor:
    """|g - 1/2| of answers (N, K), (N,)."""
    odds: Tensor = g(y)
    return (odds.sigmoid() - 0.5).abs()


class Held(Defended):
    """The user's net, a `split` that says what it learns from, and the `membership` classifier of its answers.

    Args:
        net: from inputs to logits (N, K), which are forward's.
        settings: the defense.
    """

    def __init__(self, net: nn.Module, settings: MemGuard):
        split = MembershipHash(derive(seed_from(net), "held"), settings.share)
        with seeded(derive(seed_from(net), "membership")):
            membership = Membership()
        super().__init__(net, Undecided(membership, split, settings))
        self.split, self.membership, self.settings = split, membership, settings

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        members = self.split.members(batch.x)
        return {"task": self._task(batch, members), "membership": self._membership_loss(batch.x, members)}

    def _task(self, batch: Batch, members: Tensor) -> Tensor:
        """The members' cross-entropy; 0 for a batch without any."""
        if members.any():
            return F.cross_entropy(self.net(batch.x[members]), batch.y[members])
        return torch.stack([p.sum() for p in self.net.parameters()]).sum() * 0

    def _membership_loss(self, x: Tensor, members: Tensor) -> Tensor:
        """g's binary cross-entropy, in which members and others weigh the same in expectation over batches."""
        with evaluating(self.net), torch.autocast(x.device.type, enabled=False):  # as the net is when it answers
            odds = self.membership(logits(self.net, x).softmax(dim=1))
        share = self.settings.share
        weight = torch.where(members, 0.5 / (1 - share), 0.5 / share).to(odds)
        return F.binary_cross_entropy_with_logits(odds, members.to(odds), weight)


@dataclass(frozen=True)
class MemGuard(Defense):
    """Moves answers to where a membership classifier g is undecided, as often as an expected distortion allows.

    Training: a share of the inputs, chosen by an exact hash, is never learned from. The net learns from the others
    (members) by cross-entropy. g learns from the answers which is which, balanced, by a binary cross-entropy whose
    gradient does not reach the net. With an augmentation the hash sees altered inputs, so that every input is learned
    from in most of its altered forms and g finds nothing. It finds nothing either where training starts from a net that
    has learned from all inputs.

    Answering, the paper's algorithm 1 for all rows at once, with h the log odds of g and l the most probable class:

        min over e of  |h(y')| + c2 relu(max_{j != l} (z + e)_j - (z + e)_l) + c3 |y' - y|_1,   y' = softmax(z + e)

    by steps of length 0.1 from e = 0 until h has another sign and l is the most probable; c2 = 10, and c3 grows tenfold
    from 0.1 to 10^5 for as long as that is reached in so many steps. Then y' is answered with the probability
    min(eps / |y' - y|_1, 1), or y if g is surer of y' than of y. The coin is the hash's, so that a query has one
    answer, at every request and in every batch.

    The authors' program trains g afterwards, on a separate set; here both are trained in one run. Theirs sorts an
    answer before the steps and again after them; here g sees it sorted at every step. Here z = log y, which differs
    from the net's logits by a constant.

    Args:
        eps: the strength, in [0, 2]: how far an answer may be from y in expectation, in L1 distance. The authors go
            from 0.1 to 1.
        share: of the training inputs, which the net does not learn from, in (0, 1).
        steps: for each c3, counted from e = 0 on, at least 1: 300 in the authors' program.
    """

    # The noise hides membership and keeps the top class: labels are the net's.
    countered_by = ("labels",)

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

    def build(self, net: nn.Module, like: Tensor) -> Defended:
        return Held(net, self)


def undecided(h: Callable[[Tensor], Tensor], y: Tensor, steps: int) -> Tensor:
    """Answers near the given ones at which h has another sign, (N, K); where none is found, the given ones.

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


def _crossing(h: Callable[[Tensor], Tensor], y: Tensor, closeness: float, steps: int) -> tuple[Tensor, Tensor]:
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


def _slope(
    h: Callable[[Tensor], Tensor], z: Tensor, y: Tensor, top: Tensor, closeness: float
) -> tuple[Tensor, Tensor, Tensor]:
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
