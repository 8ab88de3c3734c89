"""How every bench measures: contenders interleaved in one run, and the median of the rounds' own ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from stealguard.results.provenance import hardware

Contender = Callable[[], object]


def heading(rounds: int, threads: int) -> str:
    """What the numbers below it were measured on, and what they mean."""
    return f"{hardware()}, {threads} thread(s), torch {torch.__version__}\n{rounds} rounds: median (least - greatest)"


def interleaved(
    contenders: dict[str, Contender], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each contender in each round by the clock, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in sorted(contenders, reverse=number % 2 == 1):
            start = clock()
            contenders[name]()
            if number > 0:
                seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> str:
    found = sorted(a / b for a, b in zip(seconds[above], seconds[below], strict=True))
    return f"{statistics.median(found):6.2f}  ({found[0]:.2f} - {found[-1]:.2f})"
