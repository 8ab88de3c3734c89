"""CIP: its energies and poisons by hand, and which inputs get which."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import stealguard as sg
from samples import blobs, boxed, mlp, noise, trained
from stealguard.boxes import Boxed, check_answers, logits
from stealguard.defenses import CIP
from stealguard.defenses.cip import Scored, energy, strong_poison
from stealguard.errors import Invalid
from stealguard.simplex import reverse_sigmoid
from stealguard.types import Batch


def test_the_losses_by_hand() -> None:
    defense = CIP(weight=0.3, m_in=-2.0, m_out=-1.5)
    model = defense.build(mlp(), noise(2, (16,))).double()
    x, z, y = noise(8, (16,)).double(), noise(5, (16,), seed=4).double(), torch.arange(8) % 3
    losses = model.losses(Batch(x, y, z))
    e_in, e_out = (-model(part).exp().sum(dim=1).log() for part in (x, z))
    by_hand = (e_in + 2).clamp_min(0).square().mean() + (-1.5 - e_out).clamp_min(0).square().mean()
    torch.testing.assert_close(losses["energy"], 0.3 * by_hand)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 200), st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_a_strong_poison_puts_another_class_first_before_the_noise(k: int, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = (6 * torch.randn(20, k, generator=generator, dtype=dtype)).softmax(dim=1)
    y[0] = torch.eye(k, dtype=dtype)[0]
    u = torch.rand(20, 2 * k, generator=generator, dtype=torch.float64)
    silent = torch.cat([u[:, :k], torch.zeros_like(u[:, k:])], dim=1)
    shuffled = strong_poison(y, silent)
    torch.testing.assert_close(shuffled.sort(dim=1).values, y.sort(dim=1).values)
    assert (shuffled.gather(1, y.argmax(dim=1, keepdim=True))[:, 0] < y.amax(dim=1)).all()
    check_answers(strong_poison(y, u), 20, "poison")


def test_the_noise_is_ten_decibels_below() -> None:
    y = torch.eye(10, dtype=torch.float64)[:1].expand(20_000, 10)
    u = torch.rand(20_000, 20, dtype=torch.float64)
    loud = torch.erfinv(u[:, 10:]) * (2 * 0.1 * 0.1) ** 0.5  # the answers' mean square is 0.1
    assert loud.square().mean() == pytest.approx(0.1 * 0.1, rel=0.05)
    silent = strong_poison(y, torch.cat([u[:, :10], torch.zeros_like(loud)], dim=1))
    torch.testing.assert_close(strong_poison(y, u), torch.nn.functional.normalize(silent + loud, p=1, dim=1))


def test_energies_decide_which_inputs_are_poisoned_how() -> None:
    model, x = Scored(mlp(), CIP(quantiles=(0.3, 0.8))), noise(300, (16,))
    e = energy(logits(model, x))
    model.energies.latest.copy_(e.repeat(7)[:2048])
    y = Boxed(model, (16,))(x)
    answers = boxed(model)(x)
    weak, strong = (model.energies.latest.quantile(q) for q in (0.3, 0.8))
    usual, unusual = e <= weak, e > strong
    assert torch.equal(answers[usual], y[usual])
    between = ~usual & ~unusual
    assert torch.equal(answers[between], reverse_sigmoid(y, 0.9, 0.6)[between])
    assert ((answers[unusual] - y[unusual]).abs().sum(dim=1) > 0).all()
    assert min(usual.sum(), between.sum(), unusual.sum()) > 40


def test_asking_again_or_in_other_batches_tells_nothing_new() -> None:
    model, x = Scored(mlp(), CIP()), noise(64, (16,))
    model.energies.latest.fill_(-100.0)  # every input is unusual
    box = boxed(model)
    one = box(x)
    assert torch.equal(one, box(x))
    torch.testing.assert_close(one, torch.cat([box(row[None]) for row in x]))


def test_the_latest_energies_are_kept() -> None:
    model = Scored(mlp(), CIP())
    first, second = noise(1500, (16,)), noise(1500, (16,), seed=5)
    model.energies.observe(model.net, first)
    for _ in range(4):
        model.energies.observe(model.net, second)
    expected = torch.cat([energy(model(second)), energy(model(first))])[:2048]
    torch.testing.assert_close(model.energies.latest, expected)


@pytest.mark.slow
def test_task_inputs_get_right_answers_and_outliers_other_ones() -> None:
    (x, y), (test_x, test_y), z = blobs(1500, (16,), 3, seed=1), blobs(300, (16,), 3, seed=2), noise(900, (16,))
    defense = CIP(weight=0.1, m_in=-8.0, m_out=-3.0)
    model, _ = trained(defense, mlp(), x, y, sg.Training(epochs=40, batch=64, lr=0.02), outliers=z)
    box = boxed(model)
    assert (box(test_x).argmax(1) == test_y).double().mean() > 0.85
    fresh = noise(300, (16,), seed=9)
    assert (box(fresh).argmax(1) == Boxed(model, (16,))(fresh).argmax(1)).double().mean() < 0.5


@pytest.mark.parametrize(
    ("setting", "value"), [("weight", -1.0), ("m_in", 0.0), ("quantiles", (0.9,)), ("quantiles", (0.9, 0.5))]
)
def test_a_setting_out_of_range_is_named(setting: str, value: object) -> None:
    with pytest.raises(Invalid, match=f"`{setting}`"):
        CIP(**{setting: value})
