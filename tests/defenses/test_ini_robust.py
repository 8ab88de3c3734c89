"""Robust InI: its losses by hand, right answers to task inputs and wrong ones to others; no decoys for two classes."""

from __future__ import annotations

import pytest
import torch

import stealguard as sg
from samples import blobs, boxed, mlp, noise, trained
from stealguard.boxes.base import Boxed
from stealguard.defenses import RobustInI
from stealguard.defenses.decoys import Decoyed
from stealguard.errors import Invalid
from stealguard.types import Batch


def test_it_has_a_short_name_and_a_preset() -> None:
    assert sg.InI.robust() == sg.PRESETS["ini-robust"].defense == RobustInI()


@pytest.mark.parametrize("strictness", [float("nan"), float("inf")])
def test_a_strictness_that_is_not_finite_is_named(strictness: float) -> None:
    with pytest.raises(Invalid, match="`strictness` should be a finite number"):
        RobustInI(strictness=strictness)


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
    wrong = -model.decoys(x).log_softmax(1)[torch.arange(8), model.decoys.wrong[y]].mean()
    assert list(losses) == ["task", "induction", "decoys"]
    for loss, by_hand in zip(losses.values(), (task, induction, wrong), strict=True):
        torch.testing.assert_close(loss, by_hand)


def test_task_inputs_get_right_answers_and_outliers_wrong_ones() -> None:
    (x, y), outliers = blobs(600, (16,), 3), noise(600, (16,), seed=9)
    model, _ = trained(RobustInI(), mlp(), x, y, sg.Training(epochs=30, batch=32), outliers=outliers)
    box, unseen = boxed(model), noise(300, (16,), seed=10)
    assert (box(x).argmax(dim=1) == y).float().mean() > 0.9
    honest = Boxed(model.net, (16,))(unseen).argmax(dim=1)
    assert (box(unseen).argmax(dim=1) != honest).float().mean() > 0.9
    with torch.no_grad():
        assert (model.decoys(x).argmax(dim=1) == model.decoys.wrong[y]).float().mean() > 0.9


def test_two_classes_have_no_decoys() -> None:
    """The wrong one of two classes is the opposite of the net's, which gives the net away."""
    x, net = noise(200, (16,)), mlp(16, 2)
    models = [RobustInI(strictness=60.0, decoys=decoys).build(net, x[:2]).eval() for decoys in (True, False)]
    for model in models:
        torch.nn.init.normal_(model.decoys.linear.weight)
        torch.testing.assert_close(boxed(model)(x), torch.full((200, 2), 0.5))
    both = [RobustInI(decoys=decoys).build(net, x[:2]).eval() for decoys in (True, False)]
    assert torch.equal(boxed(both[0])(x), boxed(both[1])(x))
    assert torch.equal(boxed(both[0])(x).argmax(dim=1), Boxed(net, (16,))(x).argmax(dim=1))
    three = RobustInI(strictness=60.0).build(mlp(16, 3), x[:2]).eval()
    honest = Boxed(three.net, (16,))(x).argmax(dim=1)
    assert (boxed(three)(x).argmax(dim=1) != honest).all(), "three classes have decoys"
