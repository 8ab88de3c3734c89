"""Words: nothing is claimed that the rows do not show."""

from __future__ import annotations

import pytest

from report.made_up import audited, failed_row, make_row, plain, undefended_row
from stealguard.report.comparing import baselines
from stealguard.report.grouping import summary
from stealguard.report.tables import render
from stealguard.report.verdicts import STRANGER, below_chance, explain, headline, notes, overall, verdicts
from stealguard.results import Row


def judged(rows: list[Row]) -> tuple[list[str], str, str]:
    """The verdicts, the overall word and the headline of the last release."""
    groups = summary(rows)
    baseline = baselines(groups).get(groups[-1].name)
    found = verdicts(groups[-1], baseline)
    return [verdict.word for verdict in found], overall(found), headline(groups[-1], baseline)


def test_a_defense_that_holds_on_an_in_family_pool_alone_holds_in_part() -> None:
    words, overall, headline = judged(audited())
    assert words == ["protected", "not protected"]
    assert overall == "holds in part"
    assert plain(headline) == (
        "With a budget of 20,000 queries on 1 account, a clone reaches 92.5 % on your test set "
        "(chance: 10.0 %; undefended: 97.7 %), which is 96.1 % of your accuracy. You pay 2.6 points of benign accuracy."
    )


def test_an_in_family_pool_alone_proves_nothing() -> None:
    words, overall, _ = judged([undefended_row(), make_row(in_family=True, clone_accuracy=0.1)])
    assert (words, overall) == (["protected"], "holds in part")


@pytest.mark.parametrize(
    ("reached", "word", "overall"),
    [
        ([0.4], "reduced", "holds in part"),
        ([0.15], "protected", "holds"),
        ([0.10, 0.12, 0.11], "protected", "holds"),
        ([0.12, 0.20, 0.17], "reduced", "holds in part"),  # near chance, but not with its interval
        ([0.46], "not protected", "does not hold"),
        ([0.45, 0.30, 0.44], "undecided", "undecided"),  # mean 0.397, and an interval that ends above 0.46
        ([0.30, 0.31, 0.32], "reduced", "holds in part"),
    ],
)
def test_protected_is_near_chance_and_reduced_is_below_half(reached: list[float], word: str, overall: str) -> None:
    rows = [make_row(seed=seed, clone_accuracy=value) for seed, value in enumerate(reached)]
    assert judged([undefended_row(clone_accuracy=0.92), *rows])[:2] == ([word], overall)


def test_an_attack_whose_interval_is_wide_is_not_passed_over_for_a_higher_mean() -> None:
    """Hard labels reach 13 % each time; soft ones 12 % on average, and 62 % in what the interval does not exclude."""
    found = {"hard": (0.13, 0.13, 0.13), "soft": (0.0, 0.0, 0.36)}
    rows = [
        make_row(labels=labels, seed=seed, clone_accuracy=value, metrics={"renamed_accuracy": value})
        for labels, values in found.items()
        for seed, value in enumerate(values)
    ]
    baseline = [undefended_row(labels=labels, clone_accuracy=0.92) for labels in found]
    assert judged([*baseline, *rows])[:2] == (["undecided"], "undecided")


def with_classes(classes: int, reached: float, undefended: float, **changes: object) -> list[Row]:
    return [
        undefended_row(classes=classes, clone_accuracy=undefended),
        make_row(classes=classes, clone_accuracy=reached, **changes),
    ]


def test_a_clone_near_chance_is_protected_although_it_reaches_half_of_the_undefended() -> None:
    """Eight classes: 13.0 % beside a chance of 12.5 % is nothing, although it is above half of 24 %."""
    assert judged(with_classes(8, 0.13, 0.24))[:2] == (["protected"], "holds")


@pytest.mark.parametrize(("undefended", "word"), [(0.2, "unknown"), (0.14, "unknown"), (0.22, "protected")])
def test_a_pool_from_which_attacks_gain_nothing_undefended_tells_nothing(undefended: float, word: str) -> None:
    """Eight classes: near chance is at most 21 %, a tenth of the way from 12.5 % to the benign accuracy."""
    assert judged(with_classes(8, 0.13, undefended))[0] == [word]


def test_a_pool_that_tells_nothing_does_not_make_a_defense_hold() -> None:
    useless = {"pool": "noise", "clone_accuracy": 0.1}
    rows = [undefended_row(), undefended_row(**useless), make_row(clone_accuracy=0.9), make_row(**useless)]
    words, overall, _ = judged(rows)
    assert (words, overall) == (["not protected", "unknown"], "does not hold")


def test_the_floor_is_the_share_of_the_most_frequent_class() -> None:
    """Two classes: 90.5 % is nothing where nine of ten inputs are of one class; 1 / K would call it not protected."""
    told = {"chance": 0.9, "renamed_accuracy": 0.905}
    rows = with_classes(2, 0.905, 0.97, metrics=told)
    rows[0].metrics["chance"] = 0.5  # of an earlier version
    assert judged(rows)[:2] == (["protected"], "holds")
    assert "(chance: 90.0 %; undefended: 97.0 %)" in plain(judged(rows)[2])
    assert not below_chance(summary(rows)[1])
    assert "Below chance, which is 90.0 %" in plain(below_chance(summary(with_classes(2, 0.5, 0.97, metrics=told))[1]))


def test_rows_of_earlier_versions_do_not_lower_chance() -> None:
    rows = [make_row(classes=2, seed=seed, metrics={"chance": value}) for seed, value in enumerate((0.5, 0.9))]
    (group,) = summary(rows)
    assert group.chance == 0.9


def test_attacks_that_gain_nothing_undefended_are_noted() -> None:
    undefended, ini = summary(with_classes(8, 0.13, 0.14))
    assert "Clones of plain learned next to nothing" in " ".join(notes([undefended, ini]))


@pytest.mark.parametrize(("queries", "noted"), [(20_000, True), (4, False)])
def test_few_answers_are_why_a_clone_learned_nothing(queries: int, noted: bool) -> None:
    (alone,) = summary([make_row(clone_accuracy=0.1, queries=queries)])
    assert ("learned next to nothing" in " ".join(notes([alone]))) == noted


@pytest.mark.parametrize("defense", ["", "none", "ini"])
def test_clones_that_learned_nothing_are_told_with_what_to_try(defense: str) -> None:
    """Nine in ten inputs are of one class; no undefended model shows that these attacks can do anything."""
    told = {"benign_accuracy": 0.97, "metrics": {"chance": 0.9}, "defense": defense, "classes": 2}
    assert "try `--set training.epochs=100`" in " ".join(render([make_row(**told, clone_accuracy=0.9)]).split())
    assert "training.epochs" not in render([make_row(**told, clone_accuracy=0.94)])
    beside = [undefended_row(**told | {"defense": "none"}, clone_accuracy=0.95), make_row(**told, clone_accuracy=0.9)]
    assert ("training.epochs" in render(beside)) == (defense != "ini")


def test_two_classes_below_chance_are_told_with_what_swapping_gives() -> None:
    rows = with_classes(2, 0.34, 0.95)
    assert judged(rows)[:2] == (["not protected"], "does not hold")
    ini = summary(rows)[1]
    assert plain(below_chance(ini)) == (
        "Below chance, which is 50.0 %: knockoff, letters, soft 34.0 %, 66.0 % after the best renaming. "
        "There answers may be inverted, and renaming classes tells."
    )
    assert "34.0† (66.0 renamed)" in render(rows)


def test_a_clone_below_chance_is_not_protected_before_renaming_is_measured() -> None:
    """Ten classes: 1.2 % may be a good clone with other names, and renaming tells."""
    assert judged(with_classes(10, 0.012, 0.95))[0] == ["undecided"]
    hidden, bad = ({"renamed_accuracy": reached} for reached in (0.9, 0.13))
    assert judged(with_classes(10, 0.012, 0.95, metrics=hidden))[0] == ["not protected"]
    assert judged(with_classes(10, 0.012, 0.95, metrics=bad))[0] == ["protected"]
    text = " ".join(render(with_classes(10, 0.012, 0.95)).split())
    assert "† below chance: answers may be inverted, and renaming classes tells" in text
    assert "Below chance in 1 of 2 cells" in " ".join(notes(summary(with_classes(10, 0.012, 0.95))))


def test_a_clone_at_chance_that_renaming_restores_is_not_protected() -> None:
    rows = with_classes(10, 0.1, 0.95, metrics={"renamed_accuracy": 0.8})
    assert judged(rows)[0] == ["not protected"]


def test_a_pool_that_tells_nothing_neither_helps_nor_harms_a_defense() -> None:
    weak = [undefended_row(pool="noise", clone_accuracy=0.11), make_row(pool="noise", clone_accuracy=0.1)]
    rows = [undefended_row(), make_row(clone_accuracy=0.1)]
    group, baseline = reversed(summary([*rows, *weak]))
    found = verdicts(group, baseline)
    assert sorted(verdict.word for verdict in found) == ["protected", "unknown"]
    assert overall(found) == "holds"
    assert overall(verdicts(*reversed(summary(weak)))) == "unknown"


def test_a_clone_that_is_better_than_that_of_the_undefended_net_is_told_whatever_that_one_reaches() -> None:
    rows = [undefended_row(clone_accuracy=0.18), make_row(clone_accuracy=0.45)]
    assert judged(rows)[0] == ["not protected"]


def test_the_headline_tells_what_attackers_make_of_the_worst_clone_by_renaming_its_classes() -> None:
    """The highest clone accuracy is 12 %, and a clone of 2 % is right more often with other names for its classes."""
    rows = [undefended_row(), make_row(clone_accuracy=0.12)]
    hidden = make_row(
        labels="hard", clone_accuracy=0.02, metrics={"renamed_accuracy": 0.9, "renamed_accuracy_20": 0.85}
    )
    said = judged([*rows, hidden])[2]
    assert "a clone reaches 85.0 % on your test set once its classes are renamed (" in plain(said)
    assert "With the best names for its classes, a clone reaches up to 90.0 %." in plain(said)
    assert "renamed" not in judged(rows)[2]
    owning = make_row(own=20, no_theft=0.5, clone_accuracy=0.5, metrics={"renamed_accuracy": 0.9})
    assert "renamed" not in judged([*rows, owning])[2], "attackers who own samples are told apart"


def test_nothing_is_protected_where_chance_is_not_known() -> None:
    unknown = {"data": "folder:mine", "classes": None}
    rows = [undefended_row(**unknown, clone_accuracy=0.9), make_row(**unknown, clone_accuracy=0.05)]
    assert judged(rows)[:2] == (["undecided"], "undecided")


def test_an_attacker_with_samples_is_judged_by_the_no_theft_line() -> None:
    owning = {"own": 200, "no_theft": 0.8}
    rows = [undefended_row(), undefended_row(**owning), make_row(clone_accuracy=0.1)]
    for reached, word in ((0.81, "protected"), (0.9, "not protected")):
        groups = summary([*rows, make_row(**owning, clone_accuracy=reached)])
        found = verdicts(groups[1], groups[0])
        assert [(verdict.own, verdict.word) for verdict in found] == [(0, "protected"), (200, word)]
        assert overall(found) == "holds"  # no useful answer stops an attacker with samples
    assert explain(found) == "Protected: letters. Not protected: letters for an attacker who owns 200 samples."


def test_a_model_of_unknown_making_is_judged_by_what_attacks_reach() -> None:
    stranger = {"defense": "", "data": "", "net": "", "release": "mine", "release_hash": "", "classes": 10}
    words, word, said = judged([make_row(**stranger)])
    assert (words, word) == (["not protected"], "does not hold")
    assert said.endswith(STRANGER)
    assert judged([make_row(**stranger, clone_accuracy=0.1)])[0] == ["unknown"]  # the attacks may be weak


def test_a_benign_accuracy_of_nothing_is_no_error() -> None:
    rows = [undefended_row(benign_accuracy=0.0, clone_accuracy=0.0), make_row(benign_accuracy=0.0, clone_accuracy=0.0)]
    assert "a clone reaches 0.0" in judged(rows)[2]
    assert "of your accuracy" not in judged(rows)[2]


def test_a_clone_that_is_better_than_the_model_is_not_told_as_equal_to_it() -> None:
    said = plain(judged([undefended_row(), make_row(benign_accuracy=0.6, clone_accuracy=0.8)])[2])
    assert "which is no less than your model's own accuracy (60.0 %)" in said


@pytest.mark.parametrize("defense", ["", "ini"])
def test_nothing_is_said_to_hold_or_not_of_a_model_that_is_no_better_than_chance(defense: str) -> None:
    """Three of twelve inputs are right, and one in five is by chance: a hundred times as many would tell more."""
    of = {"defense": defense, "classes": 5, "benign_accuracy": 0.25, "clone_accuracy": 0.5}
    rows = [undefended_row(classes=5), make_row(**of, test_inputs=12)]
    words, word, said = judged(rows)
    assert (words, word) == (["unknown"], "unknown")
    assert "right on 25.0 % of 12 test inputs, which is no better than chance (20.0 %" in said
    assert "the order of the model's classes" in said
    assert "accuracy (25.0" not in said
    assert "itself is no better than chance: nothing follows" in " ".join(notes(summary(rows)))
    assert "measured on 12 test inputs" in " ".join(render(rows).split())
    assert "itself is no better than chance: nothing follows" in " ".join(render(rows).split())
    assert judged([undefended_row(classes=5), make_row(**of, test_inputs=1200)])[0] == ["not protected"]


def test_accounts_are_told() -> None:
    assert "With a budget of 20,000 queries on 5 accounts" in judged([undefended_row(), make_row(accounts=5)])[2]
    text = " ".join(render([make_row(), make_row(accounts=5)]).split())
    assert "attackers use 1 or 5 accounts" in text
    assert "knockoff (5 accounts)" in text


def test_an_attack_that_failed_leaves_the_verdict_open() -> None:
    rows = [undefended_row(), make_row(clone_accuracy=0.1), failed_row(labels="hard")]
    words, overall, headline = judged(rows)
    assert (words, overall) == (["undecided"], "undecided")
    assert headline.endswith("1 attack of 2 failed: an attacker may reach more.")


def test_without_a_baseline_nothing_is_claimed() -> None:
    words, overall, headline = judged([make_row(clone_accuracy=0.1), undefended_row(data="cifar10", release_hash="1")])
    assert (words, overall) == (["unknown"], "unknown")
    assert "what the defense changes is unknown" in headline


def test_without_a_finished_attack_nothing_is_known() -> None:
    words, overall, headline = judged([undefended_row(), failed_row()])
    assert (words, overall) == (["unknown"], "unknown")
    assert headline.startswith("No attack finished")


def test_a_baseline_tested_with_more_attacks_gains_nothing_by_it() -> None:
    """0.4 is below half of 0.9, but 0.9 was reached by an attack that was not tried on the defended victim."""
    rows = [undefended_row(labels="hard", clone_accuracy=0.6), undefended_row(clone_accuracy=0.9)]
    groups = summary([*rows, make_row(labels="hard", clone_accuracy=0.4)])
    (verdict,) = verdicts(groups[1], baselines(groups)[groups[1].name])
    assert verdict.word == "not protected"
    assert "Not compared: 1 attack tried on only one of ini and plain." in notes(groups)


@pytest.mark.parametrize(
    ("benign", "price"),
    [(0.975, "You pay 1.2 points"), (0.987, "stays as it was"), (0.990, "gains 0.3 points"), (None, "unknown")],
)
def test_the_price_is_told_in_points(benign: float | None, price: str) -> None:
    skipped = failed_row(release="plain", defense="none", release_hash="0" * 64, labels="hard")
    base = undefended_row(benign_accuracy=0.987) if benign else skipped
    assert price in judged([base, make_row(benign_accuracy=benign or 0.9)])[2]


def test_the_pools_are_named_by_verdict() -> None:
    undefended, ini = summary(audited())
    assert explain(verdicts(ini, undefended)) == "Protected: cifar10-gray (in-family). Not protected: letters."
    assert verdicts(undefended, None) == []


def test_the_usual_comparison_has_two_notes() -> None:
    """Two releases, two pools, one seed: the held-out part of the outliers is no mixed-up pool."""
    first, second = notes(summary(audited()))
    assert "flatter" in first
    assert second == "Cells with one seed have no interval: another seed may differ."


def test_an_attackers_own_samples_are_no_mixed_up_pool() -> None:
    """They are another draw for each seed; letters that differ are worth a word."""
    own = [make_row(pool="own:150", own=150, no_theft=0.8, pool_hash=str(seed), seed=seed) for seed in (0, 1)]
    assert "same inputs" not in " ".join(notes(summary(own)))
    letters = [make_row(pool_hash=str(seed), seed=seed) for seed in (0, 1)]
    assert "The pool letters does not hold the same inputs" in " ".join(notes(summary(letters)))
    unread = [make_row(), failed_row(pool_hash="", seed=1), make_row(data="kmnist", pool_hash="made for that task")]
    assert "same inputs" not in " ".join(notes(summary(unread)))


def test_notes_say_what_is_uneven() -> None:
    other = make_row(labels="hard", pool="letters", pool_hash="other", release="x", release_hash="x")
    older = make_row(release="x", release_hash="x", labels="hard", pool="letters", when="2025-01-01T00:00:00Z")
    skipped = failed_row(release="x", release_hash="x", attack="jbda", status="skip", reason="why")
    failed = failed_row(release="x", release_hash="x", labels="hard", seed=1)
    text = " ".join(notes(summary([*audited(seeds=2), other, older, skipped, failed])))
    assert "95 % t-interval" in text
    assert "no interval" in text
    assert "1 of 19 rows failed: see below. 1 of 19 rows skipped: see below. 1 older row of" in text
    assert "The pool letters does not hold the same inputs in all rows" in text
    assert "Not compared: 4 attacks tried on only one of x and undefended." in text
