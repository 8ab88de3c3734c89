"""Rows and the facts of victims: what is refused, what follows from them, and how they become records."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from report.made_up import failed_row, make_row
from stealguard.errors import Invalid
from stealguard.results import Row, Rows, VictimFacts, key_of, to_records
from stealguard.results.metrics import chance


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clone_accuracy": 92.5}, "Parameter `clone_accuracy` should be a fraction in [0, 1] or None. Found 92.5."),
        ({"agreement": float("nan")}, "Found nan"),
        ({"labels": "medium"}, "`soft` or `hard`. Found `medium`"),
        ({"status": "done"}, "`status`"),
        ({"status": "failed"}, "`reason`"),
        ({"clone_accuracy": None}, "`ok` only with every accuracy measured"),
        ({"benign_accuracy": None}, "`ok` only with every accuracy measured"),
        ({"budget": -1}, "`budget`"),
        ({"queries": -1}, "`queries`"),
        ({"own": -1}, "`own`"),
        ({"accounts": 0}, "`accounts`"),
        ({"budget": "20000"}, "Parameter `budget` should be of type int. Found '20000'."),
        ({"seed": True}, "`seed`"),
        ({"seed": 2**63}, "64 bits"),
        ({"victim_seed": 2**63}, "64 bits"),
        ({"in_family": 1}, "`in_family`"),
        ({"seconds": float("inf")}, "`seconds`"),
        ({"key": ""}, "`key`"),
        ({"pool": "\ud800"}, "text that UTF-8 can hold"),
        ({"attack_settings": "[1]"}, "the text of a JSON object"),
        ({"defense_settings": "{"}, "the text of a JSON object"),
        ({"classes": 0}, "`classes`"),
        ({"shape": (1, "28")}, "`shape`"),
        ({"outliers": ["glyphs"]}, "`outliers`"),
        ({"ms_1": -1.0}, "Parameter `ms_1` should be finite and non-negative. Found -1.0."),
        ({"metrics": {"mine": float("inf")}}, "Parameter `mine` should be finite. Found inf."),
        ({"metrics": {"agreement": "high"}}, "`agreement`"),
        ({"metrics": {"clone_accuracy": 10**400}}, "`clone_accuracy`"),
    ],
)  # fmt: skip
def test_a_row_that_breaks_a_rule_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid) as caught:
        make_row(**changes)
    assert message in str(caught.value)


def test_a_row_of_unknown_or_missing_fields_is_refused() -> None:
    record = make_row().record()
    with pytest.raises(Invalid, match="did you mean `budget`"):
        Row.of(record | {"bugdet": 1})
    with pytest.raises(Invalid, match=r"complete\. Found no key"):
        Row.of({name: record[name] for name in record if name != "key"})
    with pytest.raises(Invalid, match="did you mean `classes`"):
        Row.of(record | {"victim": record["victim"] | {"clases": 1}})
    with pytest.raises(Invalid, match=r"Parameter `victim` should be complete\. Found no name"):
        Row.of(record | {"victim": {"key": ""}})
    with pytest.raises(Invalid, match="`victim` should be a JSON object"):
        Row.of(record | {"victim": 3})


def test_a_metric_of_an_unknown_name_is_kept_as_a_float() -> None:
    row = make_row(metrics={"clone_accuracy": 1, "agreement": 0.5, "minutes": 7})
    assert row.metrics == {"agreement": 0.5, "clone_accuracy": 1.0, "minutes": 7.0}
    assert isinstance(row.metrics["minutes"], float)


def test_common_metrics_are_properties() -> None:
    row = make_row(no_theft=0.4)
    assert (row.benign_accuracy, row.clone_accuracy, row.agreement, row.no_theft) == (0.975, 0.925, 0.93, 0.4)
    assert failed_row().clone_accuracy is None


def test_chance_is_measured_or_follows_from_the_classes() -> None:
    assert make_row(classes=8).chance == 1 / 8
    assert make_row(classes=None).chance is None
    metrics = {"clone_accuracy": 0.5, "agreement": 0.5, "chance": 0.63}
    assert make_row(classes=2, metrics=metrics, clone_accuracy=None, agreement=None).chance == 0.63


def test_chance_of_labels_is_the_share_of_the_most_frequent_one() -> None:
    assert chance(torch.arange(10)) == 0.1
    assert chance(torch.tensor([0, 0, 0, 2])) == 0.75


def test_two_classes_can_be_swapped() -> None:
    assert make_row(classes=2, clone_accuracy=0.34).renamed_accuracy == pytest.approx(0.66)
    assert make_row(classes=3, clone_accuracy=0.34).renamed_accuracy is None
    measured = make_row(metrics={"renamed_accuracy": 0.9, "clone_accuracy": 0.1, "agreement": 0.1})
    assert measured.renamed_accuracy == 0.9


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"renamed_accuracy": 0.9}, 0.9),
        ({"renamed_accuracy": 0.9, "renamed_accuracy_20": 0.8}, 0.8),
        ({"renamed_accuracy": 0.104, "renamed_accuracy_20": 0.103}, 0.1),
        ({"renamed_accuracy": 0.1, "renamed_accuracy_20": 0.05}, 0.1),
        ({"renamed_accuracy": 0.1, "renamed_accuracy_20": 1.0}, 0.1),  # of few inputs, a renaming is measured on fewer
        ({"renamed_accuracy": 0.9, "renamed_accuracy_20": 0.8, "no_theft_20": 0.85}, 0.1),
        ({}, 0.1),
    ],
)
def test_attackers_make_of_a_clone_what_renaming_gives_where_that_is_clearly_more(
    metrics: dict[str, float], expected: float
) -> None:
    row = make_row(metrics={"clone_accuracy": 0.1, "agreement": 0.1, **metrics})
    assert row.stolen_accuracy == pytest.approx(expected)
    assert make_row(classes=2, clone_accuracy=0.34).stolen_accuracy == pytest.approx(0.66)


def test_a_key_depends_on_what_made_it_and_not_on_the_order() -> None:
    assert key_of(a=1, b=[2, "x"]) == key_of(b=[2, "x"], a=1) != key_of(a=2, b=[2, "x"])
    assert len(key_of(a=1)) == 64


def test_a_row_of_a_theft_has_its_time_and_what_it_was_computed_with() -> None:
    victim = VictimFacts(key="", name="mine", metrics={"benign_accuracy": 0.9})
    row = Row.of_theft(
        key="k", victim=victim, attack="knockoff", settings={"budget": 7, "a": 1}, pool="letters", labels="hard",
        clone="lenet5", seed=3, budget=7, queries=7, accounts=2, device="cpu", precision="float32",
        metrics={"clone_accuracy": 0.5, "agreement": 0.6, "no_theft": None},
    )  # fmt: skip
    assert (row.status, row.attack_settings, row.accounts) == ("ok", '{"a": 1, "budget": 7}', 2)
    assert row.metrics == {"agreement": 0.6, "clone_accuracy": 0.5}
    assert (row.device, row.precision) == ("cpu", "float32")
    assert min(len(row.version), len(row.torch), len(row.python), len(row.hardware), row.threads) >= 1
    assert datetime.fromisoformat(row.when).utcoffset() == timedelta(0)
    assert victim.unknown


def test_a_failed_theft_needs_a_reason_and_no_metrics() -> None:
    victim = VictimFacts(key="", name="mine", defense="none")
    common: dict[str, Any] = {
        "key": "k", "victim": victim, "attack": "knockoff", "settings": {}, "pool": "letters", "labels": "soft",
        "clone": "lenet5", "seed": 0, "budget": 7, "status": "failed",
    }  # fmt: skip
    assert Row.of_theft(**common, reason="no victim").metrics == {}
    with pytest.raises(Invalid, match="`reason`"):
        Row.of_theft(**common)


def test_flat_records_have_equal_keys_and_tell_all() -> None:
    records = to_records([make_row(no_theft=0.4), failed_row(seed=1, classes=None)])
    assert [list(record) for record in records[1:]] == [list(records[0])]
    assert (records[0]["victim_name"], records[0]["benign_accuracy"], records[0]["no_theft"]) == ("ini", 0.975, 0.4)
    assert (records[1]["status"], records[1]["clone_accuracy"], records[1]["victim_classes"]) == ("failed", None, None)
    assert json.loads(json.dumps(records)) == records


def test_a_part_of_rows_is_rows() -> None:
    rows = Rows([make_row(), failed_row(seed=1)])
    assert type(rows[:1]) is Rows
    assert rows[:1] == [rows[0]]
    assert type(rows + rows) is Rows


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
fractions = st.floats(0, 1)


@given(texts, texts, st.integers(-(2**63), 2**63 - 1), fractions, st.booleans(), st.floats(0, 1e300))
def test_any_row_survives_json(pool: str, reason: str, seed: int, accuracy: float, own: bool, seconds: float) -> None:
    row = make_row(pool=pool, reason=reason, seed=seed, agreement=accuracy, in_family=own, seconds=seconds,
                   outliers=(pool, reason), shape=(1, 28, 28), victim_seed=seed)  # fmt: skip
    assert Row.of(json.loads(json.dumps(row.record()))) == row
