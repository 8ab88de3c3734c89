"""What honest users get: measured through the guard, told in one line, and complained about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from own_methods import Uniform
from samples import mlp, noise, task
from stealguard.data.inputs import Stored
from stealguard.defenses.base import Defended, Plain
from stealguard.defenses.suspicion import Gate, Measured
from stealguard.releases.honest import honest
from stealguard.releases.release import measured_settings
from stealguard.results.honest import PoorAnswers, complaints, sentence
from stealguard.types import Scope, State


class Fixed(Defended):
    """Logits are the inputs themselves; decoys prefer the last class."""

    def heads(self) -> Mapping[str, nn.Module]:
        return {"logits": self, "decoys": nn.Threshold(float("inf"), 0.0)}


class Counting(Plain):
    """Answers an account's first `most` inputs and refuses more."""

    scope: ClassVar[Scope] = "account"

    def __init__(self, most: int):
        self.most = most

    def start(self) -> State:
        return {"seen": torch.tensor(0)}

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        left = self.most - int(state["seen"])
        answers = self.answer(outputs, x)
        if left < len(x):
            return answers[:left], state
        return answers, {"seen": state["seen"] + len(x)}


def inputs(n: int) -> tuple[Stored, Tensor]:
    """One-hot rows of which every fourth is faint, and their classes."""
    y = torch.arange(n) % 3
    x = nn.functional.one_hot(y, 3).float() * 8
    x[::4] /= 80
    return Stored(x), y


def gate(strictness: float) -> Gate:
    return Gate(Measured(3), strictness, decoys=True)


def test_an_undefended_net_has_one_number() -> None:
    x, y = inputs(240)
    found = honest(Defended(nn.Identity()), x, y, chance=1 / 3)
    assert (found["served"], found["alone"], found["outliers"], found["refused"], found["curve"]) == (
        1,
        None,
        None,
        0,
        [],
    )
    assert sentence(found) == "100.0 % on validation"
    assert complaints(found) == []


def test_what_a_gate_takes_for_outliers_is_counted_and_drawn() -> None:
    x, y = inputs(240)
    found = honest(Fixed(nn.Identity(), gate(2.0)), x, y, Stored(torch.zeros(10, 3)), chance=1 / 3)
    assert found["outliers"] == 0.25  # the faint ones: log sum exp is at most log(2 + e^0.1) < 2
    assert found["alone"] == 1
    assert found["served"] == pytest.approx(0.75 + 0.25 / 3)  # a decoy names class 0, which is right for a third
    assert sentence(found).endswith("(the net alone 100.0); 25 % of honest inputs were answered as outliers")
    curve = {strictness: rest for strictness, *rest in found["curve"]}
    assert curve[-5.0] == [1, 0, 1]
    assert curve[2.5] == [found["served"], 0.25, 0]
    assert curve[10.0] == [pytest.approx(1 / 3), 1, 0]


def test_refused_inputs_count_as_wrong_and_first_answers_are_those_of_new_accounts() -> None:
    x, y = inputs(200)
    found = honest(Defended(nn.Identity(), Counting(40)), x, y, chance=1 / 3)
    assert (found["refused"], found["served"], found["first"], found["alone"]) == (0.6, 0.4, 1, 1)
    assert "60 % were refused" in sentence(found)
    assert honest(Defended(nn.Identity(), Counting(0)), x, y, chance=1 / 3)["served"] == 0


def test_memory_is_asked_by_accounts_of_a_hundred_queries(tmp_path: Path) -> None:
    data = task(300, (16,), 3)
    made = sg.protect(mlp(), data, outliers=[noise(90, (16,))], epochs=1, out=tmp_path / "a", progress=False)
    found = made.recipe["honest"]
    assert found["inputs"] == 30
    assert 0 <= found["outliers"] <= 1
    assert found["first"] is not None
    assert found["strictness"] == pytest.approx(measured_settings(made.folder, made.recipe)["strictness"])
    assert [row[2] for row in found["curve"]] == sorted(row[2] for row in found["curve"]), "stricter is more outliers"
    assert made.facts().metrics["validation_served"] == found["served"]
    assert made.facts().metrics["outliers_at_5"] == found["curve"][5][2]


def test_the_worst_class_is_named_where_it_is_ten_points_below_all() -> None:
    x, y = inputs(300)
    logits = x[:]
    logits[(y == 1).nonzero()[:40]] = torch.tensor([9.0, 0.0, 0.0])
    found = honest(Defended(nn.Identity()), Stored(logits), y, chance=1 / 3)
    assert found["by_class"] == [[100, 100], [60, 100], [100, 100]]
    assert sentence(found, ["a", "b\n", "c"]) == "86.7 % on validation; worst class `b`: 60.0 % of 100 inputs"
    assert "worst class `1`" in sentence(found)


def test_refused_inputs_count_as_wrong_in_their_classes() -> None:
    x, y = inputs(90)
    assert honest(Defended(nn.Identity(), Counting(45)), x, y, chance=1 / 3)["by_class"] == [[15, 30]] * 3


@pytest.mark.parametrize(
    ("by_class", "told"),
    [([[80, 100], [90, 100]], False), ([[74, 100], [96, 100]], True), ([[0, 0], [85, 100]], False), ([], False)],
)
def test_a_class_that_is_little_worse_or_has_no_inputs_is_not_named(by_class: list[list[int]], told: bool) -> None:
    assert ("worst class" in sentence(numbers(served=0.85, by_class=by_class))) == told
    assert "worst" not in sentence(numbers()), "recipes from before have no such numbers"


def test_a_release_keeps_what_each_class_gets(tmp_path: Path) -> None:
    made = sg.protect(mlp(), task(300, (16,), 3), defense="none", epochs=1, out=tmp_path / "a", progress=False)
    by_class = sg.load(tmp_path / "a", net=mlp()).recipe["honest"]["by_class"]
    assert sum(n for _, n in by_class) == 30
    assert sum(right for right, _ in by_class) / 30 == pytest.approx(made.recipe["honest"]["served"])


def numbers(**changes: Any) -> dict[str, Any]:
    given = {"served": 0.8, "alone": None, "start": None, "first": None, "outliers": None, "refused": 0.0}
    return {**given, "chance": 0.1, "inputs": 1000, "curve": [], **changes}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (numbers(served=0.097), ["The answers are right on 9.7 % of 1,000 validation inputs, which is no better than"]),
        (numbers(served=0.118), ["cannot be told from it"]),
        (numbers(served=0.12), []),
        (numbers(served=0.9, chance=0.9), ["no better than chance (90.0 %, the share of the most frequent class)"]),
        (numbers(served=0.93, chance=0.9), []),
        (numbers(alone=0.811), ["the net's own on 81.1 %: the guard costs honest users more than a point"]),
        (numbers(alone=0.9, strictness=-1.26), ["a milder setting (`stealguard guard ... --set strictness=-3.3`)."]),
        (numbers(alone=0.81), []),
        (numbers(start=0.9), ["those of the weights that training began with on 90.0 %: this training costs"]),
        (numbers(start=0.9, alone=0.9), ["the weights that training began with", "the net's own"]),
        (numbers(served=0.1), ["another learning rate and batch (`--train lr=... batch=...`)"]),
        (numbers(start=1.0), ["a lower learning rate and, on few data, smaller batches (`--train lr=... batch=...`)"]),
    ],
)
def test_answers_at_chance_or_a_point_below_do_not_pass_without_a_word(found: dict[str, Any], said: list[str]) -> None:
    told = complaints(found)
    assert len(told) == len(said)
    assert all(part in line for part, line in zip(said, told, strict=True))


def test_no_advice_on_training_for_what_a_guard_alone_costs(tmp_path: Path) -> None:
    told = complaints(numbers(served=0.1, alone=0.8), guard_alone=True)
    assert ["Take a milder setting" in line for line in told] == [True, True]
    assert not any("Train" in line for line in told)
    (told_of_net,) = complaints(numbers(served=0.1, alone=0.1), guard_alone=True)
    assert "Train for more epochs" in told_of_net
    data = task(300, (16,), 3)
    net = mlp()
    sg.fit(net, *data[:2], sg.Training(epochs=20), seed=0, progress=False)
    with pytest.warns(PoorAnswers) as warned:
        sg.protect(mlp(), data, defense=Uniform(), epochs=1, start=net, out=tmp_path / "a", progress=False)
    assert not any("Train" in str(one.message) for one in warned if issubclass(one.category, PoorAnswers))


def test_the_line_names_only_what_has_a_meaning() -> None:
    assert sentence(numbers(start=0.735, alone=0.805, first=0.79, outliers=0.004, refused=0.02)) == (
        "80.0 % on validation (start 73.5; the net alone 80.5; first answers of an account 79.0); "
        "less than 1 % of honest inputs were answered as outliers; 2 % were refused"
    )


def test_a_net_at_chance_is_warned_of(tmp_path: Path) -> None:
    crawl = sg.Training(epochs=1, lr=1e-12)
    with pytest.warns(PoorAnswers, match="no better than chance"):
        sg.protect(mlp(), task(200, (16,), 3), defense="none", training=crawl, out=tmp_path / "a", progress=False)


def test_a_net_that_names_the_most_frequent_class_is_warned_of(tmp_path: Path) -> None:
    x, y = noise(400, (16,)), (torch.arange(400) % 10 == 0).long()
    short = sg.Training(epochs=10, lr=0.02)
    with pytest.warns(PoorAnswers, match="90.0 %, the share of the most frequent class"):
        sg.protect(mlp(classes=2), (x, y), defense="none", training=short, out=tmp_path / "a", progress=False)


def test_another_guard_is_measured_anew_where_data_are_given(tmp_path: Path) -> None:
    data = task(300, (16,), 3)
    plain = sg.protect(mlp(), data, defense="none", epochs=3, out=tmp_path / "a", progress=False)
    rounded = sg.guarded(plain, sg.defenses.Rounding(), tmp_path / "b")
    assert rounded.recipe["honest"] is None
    assert "validation_served" not in rounded.facts().metrics
    measured = sg.guarded(plain, sg.defenses.Rounding(), tmp_path / "c", data=data)
    assert measured.recipe["honest"]["alone"] == plain.recipe["honest"]["served"]
    assert measured.identity == rounded.identity
