"""EDM: its diversity against a loop, its hash, and what training makes of both."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import stealguard as sg
from samples import blobs, mlp, noise, trained
from stealguard.boxes.base import Boxed
from stealguard.defenses import EDM
from stealguard.defenses.edm import coherence
from stealguard.errors import Invalid
from stealguard.types import Batch


def test_coherence_is_that_of_a_loop_over_inputs_and_pairs() -> None:
    rows = [torch.rand(6, 5, dtype=torch.float64).softmax(dim=1) for _ in range(4)]
    looped = 0.0
    for i in range(6):
        exps = 0.0
        for a in range(4):
            for b in range(a + 1, 4):
                p, q = rows[a][i], rows[b][i]
                exps += math.exp((p @ q / (p.norm() * q.norm())).item())
        looped += math.log(exps) / 6
    assert coherence(rows).item() == pytest.approx(looped, abs=1e-12)
    apart = [torch.eye(3).double()[[k]] for k in range(3)]
    assert coherence(apart).item() == pytest.approx(math.log(3))


def test_the_losses_by_hand() -> None:
    defense = EDM(diversity=0.3, members=3)
    model = defense.build(mlp(), noise(2, (16,))).double()
    x, z, y = noise(8, (16,)).double(), noise(5, (16,), seed=4).double(), torch.arange(8) % 3
    losses = model.losses(Batch(x, y, z))
    by_hand = [-member(x).softmax(1).log()[torch.arange(8), y].mean() for member in model.members]
    torch.testing.assert_close(losses["task"], sum(by_hand))
    torch.testing.assert_close(losses["diversity"], 0.3 * coherence([m(z).softmax(1) for m in model.members]))


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 200), st.integers(2, 7), st.integers(0, 10**6))
def test_an_input_has_one_member_in_every_batch(n: int, members: int, seed: int) -> None:
    model = EDM(members=members).build(mlp(40, 3), noise(2, (40,)))
    x = noise(n, (40,), seed=seed)
    routed = model.route(x)
    assert torch.equal(routed, torch.cat([model.route(row[None]) for row in x]))
    order = torch.randperm(n)
    assert torch.equal(routed[order], model.route(x[order]))
    assert torch.equal(routed, model.route(x.double())), "the member does not depend on the precision either"


def test_answers_are_the_members_own() -> None:
    model, x = EDM(members=3).build(mlp(), noise(2, (16,))).eval(), noise(64, (16,))
    routed = model.route(x)
    assert set(routed.tolist()) == {0, 1, 2}
    for row, number, logits in zip(x, routed, model(x), strict=True):
        torch.testing.assert_close(logits, model.members[number](row[None])[0])


def test_every_member_answers_a_share_and_a_small_change_keeps_the_member() -> None:
    model, x = EDM().build(mlp(784, 10), noise(2, (784,))), noise(5000, (784,))
    share = model.route(x).bincount(minlength=5) / 5000
    assert share.min() > 0.1
    near = (x + 0.002 * torch.randn_like(x)).clamp(0, 1)
    assert (model.route(near) == model.route(x)).double().mean() > 0.9


def test_the_hash_follows_from_the_weights_and_is_read_back_with_them() -> None:
    x = noise(200, (16,))
    torch.manual_seed(0)
    one, other = EDM().build(mlp(), noise(2, (16,))), EDM().build(mlp(), noise(2, (16,)))
    assert not torch.equal(one.route(x), other.route(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.route(x), other.route(x))


@pytest.mark.thorough
@pytest.mark.slow
def test_members_agree_on_the_task_and_not_on_outliers() -> None:
    (x, y), (test_x, test_y), z = blobs(900, (16,), 3, seed=1), blobs(300, (16,), 3, seed=2), noise(900, (16,))
    defense = EDM(members=3)
    model, history = trained(defense, mlp(), x, y, sg.Training(epochs=30, batch=64, lr=0.1), outliers=z)
    assert history[-1]["diversity"] < history[0]["diversity"] - 0.3
    assert (Boxed(model, (16,))(test_x).argmax(1) == test_y).double().mean() > 0.9
    fresh = noise(300, (16,), seed=9)
    labels = torch.stack([Boxed(member, (16,))(fresh).argmax(1) for member in model.members])
    assert (labels[0] == labels[1]).double().mean() < 0.6


@pytest.mark.parametrize(("setting", "value"), [("diversity", -1.0), ("members", 1), ("width", 0.0)])
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(Invalid, match=f"`{setting}`"):
        EDM(**{setting: value})
