"""Paired differences by hand, and a best only where every interval carries it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from report.made_up import failed_row, make_row, undefended_row
from stealguard.report.comparing import Ranking, against, baselines, paired, rankings
from stealguard.report.facts import facts
from stealguard.report.grouping import summary
from stealguard.report.statistics import Difference, Spread
from stealguard.results import Row


def stolen(name: str, reached: Sequence[float], **changes: object) -> list[Row]:
    """One victim, a clone for each of `reached`."""
    return [
        make_row(**{"release": name, "release_hash": name, "seed": seed, "clone_accuracy": value} | changes)
        for seed, value in enumerate(reached)
    ]


def ranked(*rows: Row) -> Ranking:
    (found,) = rankings(summary(rows)).values()
    return found


def test_differences_are_paired_by_seed() -> None:
    """0.5, 0.7, 0.6 against 0.9, 1.0, 0.95: differences -0.4, -0.3, -0.35; the fourth clone has no partner."""
    base = [undefended_row(seed=seed, clone_accuracy=value) for seed, value in enumerate((0.9, 1.0, 0.95))]
    undefended, group = summary([*base, *stolen("ini", (0.5, 0.7, 0.6, 0.1))])
    found = against(group, group.worst, baselines([undefended, group])[group.name])
    assert found is not None
    assert found.mean == pytest.approx(-0.35)
    assert found.half == pytest.approx(4.302653 * 0.05 / math.sqrt(3))
    assert found.n == 3
    assert found.excludes_zero


def test_of_undefended_nets_with_the_same_attacks_the_one_that_was_trained_alike_is_the_baseline() -> None:
    """It is not the first in the alphabet."""
    rows = [
        make_row(release=name, release_hash=name, setting=name, defense=defense, training=f'{{"epochs": {epochs}}}')
        for name, defense, epochs in (("fast", "none", 1), ("usual", "none", 6), ("ini", "ini", 6))
    ]
    assert baselines(summary(rows))["ini"].name == "usual"


def test_the_pairs_of_one_victim_are_averaged_first() -> None:
    values = {(0, 0): (0.5, 0.9), (0, 1): (0.7, 0.9), (1, 0): (0.2, 0.9)}
    rows = []
    for (victim, seed), (reached, before) in values.items():
        where = {"victim_seed": victim, "seed": seed}
        rows.append(make_row(setting="d", release_hash=f"d{victim}", clone_accuracy=reached, **where))
        rows.append(undefended_row(setting="u", release_hash=f"u{victim}", clone_accuracy=before, **where))
    undefended, group = summary(rows)
    assert paired(group.worst, undefended.worst) == Difference.of([0.6 - 0.9, 0.2 - 0.9])


def test_without_a_shared_seed_there_is_no_difference() -> None:
    undefended, group = summary([undefended_row(seed=1), make_row(seed=2)])
    assert paired(group.worst, undefended.worst) is None
    assert paired(group.worst, None) is None


def test_a_best_needs_every_interval() -> None:
    clear = [*stolen("a", (0.1, 0.11, 0.12)), *stolen("b", (0.3, 0.32, 0.33)), *stolen("c", (0.5, 0.5, 0.5))]
    found = ranked(*clear, undefended_row())
    assert found.best is not None
    assert found.best.name == "a"
    assert found.sentence == (
        "lenet5 on mnist: best is a: the worst clone reaches 11.0 ± 2.5 %, at a benign accuracy of 97.5 %."
    )
    tied = ranked(*clear, *stolen("d", (0.11, 0.1, 0.13)))
    assert tied.best is None
    assert tied.sentence == "lenet5 on mnist: no best: intervals overlap (a is lowest, beside d)."


def test_one_seed_carries_no_best() -> None:
    found = ranked(*stolen("a", [0.1]), *stolen("b", [0.9]))
    assert found.best is None
    assert "it and b have fewer than two seeds in common" in found.sentence
    assert "audit them with the same seeds, two or more (`--seeds 0 1 2`)" in found.sentence


def test_a_defense_that_was_not_tested_with_every_attack_is_not_best() -> None:
    a, b = stolen("a", (0.1, 0.11)), stolen("b", (0.3, 0.3))
    spared = failed_row(release="a", release_hash="a", attack="jbda")
    found = ranked(*a, *b, spared, *stolen("b", (0.2, 0.2), attack="jbda"))
    assert found.best is None
    assert "a is lowest, but was not tested with 1 attack that others were tested with" in found.sentence
    assert ranked(*a, *b, *stolen("a", (0.1, 0.1), attack="jbda")).best is not None  # tested with more


def test_a_defense_whose_clones_may_only_need_other_names_is_not_best() -> None:
    inverted = stolen("a", (0.02, 0.021, 0.022))
    found = ranked(*inverted, *stolen("b", (0.3, 0.32, 0.33)), undefended_row())
    assert found.best is None
    assert "a is lowest, but its clones are below chance, and no renaming was measured" in found.sentence


def test_a_lone_defense_is_not_ranked_and_tasks_are_ranked_apart() -> None:
    assert rankings(summary([undefended_row(), make_row()])) == {}
    rows = [*stolen("a", (0.1, 0.1)), *stolen("b", (0.5, 0.5)), *stolen("x", (0.0, 0.0), data="kmnist")]
    (found,) = rankings(summary(rows)).values()
    assert found.best is not None
    assert found.best.label == "a"


def test_the_baseline_is_of_the_same_task_and_shares_most_lines() -> None:
    one = undefended_row(release="one", release_hash="1")
    two = [undefended_row(release="two", release_hash="2", labels=labels) for labels in ("soft", "hard")]
    rows = [one, *two, undefended_row(release="other", release_hash="3", net="vgg16")]
    groups = summary([*rows, make_row(), make_row(labels="hard")])
    assert {name: group.label for name, group in baselines(groups).items()} == {"ini · lenet5": "two"}


def test_facts_are_means_over_victims_and_ratios_to_a_plain_net() -> None:
    def row(victim: int, **changes: object) -> Row:
        return make_row(**{"victim_seed": victim, "release_hash": f"{changes}{victim}"} | changes)

    base = [
        row(0, setting="u", defense="none", protect_seconds=10.0),
        row(1, setting="u", defense="none", protect_seconds=30.0),
    ]
    ours = [
        row(victim, setting="d", ms_1=3.0 + victim, plain_ms_1=1.0, ms_64=1.0, plain_ms_64=0.5, top_1_kept=1.0,
            distortion=0.4, protect_seconds=40.0)
        for victim in (0, 1)
    ]  # fmt: skip
    undefended, group = summary([*base, *ours, row(0, setting="d", labels="hard", ms_1=9.0, plain_ms_1=3.0)])
    found = facts(group, undefended)
    assert found.cost_1 == Spread.of([3.0, 4.0])
    assert found.cost_64 == Spread.of([2.0, 2.0])
    assert found.distortion == Spread.of([0.4, 0.4])
    assert found.calibration_error is None
    assert found.training == Spread.of([2.0, 2.0])
    assert facts(group, None).training is None
    assert facts(undefended, None).training == Spread.of([0.5, 1.5])
