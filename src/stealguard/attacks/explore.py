"""Explore: make new queries of those that were answered honestly, since honest inputs have honest neighbors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from stealguard.attacks.base import QueryPool
from stealguard.attacks.selectors import Honest, SelectingAttack, Selector, chosen, unforeseen
from stealguard.attacks.transfer import FIRST, Transfer, lengthened, refuse_labels
from stealguard.attacks.variation import children
from stealguard.boxes.base import CHUNK
from stealguard.errors import require
from stealguard.seeds import derive, seeded
from stealguard.training.loop import Training, fit
from stealguard.types import Asked


@dataclass(frozen=True)
class Explore(SelectingAttack):
    """Random queries from a pool, then rounds of children of all that a selector takes for the net's own answers.

    A share `first` of the budget is asked from the pool. In each round, two parents of each child are drawn from all
    selected inputs, each with the weight 1 / (number of selected answers of its class), so that rare classes catch up.
    Children that are selected become parents. The clone trains on everything selected; on all answers if nothing is.
    While nothing is selected, rounds go on with the pool.

    `minimum` and `residual` are `Filter`'s. `consistency` needs no more than labels: an answer is selected that a
    decoy family fitted to the pool's labels does not foresee, and, if it is a child's, that is its parent's label as
    well. Children then have one parent each. A parent's credit is the share (with one success and one failure
    added) of its children that were selected; it multiplies the parent's weight, and the weight of its answer in the
    clone's training.

    Args:
        budget: queries, at least 1.
        selector: `minimum`, `residual` or `consistency`.
        threshold, share, trim, doubt: see `SelectingAttack`.
        first: the share of the budget that is asked from the pool, in (0, 1]; the pool must hold as many inputs.
        rounds: of children, at least 1.
        ranks: of `consistency`: a label is foreseen if it is among so many most probable classes, at least 1.
        training: how the clone trains.
        least: the least number of optimizer steps: few answers may pass.

    Raises:
        NotApplicable: the selector is `minimum`, and the first answers are labels alone, which are spent.
    """

    selectors: ClassVar[tuple[str, ...]] = ("minimum", "residual", "consistency")

    first: float = 0.4
    rounds: int = 4
    ranks: int = 2
    training: Training = field(default_factory=lambda: Training(epochs=60))
    least: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.first <= 1, "first", "in (0, 1]", self.first)
        for name in ("rounds", "ranks"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))

    @property
    def needed(self) -> int:
        return self._initial(self.budget)

    def __call__(
        self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int, honest: Honest | None = None
    ) -> nn.Module:
        """Ask and train; `honest` replaces the selector by the truth, for upper bounds."""
        size = min(self.budget, box.left)
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(derive(seed, "queries")))
        initial, transfer = self._initial(size), Transfer(size)
        transfer.ask(box, pool, order[: min(FIRST, initial)])
        if self.selector == "minimum" and honest is None:
            refuse_labels(transfer.answers)
        transfer.ask(box, pool, order[len(transfer) : initial])
        select = (lambda x, answers: honest(x)) if honest else self.selecting(transfer.x, transfer.answers)
        explored = _Explored(transfer, select, consistent=self.selector == "consistency" and honest is None)
        for number in range(self.rounds):
            wanted = min((size - len(transfer)) // (self.rounds - number), box.left)
            if explored.kept.any():
                with seeded(derive(seed, "children", number)):
                    made = list(explored.children(wanted))
                for x, parents in made:
                    explored.add(transfer.ask(box, x), parents)
            else:
                here = order[len(transfer) : len(transfer) + wanted]
                explored.add(transfer.ask(box, pool, here), None)
        kept = chosen(explored.kept)
        x, y = transfer.x[kept], (transfer.answers * explored.credit[:, None].to(transfer.answers))[kept]
        y = y / y.sum(dim=1).mean().clamp_min(1e-12)
        training = lengthened(self.training, len(x), self.least)
        fit(clone, x, y, training, seed=derive(seed, "clone"), progress=False)
        return clone

    def selecting(self, x: Tensor, answers: Tensor) -> Selector:
        if self.selector == "consistency":
            return unforeseen(x, answers, trim=self.trim, ranks=self.ranks)
        return super().selecting(x, answers)

    def _initial(self, size: int) -> int:
        return max(1, int(self.first * size))


class _Explored:
    """All inputs asked so far, which of them are selected, and how many of each one's children were.

    Args:
        transfer: the inputs asked so far and their answers; later ones are added to it.
        select: the selector.
        consistent: whether a child is selected only with its parent's label, and credit is given for it.

    Attributes:
        kept: which inputs are selected, (n,).
        credit: of each input, (n,), in (0, 1].
    """

    def __init__(self, transfer: Transfer, select: Selector, consistent: bool):
        self._transfer, self._select, self._consistent = transfer, select, consistent
        self.kept = select(transfer.x, transfer.answers).cpu()
        self._good = self._all = torch.zeros(len(transfer))

    @property
    def credit(self) -> Tensor:
        return (self._good + 1) / (self._all + 2) if self._consistent else torch.ones(len(self.kept))

    def children(self, n: int) -> list[tuple[Tensor, Tensor]]:
        """Children and their first parents' rows, (m, *shape) and (m,), chunk by chunk, n in all."""
        rows = self.kept.nonzero().squeeze(1)
        labels = self._transfer.answers[rows].argmax(dim=1).cpu()
        weights = self.credit[rows] / labels.bincount()[labels]
        pairs = rows[weights.multinomial(max(1, 2 * n), replacement=True)][: 2 * n].view(2, n)
        parts = zip(pairs[0].split(CHUNK), pairs[1].split(CHUNK), strict=True)
        return [(self._children(first, second), first) for first, second in parts if n]

    def _children(self, first: Tensor, second: Tensor) -> Tensor:
        return children(self._transfer.x[first], self._transfer.x[second], combined=not self._consistent)

    def add(self, answers: Tensor, parents: Tensor | None) -> None:
        """Select among the newest inputs; these are their answers, (m, K), and their parents' rows, at least (m,)."""
        x = self._transfer.x[len(self.kept) :]
        kept = self._select(x, answers).cpu() if len(x) else torch.empty(0, dtype=torch.bool)
        if parents is not None and self._consistent:
            parents = parents[: len(x)]
            kept &= (answers.argmax(dim=1) == self._transfer.answers[parents].argmax(dim=1)).cpu()
            self._good = self._good.index_add(0, parents, kept.float())
            self._all = self._all.index_add(0, parents, torch.ones(len(parents)))
        self.kept = torch.cat([self.kept, kept])
        self._good, self._all = (torch.cat([t, torch.zeros(len(x))]) for t in (self._good, self._all))
