"""ActiveThief (Pal et al., AAAI 2020): the clone itself chooses which of the pool's inputs are asked next."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from stealguard.attacks.base import PoolAttack, QueryPool
from stealguard.attacks.selection import boundary_distance, entropy, guesses, k_center
from stealguard.attacks.transfer import Transfer
from stealguard.boxes.base import CHUNK
from stealguard.devices import device_of
from stealguard.errors import pick, require
from stealguard.seeds import derive
from stealguard.training.loop import Training, fit
from stealguard.types import Asked

Strategy = Literal["uncertainty", "k-center", "dfal", "dfal+k-center", "random"]
STRATEGIES = dict.fromkeys(("uncertainty", "k-center", "dfal", "dfal+k-center", "random"))


@dataclass(frozen=True)
class ActiveThief(PoolAttack):
    """Rounds of training on the answers so far and asking the inputs that help the clone most.

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
        candidates: the least number of random inputs that a round chooses among: 10,000, as the authors' program does
            for `dfal`; 0 for all, as in the paper.
        scratch: train from the first weights in each round rather than go on.
        training: how the clone trains in each round.
    """

    strategy: Strategy = "k-center"
    rounds: int = 10
    initial: float = 0.1
    validation: float = 0.2
    candidates: int = 10_000
    scratch: bool = True
    training: Training = field(default_factory=lambda: Training(epochs=8))

    def __post_init__(self) -> None:
        super().__post_init__()
        pick(STRATEGIES, self.strategy, "strategy")
        require(self.rounds >= 1, "rounds", "at least 1", self.rounds)
        for name in ("initial", "validation"):
            require(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))
        shares = self.initial + self.validation
        require(shares <= 1, "initial, validation", "shares whose sum is at most 1", shares)
        require(self.candidates >= 0, "candidates", "at least 0", self.candidates)

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        size = min(self.budget, box.left, len(pool))
        held, initial, *later = self._parts(size)
        generator = torch.Generator().manual_seed(derive(seed, "queries"))
        unasked = torch.randperm(len(pool), generator=generator)
        validation, transfer = Transfer(held, needed=False), Transfer(size - held)
        transfer.ask(box, pool, unasked[held : held + initial])  # first, for a box may refuse what comes later
        validation.ask(box, pool, unasked[:held])
        unasked = unasked[held + initial :]
        first = copy.deepcopy(clone.state_dict())
        self._train(clone, first, transfer, validation, derive(seed, "clone", 0))
        for number, k in enumerate(later, start=1):
            rows = self._choose(clone, pool, unasked, transfer, k, size)
            transfer.ask(box, pool, unasked[rows])
            rest = torch.ones(len(unasked), dtype=torch.bool).index_fill(0, rows, False)
            unasked = unasked[rest][torch.randperm(len(unasked) - k, generator=generator)]
            self._train(clone, first, transfer, validation, derive(seed, "clone", number))
        return clone

    def _parts(self, size: int) -> list[int]:
        """Queries of the validation set, of the beginning (at least one), and of each later round that has any."""
        initial = max(1, int(self.initial * size))
        held = min(int(self.validation * size), size - initial)
        ends = [(size - held - initial) * i // self.rounds for i in range(self.rounds + 1)]
        return [held, initial, *(b - a for a, b in pairwise(ends) if b > a)]

    def _train(
        self, clone: nn.Module, first: dict[str, Tensor], transfer: Transfer, validation: Transfer, seed: int
    ) -> None:
        if self.scratch:
            clone.load_state_dict(first)
        known = (validation.x, validation.answers.argmax(dim=1)) if len(validation) else None
        training = self.training if known is None else replace(self.training, keep="best")
        fit(clone, transfer.x, transfer.answers, training, seed=seed, validation=known, progress=False)

    def _choose(
        self, clone: nn.Module, pool: QueryPool, unasked: Tensor, transfer: Transfer, k: int, size: int
    ) -> Tensor:
        """The k inputs to ask next among `unasked`, which is in random order: rows of `unasked`, (k,)."""
        if self.strategy == "random":
            return torch.arange(k)
        rows = unasked[: max(k, self.candidates or len(unasked))]
        if self.strategy == "uncertainty":
            return entropy(guesses(clone, pool, rows)).topk(k).indices.cpu()
        near = torch.arange(len(rows))
        if self.strategy.startswith("dfal"):
            wanted = k if self.strategy == "dfal" else min(len(rows), max(k, size * len(rows) // len(unasked)))
            near = _distance(clone, pool, rows).topk(wanted, largest=False).indices.cpu()
        if self.strategy.endswith("k-center"):
            near = near[k_center(guesses(clone, pool, rows[near]), guesses(clone, transfer.x), k)]
        return near


def _distance(clone: nn.Module, pool: QueryPool, rows: Tensor) -> Tensor:
    """How far each of these inputs is from the clone's boundary, (n,)."""
    device = device_of(clone)
    return torch.cat([boundary_distance(clone.eval(), pool[part].to(device)) for part in rows.split(CHUNK)])
