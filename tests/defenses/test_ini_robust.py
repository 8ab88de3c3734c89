"""Robust InI: its losses by hand, and that it answers the task rightly and all else wrongly."""

from __future__ import annotations

import pytest
import torch

import stealguard as sg
from samples import blobs, mlp, noise
from stealguard.boxes.base import Boxed
from stealguard.defenses import RobustInI
from stealguard.defenses.decoys import Decoyed
from stealguard.errors import Invalid
from stealguard.types import Batch


def test_it_is_inis_and_has_a_preset() -> None:
    assert sg.InI.robust() == sg.PRESETS["ini-robust"].defense == RobustInI()


@pytest.mark.parametrize("strictness", [float("nan"), float("inf")])
def test_a_strictness_that_is_no_number_is_named(strictness: float) -> None:
    with pytest.raises(Invalid, match="`strictness` should be a finite number"):
        RobustInI(strictness=strictness)


def test_the_losses_by_hand() -> None:
    defense = RobustInI()
    model = defense.build(mlp(), noise(2, (16,))).double()
    assert isinstance(model, Decoyed)
    torch.nn.init.normal_(model.decoys.linear.weight)
    x, z, y = noise(8, (16,)).double(), noise(5, (16,), seed=4).double(), torch.arange(8) % 3
    losses = defense.objective(model, x, seed=0)(model, Batch(x, y, z))
    v, o = model.net(x), model.net(z)
    task = sum((1 + v[i].exp().sum()).log() - v[i, y[i]] for i in range(8)) / 8
    induction = sum((1 + row.exp().sum()).log() for row in o) / 5
    wrong = -model.decoys(x).log_softmax(1)[torch.arange(8), model.decoys.wrong[y]].mean()
    assert list(losses) == ["task", "induction", "decoys"]
    for loss, by_hand in zip(losses.values(), (task, induction, wrong), strict=True):
        torch.testing.assert_close(loss, by_hand)


def test_it_answers_the_task_rightly_and_outliers_wrongly() -> None:
    (x, y), defense = blobs(600, (16,), 3), RobustInI()
    outliers = noise(600, (16,), seed=9)
    torch.manual_seed(0)
    net = mlp()
    model = defense.build(net, x[:2])
    sg.fit(model, x, y, sg.Training(epochs=30, batch=32), seed=0, outliers=outliers, progress=False,
           objective=defense.objective(model, x, seed=0))  # fmt: skip
    box, unseen = Boxed(model, (16,)), noise(300, (16,), seed=10)
    assert (box(x).argmax(dim=1) == y).float().mean() > 0.9
    honest = Boxed(net, (16,))(unseen).argmax(dim=1)
    assert (box(unseen).argmax(dim=1) != honest).float().mean() > 0.9
    with torch.no_grad():
        assert (model.decoys(x).argmax(dim=1) == model.decoys.wrong[y]).float().mean() > 0.9
