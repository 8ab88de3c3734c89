"""Cover: hide the queries of a theft among queries that look honest. An attack on detectors, original to stealguard."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stealguard.attacks.base import PoolAttack, QueryPool
from stealguard.attacks.transfer import Transfer, lengthened, refuse_labels
from stealguard.boxes.base import CHUNK
from stealguard.errors import require
from stealguard.seeds import derive
from stealguard.training.loop import Training, fit
from stealguard.types import Asked

NOISE = 0.01  # deviation of the noise on a repeated input


@dataclass(frozen=True)
class Cover(PoolAttack):
    """KnockoffNets whose queries are separated by repeats of inputs that the victim is sure of.

    A detector that judges the share or the distribution of an account's latest queries sees mostly repeats, with a
    little noise, of those of the first `first` inputs whose answers were the most confident. The attacker pays for
    them: only a share `1 - share` of the budget asks something new. The clone learns from these alone.

    Args:
        budget: queries, at least 1; the pool must hold `first` inputs, and as many as are asked beside the repeats.
        first: inputs that are asked before any repeat, at least 1: fewer than a detector needs for a verdict.
        sources: how many of them are repeated, at least 1.
        share: of repeats among the later queries, in [0, 1).
        training: how the clone trains.
        least: the least number of optimizer steps: few queries are new.

    Raises:
        NotApplicable: the first answers are labels alone, which say nothing about confidence.
    """

    first: int = 12
    sources: int = 4
    share: float = 0.9
    training: Training = field(default_factory=lambda: Training(epochs=8))
    least: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("first", "sources"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(0 <= self.share < 1, "share", "at least 0 and below 1", self.share)

    @property
    def needed(self) -> int:
        return min(self.budget, self.first + len(self._new(self.budget)))

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        size, generator = min(self.budget, box.left), torch.Generator().manual_seed(derive(seed, "queries"))
        order, transfer = torch.randperm(len(pool), generator=generator), Transfer(size)
        transfer.ask(box, pool, order[: self.first])
        refuse_labels(transfer.answers)
        sure = transfer.answers.max(dim=1).values.topk(min(self.sources, len(transfer))).indices
        repeated, asked = transfer.x[sure].clone(), torch.ones(size, dtype=torch.bool)
        new = self._new(size)
        asked[self.first :] = False
        asked[new] = True
        for start in range(self.first, size, CHUNK):
            if len(transfer) < start or not box.left:
                break
            part = torch.arange(start, min(start + CHUNK, size))
            x = self._noisy(repeated, len(part), generator)
            rows = order[self.first + int((new < start).sum()) :][: int(asked[part].sum())]
            x[asked[part]] = pool[rows].to(x)
            transfer.ask(box, x)
        kept = asked[: len(transfer)]
        x, answers = transfer.x[kept], transfer.answers[kept]
        fit(
            clone, x, answers, lengthened(self.training, len(x), self.least), seed=derive(seed, "clone"), progress=False
        )
        return clone

    def _new(self, size: int) -> Tensor:
        """Which of `size` queries ask something new after the first ones: evenly spaced."""
        later = max(0, size - self.first)
        count = round((1 - self.share) * later)
        return self.first + (torch.arange(count) * later / max(1, count)).long()

    def _noisy(self, repeated: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Repeats of random inputs, (n, *shape) in [0, 1]."""
        x = repeated[torch.randint(len(repeated), (n,), generator=generator)]
        return (x + NOISE * torch.randn(x.shape, generator=generator).to(x)).clamp(0, 1)
