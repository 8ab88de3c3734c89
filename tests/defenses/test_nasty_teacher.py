"""Nasty Teacher: the divergence against float64 by hand, and which of the two nets it changes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from samples import mlp, noise
from stealguard.defenses import NastyTeacher
from stealguard.errors import Invalid
from stealguard.types import Batch

BATCH = Batch(noise(8, (16,)).double(), torch.arange(8) % 3)


def test_the_losses_by_hand() -> None:
    defense = NastyTeacher(omega=0.2, tau=5.0)
    model = defense.build(mlp(), noise(2, (16,))).double()
    losses = model.losses(BATCH)
    assert list(losses) == ["task", "ordinary", "nastiness"]
    divergence = 0.0
    for row in BATCH.x:
        p, q = ((net(row[None])[0] / 5).softmax(0) for net in (model.net, model.ordinary))
        divergence += (p * (p / q).log()).sum() / 8
    torch.testing.assert_close(losses["nastiness"], -0.2 * 25 * divergence)
    torch.testing.assert_close(losses["ordinary"], F.cross_entropy(model.ordinary(BATCH.x), BATCH.y))
    assert "nastiness" not in NastyTeacher(omega=0.0).build(mlp().double(), BATCH.x).losses(BATCH)


def test_the_ordinary_net_learns_as_it_would_alone() -> None:
    model = NastyTeacher().build(mlp(), noise(2, (16,))).double()
    sum(model.losses(BATCH).values()).backward()
    together = [p.grad.clone() for p in model.ordinary.parameters()]
    model.zero_grad()
    F.cross_entropy(model.ordinary(BATCH.x), BATCH.y).backward()
    for one, other in zip(together, model.ordinary.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad)


def test_a_step_makes_the_two_more_different() -> None:
    model = NastyTeacher(omega=1.0).build(mlp(), noise(2, (16,))).double()
    before = model.losses(BATCH)["nastiness"]
    before.backward()
    with torch.no_grad():
        for p in model.net.parameters():
            p -= 0.1 * p.grad
    assert model.losses(BATCH)["nastiness"] < before


@pytest.mark.parametrize(("setting", "value"), [("omega", -1.0), ("tau", 0.0)])
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(Invalid, match=f"`{setting}`"):
        NastyTeacher(**{setting: value})
