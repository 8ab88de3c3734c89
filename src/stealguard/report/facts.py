"""What a group's answers are worth to its users, and what they cost: means over its victims."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from stealguard.report.cells import Group
from stealguard.report.grouping import over_victims
from stealguard.report.statistics import Spread
from stealguard.results import Row


class Facts(NamedTuple):
    """Of a group's answers; None where no row says."""

    top_1_kept: Spread | None  # share of the test set whose most probable class the guard leaves as it was
    distortion: Spread | None  # L1 distance that the guard puts between answers, in [0, 2]
    calibration_error: Spread | None
    cost_1: Spread | None  # time of an answer as a multiple of a plain net's, one at a time
    cost_64: Spread | None  # and in a batch of 64
    training: Spread | None  # time that protecting took, as a multiple of the baseline's mean


def facts(group: Group, baseline: Group | None) -> Facts:
    """The facts of `group`; its training time beside that of `baseline`, which is itself where it is undefended."""
    plain = _measured((baseline or group).rows, "protect_seconds")
    known = plain is not None and plain.mean > 0 and (group.undefended or baseline is not None)
    seconds = plain.mean if plain and known else None
    return Facts(
        _measured(group.rows, "top_1_kept"),
        _measured(group.rows, "distortion"),
        _measured(group.rows, "calibration_error"),
        _cost(group.rows, "ms_1"),
        _cost(group.rows, "ms_64"),
        over_victims(
            (row.victim.seed, _ratio(row.victim.metrics.get("protect_seconds"), seconds)) for row in group.rows
        ),
    )


def _measured(rows: Iterable[Row], name: str) -> Spread | None:
    return over_victims((row.victim.seed, row.victim.metrics.get(name)) for row in rows)


def _cost(rows: Iterable[Row], name: str) -> Spread | None:
    """A time as a multiple of the plain net's."""
    measured = ((row.victim.seed, row.victim.metrics) for row in rows)
    return over_victims((seed, _ratio(of.get(name), of.get(f"plain_{name}"))) for seed, of in measured)


def _ratio(taken: float | None, plain: float | None) -> float | None:
    return None if taken is None or not plain else taken / plain
