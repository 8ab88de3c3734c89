"""Means, Student's t-intervals and paired differences: plain functions of numbers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Spread:
    """A mean over n values, and half the width of its 95 % t-interval (None where n is 1). `low`, `high`: fractions."""

    mean: float
    half: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """None where there are no values. Their order does not matter, to the last bit."""
        n = len(values)
        if n == 0:
            return None
        mean = math.fsum(values) / n
        if n == 1:
            return cls(mean, None, 1)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        return cls(mean, t_quantile(n - 1) * deviation / math.sqrt(n), n)

    @property
    def low(self) -> float:
        return max(0.0, self.mean - (self.half or 0.0))

    @property
    def high(self) -> float:
        return min(1.0, self.mean + (self.half or 0.0))


@dataclass(frozen=True)
class Difference(Spread):
    """A mean over n differences of paired values, in [-1, 1]."""

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is there and lies on one side of 0."""
        return self.half is not None and abs(self.mean) > self.half


def t_quantile(df: int) -> float:
    """The 97.5 % quantile of Student's t with `df` >= 1 degrees of freedom, to a relative error of 2e-4."""
    exact = (12.706205, 4.302653, 3.182446, 2.776445)
    if df <= len(exact):
        return exact[df - 1]
    # Abramowitz and Stegun 26.7.5, its polynomials evaluated at the normal quantile 1.959964
    return 1.959964 + 2.372271 / df + 2.822499 / df**2 + 2.555852 / df**3 + 1.589536 / df**4


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are not None; None where all are."""
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None


def pooled(values: Iterable[tuple[int, float | None]]) -> list[float]:
    """(victim, value) -> independent samples: a mean a victim where there are two or more, else its values themselves.

    Clones of one victim share that victim, so several of them are no more samples of it than one.
    """
    by_victim: dict[int, list[float]] = defaultdict(list)
    for victim, value in values:
        if value is not None:
            by_victim[victim].append(value)
    if len(by_victim) < 2:
        return [value for found in by_victim.values() for value in found]
    return [math.fsum(found) / len(found) for found in by_victim.values()]
