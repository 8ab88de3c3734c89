"""Cells and groups: which rows are samples of one thing, whatever their order, and what each is called."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from report.made_up import audited, failed_row, grid, make_row, undefended_row
from stealguard.errors import Invalid
from stealguard.report.comparing import baselines
from stealguard.report.grouping import summary
from stealguard.report.lines import lines_of, most_stealable
from stealguard.report.naming import cell_text, natural, samples, titles
from stealguard.report.statistics import Spread
from stealguard.report.tables import render
from stealguard.results import Row


def test_a_summary_has_a_group_a_victim_and_a_cell_a_line() -> None:
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


def test_two_victims_of_one_name_are_told_apart() -> None:
    groups = summary([make_row(release_hash="a" * 64), make_row(release_hash="b" * 64)])
    assert [group.name for group in groups] == ["ini@aaaaaaaa", "ini@bbbbbbbb"]


def test_settings_that_differ_make_two_lines_and_show_in_their_titles() -> None:
    both = [{"budget": 9, "training": {"epochs": epochs, "lr": 0.1}} for epochs in (8, 50)]
    rows = [make_row(attack_settings=json.dumps(settings)) for settings in both]
    rows += [make_row(attack="jbda", clone=clone) for clone in ("vgg16", "lenet5")]
    rows += [make_row(attack="plain", attack_settings="{}")]
    assert sorted(titles(lines_of(summary(rows))).values()) == [
        "jbda (clone=lenet5)",
        "jbda (clone=vgg16)",
        "knockoff (training.epochs=50)",
        "knockoff (training.epochs=8)",
        "plain",
    ]


def test_the_most_stealable_lines_are_those_where_some_clone_reaches_most() -> None:
    rows = [make_row(pool=f"pool{number}", clone_accuracy=number / 10) for number in range(5)]
    rows += [make_row(pool="pool0", clone_accuracy=0.9, release="x", release_hash="x"), failed_row(pool="poolx")]
    assert [line.pool for line in most_stealable(summary(rows), 2)] == ["pool0", "pool4"]
    assert len(most_stealable(summary(rows), 99)) == 5


def test_victims_of_one_setting_are_pooled_and_their_clones_averaged_first() -> None:
    """Two victims: clones of 0.4 and 0.6 of one, of 0.8 of the other; the mean is over 0.5 and 0.8."""
    stolen = [(0, 0, 0.4), (0, 1, 0.6), (1, 0, 0.8)]
    rows = [
        make_row(setting="s", victim_seed=victim, release=f"r{victim}", release_hash=str(victim), seed=seed,
                 clone_accuracy=reached, benign_accuracy=0.9 + victim / 50)
        for victim, seed, reached in stolen
    ]  # fmt: skip
    (group,) = summary(rows)
    assert group.worst is not None
    assert group.worst.clone == Spread.of([0.5, 0.8])
    assert (group.worst.victims, samples(group.worst)) == (2, "2 victims, 3 clones")
    assert group.benign == Spread.of([0.9, 0.92])
    assert [victim.key for victim in group.victims] == ["0", "1"]
    assert group.superseded == 0


def test_releases_of_one_setting_and_seed_are_told_apart() -> None:
    """They began with other trained weights, which a setting does not tell; neither hides the other."""
    rows = [
        make_row(setting="s", release=name, release_hash=name * 64, clone_accuracy=reached, benign_accuracy=benign)
        for name, reached, benign in (("a", 0.9, 0.95), ("b", 0.3, 0.75))
    ]
    groups = summary(rows)
    assert [(group.benign, group.worst and group.worst.clone) for group in groups] == [
        (Spread(0.95, None, 1), Spread(0.9, None, 1)),
        (Spread(0.75, None, 1), Spread(0.3, None, 1)),
    ]
    assert groups[0].name != groups[1].name
    again = [make_row(setting="s", release="a", release_hash=key, clone_accuracy=0.5) for key in ("x", "y")]
    assert len(summary(again)) == 1, "one that was trained again, on another machine, counts once"


def test_one_victim_of_a_setting_has_its_interval_over_clones() -> None:
    (group,) = summary([make_row(setting="s", seed=seed, clone_accuracy=seed / 10) for seed in range(3)])
    assert group.worst is not None
    assert group.worst.clone == Spread.of([0, 0.1, 0.2])
    assert samples(group.worst) == "3 clones of one victim"


def test_old_rows_of_a_victim_join_its_newer_ones() -> None:
    old, new = make_row(labels="hard"), make_row(setting="s", victim_seed=4)
    (group,) = summary([old, new])
    assert len(group.cells) == 2
    assert [victim.seed for victim in group.victims] == [4]


def test_pooled_groups_are_named_by_what_differs() -> None:
    groups = summary(grid(victims=2, seeds=1))
    names = [group.name for group in groups if group.task.data == "mnist"]
    assert names[:3] == ["undefended · mnist", *(f"adaptive-misinformation tau={tau} · mnist" for tau in (0.3, 0.6))]
    assert "ini gamma=0.0 · mnist" in names
    assert {group.label for group in groups} == {name.removesuffix(" · mnist") for name in names}
    assert len({group.name for group in groups}) == len(groups) == 28
    one = summary([row for row in grid(data=["mnist"], victims=2, seeds=1) if row.victim.defense in ("none", "ini")])
    assert [group.name for group in one] == ["undefended", "ini gamma=0.0", "ini gamma=0.3"]


def test_settings_that_no_column_tells_apart_are_told_by_their_hash() -> None:
    rows = [
        make_row(setting=setting * 64, victim_seed=seed, release=f"{setting}{seed}", release_hash=f"{setting}{seed}")
        for setting in "ab"
        for seed in (0, 1)
    ]
    assert [group.name for group in summary(rows)] == ["ini@aaaaaaaa", "ini@bbbbbbbb"]


def test_two_nets_or_data_of_one_name_are_never_in_one_group() -> None:
    """The same names and even the same setting, but other contents; a row that does not say joins where it can."""
    for name in ("net_hash", "data_hash"):
        rows = [make_row(setting="s", seed=seed, **{name: content * 64}) for seed, content in enumerate("aab")]
        groups = summary(rows)
        assert sorted(len(group.rows) for group in groups) == [1, 2]
        assert len({group.name for group in groups}) == len({group.task for group in groups}) == 2
        (group,) = summary([*rows[:2], failed_row(setting="s", seed=3)])
        assert len(group.rows) == 3


def test_the_baseline_of_a_net_is_not_another_net_of_the_same_name() -> None:
    groups = summary([undefended_row(net_hash="a" * 64), make_row(net_hash="b" * 64)])
    assert baselines(groups) == {}


@pytest.mark.parametrize(("nets", "compared"), [("a", 1), ("ab", 0)])
def test_a_row_without_the_structure_of_its_net_is_of_the_only_net_of_that_name(nets: str, compared: int) -> None:
    defended = [make_row(net_hash=net * 64, release=net, release_hash=net) for net in nets]
    assert len(baselines(summary([undefended_row(), *defended]))) == compared


def test_two_clones_of_one_name_are_told_apart() -> None:
    rows = [make_row(clone="mine:Net", clone_hash=content * 64) for content in "ab"]
    assert sorted(titles(lines_of(summary(rows))).values()) == [
        "knockoff (clone=mine:Net@aaaaaaaa)", "knockoff (clone=mine:Net@bbbbbbbb)",
    ]  # fmt: skip


def test_names_are_in_natural_order() -> None:
    assert sorted(["x=10", "x=9.5", "x=9.25", "w"], key=natural) == ["w", "x=9.25", "x=9.5", "x=10"]
