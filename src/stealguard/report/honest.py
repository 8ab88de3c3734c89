"""What honest users get of each setting, as its releases measured it on held-out inputs: means over victims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stealguard.report.cells import Group
from stealguard.report.grouping import over_victims
from stealguard.report.statistics import Spread
from stealguard.results import Row
from stealguard.results.honest import complaints

MEASURED = "served", "inputs", "chance", "alone", "start", "first", "outliers", "refused"
AT = "served_at_"  # begins the names of metrics of the curve


class Point(NamedTuple):
    """What a setting without memory answers at a strictness, in log odds."""

    strictness: float
    served: Spread
    outliers: Spread | None


class Honest(NamedTuple):
    """What users get of a group; None where no row says. `complaint` is what must not pass without a word, or ""."""

    group: Group
    served: Spread
    alone: Spread | None
    start: Spread | None
    first: Spread | None
    outliers: Spread | None
    refused: Spread | None
    curve: Sequence[Point]
    complaint: str


def honest_users(groups: Iterable[Group]) -> list[Honest]:
    """What users get, for the groups whose releases tell it."""
    found = []
    for group in groups:
        known = {name: _measured(group.rows, f"validation_{name}") for name in MEASURED}
        served, inputs, guess = (known.pop(name) for name in ("served", "inputs", "chance"))
        if served is not None and inputs is not None:
            means = {name: None if spread is None else spread.mean for name, spread in known.items()}
            chance = guess.mean if guess is not None else group.chance or 0.0
            told = complaints(
                {**means, "served": served.mean, "inputs": inputs.mean, "chance": chance},
                trained=not group.rows[0].victim.given,
            )
            found.append(Honest(group, served, **known, curve=_curve(group.rows), complaint=" ".join(told)))
    return found


def _curve(rows: Sequence[Row]) -> list[Point]:
    names = {name for row in rows for name in row.victim.metrics if name.startswith(AT)}
    values = sorted(float(name.removeprefix(AT)) for name in names)
    measured = ((s, _measured(rows, f"{AT}{s:g}"), _measured(rows, f"outliers_at_{s:g}")) for s in values)
    return [Point(s, served, outliers) for s, served, outliers in measured if served is not None]


def _measured(rows: Iterable[Row], name: str) -> Spread | None:
    return over_victims((row.victim.seed, row.victim.metrics.get(name)) for row in rows)
