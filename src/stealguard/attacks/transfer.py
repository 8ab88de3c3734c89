"""The transfer set: what a thief has had answered, and the answers."""

from __future__ import annotations

import torch
from torch import Tensor

from stealguard.boxes.base import ask
from stealguard.seeds import derive
from stealguard.types import Asked


class Transfer:
    """Room for `size` inputs and their answers, allocated once, so that memory is linear in the budget.

    Attributes:
        x: the inputs so far, (n, *shape).
        answers: the box's answers to them, (n, K).
    """

    def __init__(self, size: int):
        self._size, self._n = size, 0
        self._x = self._answers = torch.empty(0)

    @property
    def x(self) -> Tensor:
        return self._x[: self._n]

    @property
    def answers(self) -> Tensor:
        return self._answers[: self._n]

    def ask(self, box: Asked, x: Tensor) -> Tensor:
        """Have `x`, (m, *shape), answered as far as box and room allow; the new answers, (at most m, K)."""
        start = self._n
        for rows, answers in ask(box, x[: min(box.left, self._size - self._n)]):
            if not self._n:
                self._x = x.new_empty(self._size, *x.shape[1:])
                self._answers = answers.new_empty(self._size, answers.shape[1])
            there = slice(self._n, self._n + len(answers))
            self._x[there], self._answers[there] = x[rows], answers
            self._n = there.stop
        return self._answers[start : self._n]


def random_queries(box: Asked, pool: Tensor, budget: int, *, seed: int) -> Transfer:
    """Random inputs of the pool (N, *shape), answered as far as box and budget allow."""
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(derive(seed, "queries")))
    stolen = Transfer(min(budget, len(pool)))
    stolen.ask(box, pool[order[:budget]])
    return stolen
