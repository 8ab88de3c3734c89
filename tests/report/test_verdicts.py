"""Words: nothing is claimed that the rows do not show."""

from __future__ import annotations

import pytest

from report.made_up import audited, failed_row, make_row, plain, undefended_row
from stealguard.report.comparing import baselines
from stealguard.report.grouping import summary
from stealguard.report.verdicts import explain, headline, notes, overall, verdicts
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
        "With 20,000 answers on 1 account, a clone reaches 92.5 % on your test set "
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


def test_an_attack_that_failed_leaves_the_verdict_open() -> None:
    rows = [undefended_row(), make_row(clone_accuracy=0.1), failed_row(labels="hard")]
    words, overall, headline = judged(rows)
    assert (words, overall) == (["undecided"], "undecided")
    assert headline.endswith("1 attack of 2 failed: an attacker may reach more.")


def test_without_a_baseline_nothing_is_claimed() -> None:
    words, overall, headline = judged([make_row(clone_accuracy=0.1), undefended_row(data="cifar10", release_hash="1")])
    assert (words, overall) == (["unknown"], "unknown")
    assert "what the defense does is unknown" in headline


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
