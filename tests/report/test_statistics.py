"""Means, intervals and paired differences, by hand where they can be, and against scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stealguard.report.statistics import Difference, Spread, mean, pooled, t_quantile


def test_the_interval_is_students_by_hand() -> None:
    """0.90, 0.92, 0.97: mean 0.93, deviation sqrt((9 + 1 + 16) / 2) = sqrt(13) points, t(2) = 4.302653."""
    spread = Spread.of([0.90, 0.92, 0.97])
    assert spread is not None
    assert spread.mean == pytest.approx(0.93, abs=1e-15)
    assert spread.half == pytest.approx(4.302653 * math.sqrt(13) / 100 / math.sqrt(3), rel=1e-9)
    assert spread.n == 3
    assert (spread.low, spread.high) == (pytest.approx(0.8404333), 1.0)  # no accuracy is above 1


def test_two_values_have_an_interval_and_one_has_none() -> None:
    two, one = Spread.of([0.4, 0.6]), Spread.of([0.4])
    assert two is not None
    assert two.half == pytest.approx(12.706205 * 0.1, rel=1e-9)  # deviation sqrt(.02), over sqrt(2)
    assert one == Spread(0.4, None, 1)
    assert Spread.of([]) is None


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 6, 9, 10, 20, 30, 100, 1000])
def test_the_t_quantiles_are_right(df: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=2e-4)


def test_clones_of_one_victim_are_no_more_samples_of_it_than_one() -> None:
    """Two victims, of two clones and one: the means 0.3 and 0.9, not 0.2, 0.4 and 0.9."""
    assert pooled([(0, 0.2), (0, 0.4), (1, 0.9), (1, None)]) == pytest.approx([0.3, 0.9])
    assert pooled([(7, 0.2), (7, 0.4)]) == [0.2, 0.4]
    assert pooled([(0, None)]) == []
    assert mean([None, 0.5, 1.0]) == 0.75
    assert mean([None]) is None


def test_a_difference_may_be_negative_and_knows_whether_it_is_one() -> None:
    away, around, one = Difference.of([-0.2, -0.22]), Difference.of([-0.3, 0.1]), Difference.of([-0.5])
    assert away is not None
    assert around is not None
    assert one is not None
    assert (away.low, away.high) == (pytest.approx(-0.21 - 12.706205 * 0.01), pytest.approx(-0.21 + 12.706205 * 0.01))
    assert [away.excludes_zero, around.excludes_zero, one.excludes_zero] == [True, False, False]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1))
def test_pooling_keeps_the_range_and_never_makes_samples(values: list[tuple[int, float]]) -> None:
    found = pooled(values)
    victims = {victim for victim, _ in values}
    assert len(found) == (len(values) if len(victims) == 1 else len(victims))
    assert min(value for _, value in values) - 1e-12 <= min(found) <= max(found) <= max(v for _, v in values) + 1e-12
