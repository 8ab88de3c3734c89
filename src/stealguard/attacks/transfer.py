"""The transfer set: the inputs that an attacker has had answered, and the answers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stealguard.attacks.base import QueryPool
from stealguard.boxes.base import CHUNK, ask
from stealguard.errors import NoAnswers, NotApplicable
from stealguard.seeds import derive
from stealguard.training.loop import Training
from stealguard.types import Asked

FIRST = 128  # queries that tell whether a box answers labels alone


class Transfer:
    """Room for `size` inputs and their answers, allocated once, so that memory is linear in the budget.

    Args:
        size: how many.
        needed: whether an attack can do nothing without any.

    Attributes:
        x: the inputs so far, (n, *shape).
        answers: the box's answers to them, (n, K).
    """

    def __init__(self, size: int, *, needed: bool = True):
        self._size, self._needed, self._n = size, needed, 0
        self._x = self._answers = torch.empty(0)

    def __len__(self) -> int:
        return self._n

    @property
    def x(self) -> Tensor:
        return self._x[: self._n]

    @property
    def answers(self) -> Tensor:
        return self._answers[: self._n]

    def ask(self, box: Asked, x: QueryPool, rows: Tensor | None = None) -> Tensor:
        """Have inputs answered as far as box and room allow, and keep both.

        Args:
            x: inputs (N, *shape).
            rows: which of them, (m,), in this order; all if None. They are read chunk by chunk.

        Returns:
            The new answers, (at most m, K).

        Raises:
            NoAnswers: none was ever answered, where some are needed.
        """
        start = self._n
        rows = torch.arange(len(x)) if rows is None else rows
        for part in rows[: min(box.left, self._size - self._n)].split(CHUNK):
            queries = x[part]
            for there, answers in ask(box, queries):
                self._add(queries[there], answers)
            if not box.left:
                break
        if self._needed and not self._n:
            raise NoAnswers
        return self._answers[start : self._n]

    def _add(self, x: Tensor, answers: Tensor) -> None:
        if not self._n:
            self._x = x.new_empty(self._size, *x.shape[1:])
            self._answers = answers.new_empty(self._size, answers.shape[1])
        there = slice(self._n, self._n + len(answers))
        self._x[there], self._answers[there] = x, answers
        self._n = there.stop


def random_queries(box: Asked, pool: QueryPool, budget: int, *, seed: int) -> Transfer:
    """Random inputs of the pool (N, *shape), answered as far as box and budget allow."""
    transfer = Transfer(min(budget, len(pool)))
    transfer.ask(box, pool, _order(pool, seed)[:budget])
    return transfer


def soft_queries(box: Asked, pool: QueryPool, budget: int, *, seed: int) -> Transfer:
    """`random_queries` for an attack that needs probabilities.

    Raises:
        NotApplicable: all of the first `FIRST` answers are labels alone. They are spent: only answers tell what a box
            answers.
    """
    transfer, order = Transfer(min(budget, len(pool))), _order(pool, seed)
    transfer.ask(box, pool, order[: min(budget, FIRST)])
    refuse_labels(transfer.answers)
    transfer.ask(box, pool, order[len(transfer) : budget])
    return transfer


def _order(pool: QueryPool, seed: int) -> Tensor:
    return torch.randperm(len(pool), generator=torch.Generator().manual_seed(derive(seed, "queries")))


def labels_only(answers: Tensor) -> Tensor:
    """Which rows (N,) of answers (N, K) have at most one entry that is not 0."""
    return (answers > 0).sum(dim=1) <= 1


def refuse_labels(answers: Tensor) -> None:
    """Raise `NotApplicable` if all answers (N, K) are labels alone."""
    if len(answers) and labels_only(answers).all():
        raise NotApplicable("This attack reads probabilities, and the first answers are labels alone.")


def lengthened(training: Training, inputs: int, least: int) -> Training:
    """The training with as many epochs as give at least `least` optimizer steps on this number of inputs."""
    steps = max(1, inputs // training.batch)
    return replace(training, epochs=max(training.epochs, -(-least // steps)))
