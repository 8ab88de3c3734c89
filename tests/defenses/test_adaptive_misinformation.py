"""Adaptive Misinformation: the mix at its corners, the losses against float64 by hand, and what it learns."""

from __future__ import annotations

import pytest
import torch

import stealguard as sg
from samples import blobs, boxed, mlp, noise, trained
from stealguard.boxes.base import Boxed
from stealguard.defenses import AdaptiveMisinformation
from stealguard.defenses.adaptive_misinformation import mixing_share, reverse_cross_entropy
from stealguard.errors import Invalid
from stealguard.types import Batch


@pytest.mark.slow
def test_the_share_is_one_below_tau_half_at_it_and_zero_above() -> None:
    rows = torch.tensor([[0.4, 0.3, 0.3], [0.5, 0.25, 0.25], [0.9, 0.05, 0.05]], dtype=torch.float64)
    assert mixing_share(rows, 0.5, 1e4).squeeze(1).tolist() == [1.0, 0.5, 0.0]
    by_hand = 1 / (1 + torch.exp(7 * (rows.amax(dim=1) - 0.6)))
    torch.testing.assert_close(mixing_share(rows, 0.6, 7.0).squeeze(1), by_hand)


@pytest.mark.parametrize(("tau", "answerer"), [(0.0, "net"), (1.0, "misinforming")])
def test_at_the_ends_of_tau_one_net_answers_alone(tau: float, answerer: str) -> None:
    defense = AdaptiveMisinformation(tau=tau, nu=1e6)
    model, x = defense.build(mlp(), noise(2, (16,))), noise(50, (16,))
    torch.testing.assert_close(boxed(model)(x), Boxed(getattr(model, answerer), (16,))(x))


def test_half_a_share_is_the_mean_of_both() -> None:
    net, x = mlp(), noise(1, (16,))
    honest = Boxed(net, (16,))(x)
    model = AdaptiveMisinformation(tau=honest.max().item()).build(net, x)
    torch.testing.assert_close(boxed(model)(x), (honest + Boxed(model.misinforming, (16,))(x)) / 2)


def test_reverse_cross_entropy_by_hand_and_where_a_float_rounds_to_one() -> None:
    logits, y = torch.randn(40, 7, dtype=torch.float64), torch.randint(7, (40,))
    by_hand = -(1 - logits.softmax(dim=1)[torch.arange(40), y]).log().mean()
    torch.testing.assert_close(reverse_cross_entropy(logits, y), by_hand)
    sure = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    reverse_cross_entropy(sure, torch.tensor([0])).backward()
    torch.testing.assert_close(sure.grad, torch.tensor([[1.0, -0.5, -0.5]]))


def test_the_losses_by_hand() -> None:
    defense = AdaptiveMisinformation(exposure=0.7)
    model = defense.build(mlp(), noise(2, (16,))).double()
    x, z, y = noise(8, (16,)).double(), noise(5, (16,), seed=4).double(), torch.arange(8) % 3
    losses = model.losses(Batch(x, y, z))
    wrong = -(1 - model.misinforming(x).softmax(1)[torch.arange(8), y]).log().mean()
    torch.testing.assert_close(losses["misinformation"], wrong)
    exposure = sum(-(model.net(row[None]).softmax(1).log() / 3).sum() for row in z) / 5
    torch.testing.assert_close(losses["exposure"], 0.7 * exposure)
    assert list(losses) == ["task", "exposure", "misinformation"]
    without = AdaptiveMisinformation(exposure=0.0)
    assert not without.needs_outliers
    assert list(without.build(mlp().double(), x).losses(Batch(x, y))) == ["task", "misinformation"]


@pytest.mark.slow
def test_task_inputs_get_right_answers_and_outliers_wrong_ones() -> None:
    (x, y), (test_x, test_y), z = blobs(900, (16,), 3, seed=1), blobs(300, (16,), 3, seed=2), noise(900, (16,))
    training = sg.Training(epochs=30, batch=64, lr=0.1)
    model, _ = trained(AdaptiveMisinformation(), mlp(), x, y, training, outliers=z)
    box = boxed(model)
    assert (box(test_x).argmax(1) == test_y).double().mean() > 0.9
    wrong = Boxed(model.misinforming, (16,))(test_x)
    assert (wrong.argmax(1) == test_y).double().mean() < 0.05
    fresh = noise(300, (16,), seed=9)
    plain = Boxed(model.net, (16,))(fresh)
    replaced = plain.amax(dim=1) < 0.45
    assert replaced.any()
    torch.testing.assert_close(box(fresh)[replaced], Boxed(model.misinforming, (16,))(fresh)[replaced])


@pytest.mark.parametrize(("setting", "value"), [("tau", 1.1), ("nu", 0.0), ("exposure", -1.0)])
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(Invalid, match=f"`{setting}`"):
        AdaptiveMisinformation(**{setting: value})
