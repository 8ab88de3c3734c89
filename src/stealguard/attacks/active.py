"""ActiveThief (Pal et al., AAAI 2020): the clone itself says which of the pool's inputs to ask next."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from stealguard.attacks.selection import boundary_distance, entropy, k_center
from stealguard.attacks.transfer import Transfer
from stealguard.boxes.base import Boxed
from stealguard.errors import pick, require
from stealguard.seeds import derive
from stealguard.training.loop import Training, fit
from stealguard.types import Asked

Strategy = Literal["uncertainty", "k-center", "dfal", "dfal+k-center", "random"]
STRATEGIES = dict.fromkeys(("uncertainty", "k-center", "dfal", "dfal+k-center", "random"))


@dataclass(frozen=True)
class ActiveThief:
    """Rounds of training on what has been answered and asking where the clone finds it worthwhile.

    As in the paper, a fifth of the budget is a random validation set that chooses each training's epoch, a tenth
    is asked at random to begin with, the rest in ten equal rounds, and every round trains from scratch. The paper
    chooses the epoch by the F1 measure; here it is accuracy.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
        strategy: what is asked next. `uncertainty`: where the clone's entropy is greatest. `k-center`: greedily what
            is farthest, in the clone's probabilities, from all that was asked. `dfal`: what is nearest to the clone's
            boundary, by DeepFool on its logits (the authors' program follows probabilities and divides by the
            gradient's norm once where DeepFool divides twice). `dfal+k-center`: k-center among the nearest, which are
            as many as the budget, or the same share of the candidates. `random`.
        rounds: after the first.
        initial, validation: shares of the budget, in [0, 1); without validation the last epoch's weights are kept.
        candidates: of how many random inputs, at least, a round chooses: 10,000, as the authors' program does for
            `dfal`; 0 for all there are, as in the paper.
        scratch: train from the first weights in each round rather than go on.
        training: how the thief trains in each round.
    """

    budget: int = 20_000
    strategy: Strategy = "k-center"
    rounds: int = 10
    initial: float = 0.1
    validation: float = 0.2
    candidates: int = 10_000
    scratch: bool = True
    training: Training = field(default_factory=lambda: Training(epochs=8))

    def __post_init__(self) -> None:
        require(self.budget >= 1, "budget", "at least 1", self.budget)
        pick(STRATEGIES, self.strategy, "strategy")
        require(self.rounds >= 1, "rounds", "at least 1", self.rounds)
        for name in ("initial", "validation"):
            require(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))
        shares = self.initial + self.validation
        require(shares <= 1, "initial, validation", "shares that leave room for each other", shares)
        require(self.candidates >= 0, "candidates", "at least 0", self.candidates)

    @property
    def needed(self) -> int:
        return self.budget

    def __call__(self, box: Asked, pool: Tensor, clone: nn.Module, *, seed: int) -> nn.Module:
        size = min(self.budget, box.left, len(pool))
        held, initial, *later = self._parts(size)
        generator = torch.Generator().manual_seed(derive(seed, "queries"))
        unasked = torch.randperm(len(pool), generator=generator)
        judge, stolen = Transfer(held), Transfer(size - held)
        stolen.ask(box, pool[unasked[held : held + initial]])  # first, for a box may refuse what comes later
        judge.ask(box, pool[unasked[:held]])
        unasked = unasked[held + initial :]
        first = copy.deepcopy(clone.state_dict())
        self._train(clone, first, stolen, judge, derive(seed, "clone", 0))
        for number, k in enumerate(later, start=1):
            rows = self._choose(clone, pool, unasked, stolen, k, size)
            stolen.ask(box, pool[unasked[rows]])
            rest = torch.ones(len(unasked), dtype=torch.bool).index_fill(0, rows, False)
            unasked = unasked[rest][torch.randperm(len(unasked) - k, generator=generator)]
            self._train(clone, first, stolen, judge, derive(seed, "clone", number))
        return clone

    def _parts(self, size: int) -> list[int]:
        """How many queries judge, how many begin (at least one), and how many each later round that has any asks."""
        initial = max(1, int(self.initial * size))
        held = min(int(self.validation * size), size - initial)
        ends = [(size - held - initial) * i // self.rounds for i in range(self.rounds + 1)]
        return [held, initial, *(b - a for a, b in pairwise(ends) if b > a)]

    def _train(self, clone: nn.Module, first: dict[str, Tensor], stolen: Transfer, judge: Transfer, seed: int) -> None:
        if self.scratch:
            clone.load_state_dict(first)
        known = None if not len(judge.x) else (judge.x, judge.answers.argmax(dim=1))
        training = self.training if known is None else replace(self.training, keep="best")
        fit(clone, stolen.x, stolen.answers, training, seed=seed, validation=known, progress=False)

    def _choose(self, clone: nn.Module, pool: Tensor, unasked: Tensor, stolen: Transfer, k: int, size: int) -> Tensor:
        """Which k of the inputs not yet asked, which stand in random order: rows of `unasked`."""
        if self.strategy == "random":
            return torch.arange(k)
        x = pool[unasked[: max(k, self.candidates or len(unasked))]]
        guess = Boxed(clone, tuple(pool.shape[1:]))
        if self.strategy == "uncertainty":
            return entropy(guess(x)).topk(k).indices.cpu()
        near = torch.arange(len(x))
        if self.strategy.startswith("dfal"):
            wanted = k if self.strategy == "dfal" else min(len(x), max(k, size * len(x) // len(unasked)))
            near = _distance(clone, x).topk(wanted, largest=False).indices.cpu()
        if self.strategy.endswith("k-center"):
            near = near[k_center(guess(x[near]), guess(stolen.x), k)]
        return near


def _distance(clone: nn.Module, x: Tensor) -> Tensor:
    return boundary_distance(clone, x.to(next(clone.parameters()).device))
