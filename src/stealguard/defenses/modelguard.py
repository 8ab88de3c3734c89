"""ModelGuard: the least informative answers within a budget (Tang et al., USENIX Security 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stealguard.defenses.base import Cost, Defense, Plain, Rule
from stealguard.errors import require
from stealguard.simplex import check_budget, toward
from stealguard.types import Guard, Scope, State

SMALLEST = 1e-6  # added to probabilities before their logarithm, as in the authors' program
MARGIN = 1e-5  # of the mass, set aside so that the most probable class is alone at the top


@dataclass(frozen=True)
class ModelGuardW(Defense):
    """min over y' of sum_k y'_k log y_k, with y' on the simplex within L1 distance `eps` of y and the same top class.

    ModelGuard-W of "ModelGuard: Information-Theoretic Defense Against Model Extraction Attacks": the least likely
    answer is the one that an attacker who knows the defense can invert the least. It is a linear program a row, here
    solved exactly for whole batches (`least_likely`). The published program gives each row to a solver, and lets the
    top class lead by 1e-4, where here it gets 1e-5 of the mass in advance. The default budget is the authors'.

    Args:
        eps: strength: the L1 budget, in [0, 2].
    """

    # The top class is kept by construction: labels are the net's.
    countered_by = ("labels",)

    eps: float = 1.0

    def __post_init__(self) -> None:
        check_budget(self.eps)

    @property
    def distortion_limit(self) -> float:
        return self.eps

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        return Rule(self._perturbed)

    def _perturbed(self, y: Tensor) -> Tensor:
        if self.eps <= 2 * MARGIN:
            return y
        rows = y.double()
        moved = least_likely(rows / rows.sum(dim=1, keepdim=True), self.eps - 2 * MARGIN)
        top = torch.zeros_like(rows).scatter_(1, y.argmax(dim=1, keepdim=True), MARGIN)
        return ((1 - MARGIN) * moved + top).to(y)


def least_likely(y: Tensor, eps: float) -> Tensor:
    """The exact solution of the linear program, ties at the top allowed.

    With the top class held at t, the others' best answer is known: from the least probable class on, its running sums
    are the greatest that are allowed, min(j t, B_j(t), 1 - t), where B_j(t) is what the first j classes can hold when
    eps / 2 of mass moves and none stays above t. So the objective is a concave function of t alone, piecewise linear,
    and its maximum is found by intersecting tangents from both sides.

    Args:
        y: rows on the simplex, (N, K), in float64.
        eps: at least 0.
    """
    top = y.argmax(dim=1, keepdim=True)
    order = y.scatter(1, top, 2).argsort(dim=1, stable=True)  # the least probable first, the top class last
    held = _Held(y.gather(1, order), eps / 2)
    sums = torch.cat([held.running_sums(t := _best_top(held)), 1 - t], dim=1)
    others = sums.diff(dim=1, prepend=torch.zeros_like(t))
    return torch.zeros_like(y).scatter(1, order, torch.cat([others.clamp_min(0), t], dim=1))


class _Held:
    """The linear program with the top class held at t, (N, 1).

    Args:
        y: rows, (N, K), ascending but for the top class, which is the last.
        moved: how much mass may move.
    """

    def __init__(self, y: Tensor, moved: float):
        self.others, self.top, self.moved, self.classes = y[:, :-1], y[:, -1:], moved, y.shape[1]
        gain = -(y + SMALLEST).log()
        self.steps = gain[:, :-2] - gain[:, 1:-1]  # gain of the growth of a running sum
        self.balance = gain[:, -1:] - gain[:, -2:-1]  # gain of a growth of t, at the expense of the last of the others
        self.count = torch.arange(1, y.shape[1] - 1, device=y.device, dtype=y.dtype)
        self.whole = self.others[:, :-1].cumsum(dim=1)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The t between which there is an answer: as low as `moved` can bring all classes, as high as it can lift."""
        falling = torch.cat([self.others, self.top], dim=1).flip(1)
        sizes = torch.arange(1, falling.shape[1] + 1, device=falling.device, dtype=falling.dtype)
        level = ((falling.cumsum(dim=1) - self.moved) / sizes).amax(dim=1, keepdim=True)
        return level.clamp_min(1 / falling.shape[1]), (self.top + self.moved).clamp_max(1)

    def branches(self, t: Tensor) -> Tensor:
        """The three bounds of the running sums of all others but the last, (3, N, K - 2)."""
        above = (self.others[:, :-1] - t).clamp_min(0).cumsum(dim=1) + (t - self.top).clamp_min(0)
        filled = self.count * t
        return torch.stack([filled, self.whole + self.moved - above, (1 - t).expand_as(filled)])

    def running_sums(self, t: Tensor) -> Tensor:
        return self.branches(t).amin(dim=0)

    def tangent(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The objective at t but for a constant, and its slope there, (N, 1) each."""
        sums, which = self.branches(t).min(dim=0)
        above = (self.others[:, :-1] > t).to(t).cumsum(dim=1) - (t > self.top).to(t)
        slopes = torch.where(which == 0, self.count, torch.where(which == 1, above, -torch.ones_like(above)))
        value = self.balance * t + (self.steps * sums).sum(dim=1, keepdim=True)
        return value, self.balance + (self.steps * slopes).sum(dim=1, keepdim=True)


def steps_of(classes: int) -> int:
    """Tangents that are drawn for a row, about twice as many as the worst of two million drawn rows needed.

    >>> [steps_of(k) for k in (2, 10, 1000)]
    [8, 12, 24]
    """
    return 2 * classes.bit_length() + 4


def _best_top(held: _Held) -> Tensor:
    """The t of the greatest objective, (N, 1): tangents are never below it, so where two meet on it is the maximum.

    All rows take as many steps, whatever they are, so that the time of an answer tells nothing of it.
    """
    low, high = held.bounds()
    (f_low, up), (f_high, down) = held.tangent(low), held.tangent(high)
    best = torch.where(up <= 0, low, high)
    open_ = (up > 0) & (down < 0) & (low < high)
    for _ in range(steps_of(held.classes)):
        middle = (low + (f_high - f_low - down * (high - low)) / (up - down)).clamp(low, high)
        bound = f_low + up * (middle - low)
        value, slope = held.tangent(middle)
        best = torch.where(open_, middle, best)
        open_ &= (value < bound - 1e-13) & (slope != 0) & (low < middle) & (middle < high)  # or the bracket is closed
        rising = slope > 0
        low, f_low, up = (torch.where(rising, new, old) for new, old in ((middle, low), (value, f_low), (slope, up)))
        high, f_high, down = (
            torch.where(rising, old, new) for new, old in ((middle, high), (value, f_high), (slope, down))
        )
    return best


@dataclass(frozen=True)
class ModelGuardS(Defense):
    """Ordered incremental quantization: every answer is the first codeword of its class within L1 distance `eps`.

    ModelGuard-S of the same paper, with its program's settings: an answer that no codeword is near becomes one itself,
    so that the same query has the same answer from then on. One book of codewords serves all accounts. The program's
    book grows without end. Here it holds `codewords` in all, and once it is full, an answer that none is near moves as
    far towards the nearest of its class as the budget allows (and stays as it is if its class has none).

    Args:
        eps: strength: the L1 budget, in [0, 2].
        codewords: how many are remembered, at least 1.
    """

    # The top class is kept by construction: labels are the net's.
    countered_by = ("labels",)

    eps: float = 1.0
    codewords: int = 1024

    def __post_init__(self) -> None:
        check_budget(self.eps)
        require(self.codewords >= 1, "codewords", "at least 1", self.codewords)

    @property
    def distortion_limit(self) -> float:
        return self.eps

    @property
    def cost(self) -> Cost:
        return Cost(state=f"up to {self.codewords:,} answers, of all accounts together")

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        return Quantized(self)


class Quantized(Plain):
    """Answers with codewords, and remembers each, (M, K) in the order in which they are tried, as `codewords`.

    The rows of a batch come one after the other. All accounts share one book of codewords.
    """

    scope: ClassVar[Scope] = "shared"

    def __init__(self, settings: ModelGuardS):
        self._eps, self._capacity = settings.eps, settings.codewords

    def start(self) -> State:
        return {"codewords": torch.empty(0, 0)}

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        """
        Raises:
            Invalid: there are no codewords in `state`, more than there is room for, or some of other classes.
        """
        y = self.answer(outputs, x)
        book = self._book(state, y)
        found = self._first_near(y, book)
        while (found < 0).any() and len(book) < self._capacity:  # as often, in all, as the book has room
            word = y[found < 0][:1]
            found = torch.where((found < 0) & self._near(y, word)[:, 0], len(book), found)
            book = torch.cat([book, word])
        told, far = book[found.clamp_min(0)], found < 0
        if far.any():
            told[far] = self._nearer(y[far], book)
        return told, {"codewords": book}

    def _book(self, state: State, y: Tensor) -> Tensor:
        """The codewords that are remembered; the first answer where there are none."""
        rule = f"a state with `codewords` (M, K), M at most {self._capacity}"
        require("codewords" in state, "state", rule, ", ".join(state) or "nothing")
        book = state["codewords"].to(y)
        require(book.dim() == 2 and len(book) <= self._capacity, "state", rule, tuple(book.shape))
        if not len(book):
            return y[:1].clone()
        require(book.shape[1] == y.shape[1], "codewords", f"of {y.shape[1]} classes, as answers are", book.shape[1])
        return book

    def _near(self, y: Tensor, book: Tensor) -> Tensor:
        """Which codewords (M, K) may stand for which answers (N, K): of the same class, within the budget. (N, M)"""
        return (torch.cdist(y, book, p=1) <= self._eps) & _same_class(y, book)

    def _first_near(self, y: Tensor, book: Tensor) -> Tensor:
        near = self._near(y, book)
        return torch.where(near.any(dim=1), near.int().argmax(dim=1), -1)

    def _nearer(self, y: Tensor, book: Tensor) -> Tensor:
        """Answers moved towards their class's nearest codeword; as they are if it has none."""
        distance = torch.cdist(y, book, p=1).masked_fill(~_same_class(y, book), torch.inf)
        least, nearest = distance.min(dim=1)
        return torch.where(least.isfinite()[:, None], toward(y, book[nearest], self._eps), y)


def _same_class(y: Tensor, book: Tensor) -> Tensor:
    return y.argmax(dim=1)[:, None] == book.argmax(dim=1)
