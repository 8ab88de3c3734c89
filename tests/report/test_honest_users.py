"""The report's section on what honest users get."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from report.made_up import RELEASES, audited, make_row, plain
from stealguard import report
from stealguard.report.grouping import summary
from stealguard.report.honest import honest_users
from stealguard.report.verdicts import notes
from stealguard.results import Row
from stealguard.results.honest import complaints


def measured(**metrics: float) -> Row:
    known = {"validation_inputs": 500.0, "validation_served": 0.097, "validation_alone": 0.8, **metrics}
    row = make_row(**RELEASES["ini"])
    record = row.record()
    record["victim"]["metrics"] |= known
    return Row.of(record)


def test_releases_without_such_measurements_have_no_section(tmp_path: Path) -> None:
    rows = audited(seeds=1)
    assert honest_users(summary(rows)) == []
    report.write_html(rows, tmp_path / "page.html")
    assert "What honest users get" not in (tmp_path / "page.html").read_text()


def test_a_release_at_chance_does_not_pass_without_a_word(tmp_path: Path) -> None:
    row = measured(validation_outliers=0.6, **{"served_at_5": 0.3, "served_at_-2.5": 0.5, "outliers_at_5": 0.7})
    (found,) = honest_users(summary([row]))
    assert (found.served.mean, found.start, found.outliers.mean) == (0.097, None, 0.6)
    assert [(point.strictness, point.served.mean) for point in found.curve] == [(-2.5, 0.5), (5, 0.3)]
    assert "no better than chance" in found.complaint
    assert "the net's own on 80.0 %" in found.complaint
    report.write_html([row], tmp_path / "page.html")
    text = plain((tmp_path / "page.html").read_text())
    for told in ("What honest users get", "no better than chance", "by its strictness", "9.7"):
        assert told in text


def test_chance_is_that_of_the_release_where_classes_are_not_balanced() -> None:
    usual, uneven = measured(validation_served=0.9), measured(validation_served=0.9, validation_chance=0.9)
    assert "no better than chance" not in honest_users(summary([usual]))[0].complaint
    assert "no better than chance (90.0 %" in honest_users(summary([uneven]))[0].complaint


def test_a_release_that_nothing_was_trained_for_gets_no_advice_on_training(tmp_path: Path) -> None:
    row = measured(served=0.1, inputs=1000)
    given = replace(row, victim=replace(row.victim, training='{"epochs": 0}'))
    assert "Train for more epochs" in honest_users(summary([row]))[0].complaint
    assert "Train for more epochs" not in honest_users(summary([given]))[0].complaint
    assert any("Nothing was trained for" in note for note in notes(summary([given])))


def test_the_words_are_those_of_protect() -> None:
    (found,) = honest_users(summary([measured(validation_alone=0.097)]))
    numbers = {"served": 0.097, "alone": 0.097, "start": None, "chance": 0.1, "inputs": 500}
    assert [found.complaint] == complaints(numbers)


def asked(queries: int | None = 100, benign: float = 0.89, alone: float | None = None, **changes: Any) -> Row:
    """A row whose victim was asked by users of so many queries."""
    row = make_row(benign_accuracy=benign, **changes)
    told = {"user_queries": queries, "one_account_accuracy": alone}
    metrics = {name: value for name, value in told.items() if value is not None}
    return replace(row, victim=replace(row.victim, metrics={**row.victim.metrics, **metrics}))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([asked(None)], ""),
        ([asked()], "benign accuracy: users ask 100 queries an account;"),
        ([asked(alone=0.885)], "benign accuracy: users ask 100 queries an account;"),
        ([asked(alone=0.5)], "users ask 100 queries an account; one account that asks the whole test set gets 50.0 %;"),
        ([asked(), asked(1500, release="b", release_hash="0" * 64)], "users ask 100 or 1,500 queries an account;"),
    ],
)
def test_it_is_said_beside_the_number_how_users_asked(rows: list[Row], said: str) -> None:
    told = report.render(rows, "markdown").splitlines()[-1].replace("\u202f", " ")
    assert said in told
    assert ("benign" in told) == bool(said)


def test_rows_that_do_not_say_how_users_asked_do_not_count_beside_those_that_do() -> None:
    rows = [asked(None, benign=0.5), asked(benign=0.89, labels="hard")]
    (group,) = summary(rows)
    assert group.benign is not None
    assert group.benign.mean == 0.89
