"""What a group's answers are worth to honest users, and what they cost: means over its victims."""

from __future__ import annotations

from typing import NamedTuple

from stealguard.report.cells import Group
from stealguard.report.grouping import over_victims
from stealguard.report.statistics import Spread


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
    rows = group.rows
    plain = over_victims((row.victim_seed, row.protect_seconds) for row in (baseline or group).rows)
    known = plain is not None and plain.mean > 0 and (group.undefended or baseline is not None)
    return Facts(
        over_victims((row.victim_seed, row.top_1_kept) for row in rows),
        over_victims((row.victim_seed, row.distortion) for row in rows),
        over_victims((row.victim_seed, row.calibration_error) for row in rows),
        over_victims((row.victim_seed, _ratio(row.ms_1, row.plain_ms_1)) for row in rows),
        over_victims((row.victim_seed, _ratio(row.ms_64, row.plain_ms_64)) for row in rows),
        over_victims((row.victim_seed, _ratio(row.protect_seconds, plain.mean)) for row in rows)
        if plain and known
        else None,
    )


def _ratio(taken: float | None, plain: float | None) -> float | None:
    return None if taken is None or not plain else taken / plain
