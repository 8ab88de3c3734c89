"""Means, intervals, cells and releases: by hand where they can be, and whatever the order of the rows."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stealguard.report.numbers import Spread, cell_text, lines_of, most_stealable, summary, t_quantile, titles

from report.made_up import audited, failed_row, make_row
from stealguard.errors import Invalid
from stealguard.report.tables import render
from stealguard.rows import Row


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


def test_a_summary_has_a_group_a_release_and_a_cell_a_line() -> None:
    undefended, ini = summary(audited(seeds=3))
    assert (undefended.name, ini.name) == ("undefended", "ini")
    assert (undefended.undefended, ini.undefended) == (True, False)
    assert [(line.pool, line.labels) for line in ini.cells] == [
        ("cifar10-gray", "soft"),
        ("cifar10-gray", "hard"),
        ("letters", "soft"),
        ("letters", "hard"),
    ]
    assert ini.benign == Spread(0.963, None, 1)  # one victim, however often it was measured
    assert ini.worst is not None
    assert ini.worst.clone is not None
    assert (ini.worst.line.pool, ini.worst.line.labels) == ("letters", "soft")
    assert ini.worst.clone.mean == pytest.approx(0.926)
    assert ini.worst.clone.n == 3
    assert ini.worst.agreement == pytest.approx(0.93)


def test_the_worst_is_the_highest_mean_and_not_the_highest_seed() -> None:
    rows = [make_row(labels="soft", seed=0, clone_accuracy=0.9), make_row(labels="soft", seed=1, clone_accuracy=0.3)]
    (group,) = summary([*rows, make_row(labels="hard", clone_accuracy=0.7)])
    assert group.worst is not None
    assert group.worst.line.labels == "hard"


def test_no_rows_are_refused() -> None:
    with pytest.raises(Invalid, match="at least one audit row"):
        summary([])


@given(st.permutations([*audited(seeds=3), failed_row(seed=3), failed_row(status="skip", reason="no hard labels")]))
@settings(max_examples=30)
def test_the_order_of_the_rows_does_not_matter(rows: list[Row]) -> None:
    in_order = [*audited(seeds=3), failed_row(seed=3), failed_row(status="skip", reason="no hard labels")]
    assert summary(rows) == summary(in_order)
    assert render(rows, "json") == render(in_order, "json")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_mean_lies_within_its_interval_and_among_its_values(values: list[float]) -> None:
    (group,) = summary([make_row(seed=seed, clone_accuracy=value) for seed, value in enumerate(values)])
    assert group.worst is not None
    spread = group.worst.clone
    assert spread is not None
    assert min(values) - 1e-12 <= spread.mean <= max(values) + 1e-12
    assert 0 <= spread.low <= spread.mean + 1e-12
    assert spread.mean - 1e-12 <= spread.high <= 1
    assert spread.n == len(values)


def test_the_same_seed_twice_is_no_second_sample() -> None:
    old = make_row(clone_accuracy=0.2, when="2026-01-01T00:00:00Z", version="0.1.0")
    new = make_row(clone_accuracy=0.6, when="2026-02-01T00:00:00Z", version="0.2.0")
    (group,) = summary([new, old])
    assert group.worst is not None
    assert group.worst.clone == Spread(0.6, None, 1)
    assert group.superseded == 1


def test_failed_and_skipped_rows_stay_and_count_as_nothing() -> None:
    rows = [make_row(), failed_row(seed=1), failed_row(labels="hard", status="skip", reason="needs soft answers")]
    (group,) = summary(rows)
    assert len(group.rows) == 3
    assert [cell.clone and cell.clone.n for cell in group.cells.values()] == [1, None]
    assert [fault.reason for cell in group.cells.values() for fault in cell.faults] == [
        "out of memory",
        "needs soft answers",
    ]
    assert [cell_text(cell) for cell in group.cells.values()] == ["92.5", "skipped"]


def test_two_releases_of_one_name_are_told_apart() -> None:
    groups = summary([make_row(release_hash="a" * 64), make_row(release_hash="b" * 64)])
    assert [group.name for group in groups] == ["ini@aaaaaaaa", "ini@bbbbbbbb"]


def test_settings_that_differ_make_two_lines_and_show_in_their_titles() -> None:
    both = [{"budget": 9, "training": {"epochs": epochs, "lr": 0.1}} for epochs in (8, 50)]
    rows = [make_row(attack_settings=json.dumps(settings)) for settings in both]
    rows += [make_row(attack="jbda", thief=thief) for thief in ("vgg16", "lenet5")]
    rows += [make_row(attack="plain", attack_settings="{}")]
    assert sorted(titles(lines_of(summary(rows))).values()) == [
        "jbda (thief=lenet5)",
        "jbda (thief=vgg16)",
        "knockoff (training.epochs=50)",
        "knockoff (training.epochs=8)",
        "plain",
    ]


def test_the_most_stealable_lines_are_those_where_some_thief_gets_most() -> None:
    rows = [make_row(pool=f"pool{number}", clone_accuracy=number / 10) for number in range(5)]
    rows += [make_row(pool="pool0", clone_accuracy=0.9, release="x", release_hash="x"), failed_row(pool="poolx")]
    assert [line.pool for line in most_stealable(summary(rows), 2)] == ["pool0", "pool4"]
    assert len(most_stealable(summary(rows), 99)) == 5
