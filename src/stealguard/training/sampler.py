"""Which rows a training step reads: a function of the seed and the epoch, whatever else draws random numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stealguard.seeds import derive


class Sampler:
    """The rows of each step: every row of the task at most once an epoch, and as many random rows of the outliers.

    A last batch that is not full is left out. A batch of one row has it twice, since batch normalization needs two.

    Args:
        rows: task inputs, at least 1.
        batch: how many of them a step reads, at least 1.
        outliers: how many outliers there are; 0 for none.
        seed: what the order follows from, together with the epoch.

    >>> sampler = Sampler(rows=5, batch=2, seed=0)
    >>> [len(rows) for rows, _ in sampler.epoch(0)]
    [2, 2]
    """

    def __init__(self, rows: int, batch: int, *, outliers: int = 0, seed: int):
        self._rows, self._outliers, self._seed = rows, outliers, seed
        self._size = min(batch, rows)

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return self._rows // self._size

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """For each step the task's rows, (B,), and the outliers', (B,) or, without outliers, (0,)."""
        generator = torch.Generator().manual_seed(derive(self._seed, "sampler", number))
        order = torch.randperm(self._rows, generator=generator)[: self.steps * self._size].view(self.steps, -1)
        drawn = torch.randint(max(1, self._outliers), order.shape, generator=generator)
        if self._size == 1:
            order, drawn = order.expand(-1, 2), drawn.expand(-1, 2)
        yield from zip(order, drawn if self._outliers else drawn[:, :0], strict=True)
