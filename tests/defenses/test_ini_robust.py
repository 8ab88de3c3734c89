"""Robust InI: its losses by hand, right answers to task inputs and wrong ones to others; no decoys for two classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import stealguard as sg
from samples import blobs, boxed, mlp, noise, task, trained
from stealguard.boxes.base import Boxed
from stealguard.defenses import DEFENSES, RobustInI
from stealguard.defenses.decoys import COARSE, Decoyed, Decoys, _flat
from stealguard.errors import Invalid, Refused
from stealguard.settings import changed, describe
from stealguard.types import Batch


def test_it_has_a_short_name_and_a_preset() -> None:
    assert sg.InI.robust() == sg.PRESETS["ini-robust"].defense == RobustInI()


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        *(("strictness", value, "a finite number") for value in (float("nan"), float("inf"))),
        ("strictness", "high", "a finite number"),
        ("strictness", True, "a finite number"),
        ("floor", float("-inf"), "a finite number"),
        *(("suspicion", value, "a positive finite number") for value in (0.0, -1.0, float("inf"), float("nan"))),
        ("drift", 0.0, "a positive finite number"),
        ("suspects", "prison", "one of refuse, decoys"),
    ],
)
def test_a_setting_that_breaks_its_rule_is_named(name: str, value: object, rule: str) -> None:
    with pytest.raises(Invalid, match=f"`{name}` should be {rule}"):
        RobustInI(**{name: value})


def test_a_whole_number_is_the_same_setting_as_a_fraction() -> None:
    assert describe(DEFENSES, RobustInI(strictness=8)) == describe(DEFENSES, RobustInI(strictness=8.0))
    assert repr(RobustInI(strictness=8)) == repr(RobustInI(strictness=8.0))
    assert changed(RobustInI(strictness=8.0), {"strictness": None}, "ini-robust") == RobustInI()


def test_its_cost_tells_what_is_remembered() -> None:
    assert "for 64 queries an account" in RobustInI().cost.state
    assert not RobustInI(memory=False).cost.state


def test_the_losses_by_hand() -> None:
    defense = RobustInI()
    model = defense.build(mlp(), noise(2, (16,))).double()
    assert isinstance(model, Decoyed)
    torch.nn.init.normal_(model.decoys.linear.weight)
    x, z, y = noise(8, (16,)).double(), noise(5, (16,), seed=4).double(), torch.arange(8) % 3
    losses = model.losses(Batch(x, y, z))
    v, o = model.net(x), model.net(z)
    task = sum((1 + v[i].exp().sum()).log() - v[i, y[i]] for i in range(8)) / 8
    induction = sum((1 + row.exp().sum()).log() for row in o) / 5
    own = Decoys(x, 3, seed=0).clusters.learn(_flat(x, COARSE), y)
    wrong = -model.decoys(x).log_softmax(1)[torch.arange(8), model.decoys.wrong[y, own]].mean()
    assert list(losses) == ["task", "induction", "decoys"]
    for loss, by_hand in zip(losses.values(), (task, induction, wrong), strict=True):
        torch.testing.assert_close(loss, by_hand)


@pytest.mark.slow
def test_task_inputs_get_right_answers_and_outliers_wrong_ones() -> None:
    (x, y), outliers = blobs(600, (16,), 3), noise(600, (16,), seed=9)
    defense = RobustInI(suspects="decoys")
    model, _ = trained(defense, mlp(), x, y, sg.Training(epochs=30, batch=32), outliers=outliers)
    assert isinstance(model, Decoyed)
    (fresh, labels), unseen = blobs(300, (16,), 3, seed=5), noise(300, (16,), seed=10)
    model.calibrate(Batch(fresh, labels, unseen))
    assert (boxed(model)(x).argmax(dim=1) == y).float().mean() > 0.9
    honest = Boxed(model.net, (16,))(unseen).argmax(dim=1)
    others = boxed(model)(unseen)
    with torch.no_grad():
        decoys = model.decoys(unseen).argmax(dim=1)
        assert (model.decoys(x).argmax(dim=1) != y).float().mean() > 0.7
    assert (others.argmax(dim=1) == decoys).float().mean() > 0.95
    assert (others.argmax(dim=1) != honest).float().mean() > 0.4
    assert len(torch.cat([others, boxed(model)(x)]).sort(dim=1).values.unique(dim=0)) == 1
    refusing = RobustInI().build(model.net, x[:2])
    refusing.load_state_dict(model.state_dict())
    with pytest.raises(Refused):
        boxed(refusing)(unseen)


def test_decoys_do_not_depend_on_the_net() -> None:
    """No class is left out: the decoys' answers under two different nets are the same."""
    x = noise(200, (16,))
    one, other = (RobustInI(strictness=60.0).build(mlp(), x[:2]).eval() for _ in range(2))
    torch.nn.init.normal_(one.decoys.linear.weight)
    other.decoys.load_state_dict(one.decoys.state_dict())
    assert torch.equal(boxed(one)(x), boxed(other)(x))
    assert not torch.equal(one.net(x).argmax(dim=1), other.net(x).argmax(dim=1))


@pytest.mark.parametrize("memory", [True, False])
def test_two_classes_have_no_decoys(memory: bool) -> None:
    """The wrong one of two classes is the opposite of the net's, which gives the net away."""
    x, net = noise(200, (16,)), mlp(16, 2)
    models = [RobustInI(60.0, memory=memory, decoys=decoys).build(net, x[:2]).eval() for decoys in (True, False)]
    for model in models:
        torch.nn.init.normal_(model.decoys.linear.weight)
        torch.testing.assert_close(boxed(model)(x), torch.full((200, 2), 0.5))
    both = [RobustInI(-60.0, memory=memory, decoys=decoys).build(net, x[:2]).eval() for decoys in (True, False)]
    assert torch.equal(boxed(both[0])(x), boxed(both[1])(x))
    assert torch.equal(boxed(both[0])(x).argmax(dim=1), Boxed(net, (16,))(x).argmax(dim=1))
    three = RobustInI(60.0, memory=memory).build(mlp(16, 3), x[:2]).eval()
    torch.nn.init.normal_(three.decoys.linear.weight)
    with torch.no_grad():
        decoys = three.decoys(x).argmax(dim=1)
    assert torch.equal(boxed(three)(x).argmax(dim=1), decoys), "three classes have decoys"


def test_a_release_keeps_what_was_measured_on_held_out_inputs(tmp_path: Path) -> None:
    outliers = noise(600)
    given: dict[str, Any] = {"epochs": 1, "out": tmp_path / "a", "device": "cpu", "progress": False}
    made = sg.protect("lenet5", task(600), outliers=[outliers], **given)
    kept = sg.load(tmp_path / "a")
    assert isinstance(made.model, Decoyed)
    assert isinstance(kept.model, Decoyed)
    assert made.model.measured.evidence.any()
    for name, value in made.model.state_dict().items():
        assert torch.equal(kept.model.state_dict()[name], value), name
    alone = sg.guarded(kept, RobustInI(strictness=1.25, memory=False), tmp_path / "b")
    assert alone.recipe["weights_sha256"] == made.recipe["weights_sha256"]
    x = noise(50, seed=8)
    assert len(alone.box(x)) == 50
