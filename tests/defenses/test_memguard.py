"""MemGuard: which inputs are learned from, the search against a slow loop, and what the classifier can still tell."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samples import boxed, mlp, noise
from stealguard.boxes.base import Boxed
from stealguard.defenses import MemGuard
from stealguard.defenses.base import Defended
from stealguard.defenses.memguard import CLOSENESS, KEEPING, ROUNDING, undecided
from stealguard.errors import Invalid
from stealguard.training.descent import Adam
from stealguard.types import Batch


class Confidence(nn.Module):
    """Log odds that grow with the greatest probability: 0 at a confidence of 0.7."""

    def forward(self, y: Tensor) -> Tensor:
        return 10 * (y.amax(dim=1) - 0.7)


def rows(n: int, k: int = 5, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (scale * torch.randn(n, k, generator=generator, dtype=torch.float64)).softmax(dim=1)


def slow(h: nn.Module, y: Tensor, steps: int) -> Tensor:
    """Algorithm 1 for one row (K,), as the paper writes it."""
    top, found = int(y.argmax()), y
    for closeness in CLOSENESS:
        e, reached = torch.zeros_like(y), None
        for _ in range(steps):
            e.requires_grad_()
            moved = (y.log() + e).softmax(dim=0)
            odds = h(moved[None])[0]
            if odds * h(y[None])[0].sign() <= 0 and int(moved.argmax()) == top:
                reached = moved.detach()
                break
            logits = y.log() + e
            others = torch.cat([logits[:top], logits[top + 1 :]]).max()
            loss = (
                odds.abs()
                + KEEPING * F.relu(others - logits[top])
                + closeness * F.softshrink(moved - y, ROUNDING).abs().sum()
            )
            (slope,) = torch.autograd.grad(loss, e)
            e = (e - 0.1 * slope / slope.norm()).detach()
        if reached is None:
            break
        found = reached
    return found


@pytest.mark.slow
def test_the_search_is_that_of_the_paper_row_by_row() -> None:
    y = rows(12)
    expected = torch.stack([slow(Confidence(), row, 60) for row in y])
    torch.testing.assert_close(undecided(Confidence(), y, 60), expected, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_the_classifier_is_crossed_and_the_top_class_kept() -> None:
    y = rows(300)
    moved = undecided(Confidence(), y, 300)
    assert torch.equal(moved.argmax(dim=1), y.argmax(dim=1))
    crossed = (Confidence()(moved) * Confidence()(y).sign() <= 0).double().mean()
    assert crossed > 0.95
    torch.testing.assert_close(moved.sum(dim=1), torch.ones(300).double())


@cache
def trained() -> Defended:
    """A net whose answers to what it learned from are surer, so that the classifier finds something."""
    torch.manual_seed(0)
    model, x = MemGuard(share=0.5).build(mlp(), noise(2, (16,))), noise(400, (16,))
    y = torch.randint(3, (400,))
    optimizer = Adam(model.parameters())
    for _ in range(300):
        model.zero_grad()
        torch.stack(list(model.losses(Batch(x, y)).values())).sum().backward()
        optimizer.step(1e-2)
    return model.eval()


def with_settings(model: Defended, settings: MemGuard) -> Defended:
    """The same weights under other settings of answers."""
    other = replace(settings, share=0.5).build(mlp(), noise(2, (16,))).eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.thorough
@pytest.mark.slow
def test_the_classifier_cannot_tell_answers_apart_and_the_budget_holds() -> None:
    model, x = trained(), noise(400, (16,))[:150]
    y = Boxed(model, (16,))(x)
    certain = (model.membership(y).sigmoid() - 0.5).abs().mean()
    free = boxed(with_settings(model, MemGuard(eps=2.0, steps=60)))(x)
    assert (model.membership(free).sigmoid() - 0.5).abs().mean() < 0.5 * certain
    assert torch.equal(free.argmax(dim=1), y.argmax(dim=1))
    farthest = (free - y).abs().sum(dim=1)
    for eps in (0.0, 0.05, 0.2):
        moved = (boxed(with_settings(model, MemGuard(eps=eps, steps=60)))(x) - y).abs().sum(dim=1)
        expected = farthest.clamp_max(
            eps
        )  # an answer moves all the way with probability eps / distance, else not at all
        assert moved.mean() <= eps + 0.05
        assert abs(moved.mean() - expected.mean()) < 0.05
        assert ((moved < 1e-6) | ((moved - farthest).abs() < 1e-5)).all()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_query_has_one_answer_in_every_batch() -> None:
    model, x = trained(), noise(60, (16,))
    box = boxed(with_settings(model, MemGuard(eps=0.1, steps=20)))
    torch.testing.assert_close(box(x), torch.cat([box(part) for part in x.flip(0).split(7)]).flip(0))


def test_a_share_is_never_learned_from() -> None:
    model, x = MemGuard(share=0.2).build(mlp(), noise(2, (16,))), noise(2000, (16,))
    members = model.split.members(x)
    assert 0.76 < members.double().mean() < 0.84
    assert torch.equal(members.flip(0), model.split.members(x.flip(0)))
    y = torch.arange(2000) % 3
    assert model.losses(Batch(x, y))["task"] == F.cross_entropy(model(x[members]), y[members])
    alone = model.losses(Batch(x[~members][:5], y[:5]))
    assert alone["task"] == 0
    assert alone["membership"].isfinite()


def test_the_net_gets_no_gradient_from_the_classifier() -> None:
    model = MemGuard().build(mlp(), noise(2, (16,)))
    losses = model.losses(Batch(noise(50, (16,)), torch.arange(50) % 3))
    received = torch.autograd.grad(
        losses["membership"], list(model.net.parameters()), allow_unused=True, retain_graph=True
    )
    assert all(gradient is None or not gradient.any() for gradient in received)
    assert any(p.any() for p in torch.autograd.grad(losses["membership"], list(model.membership.parameters())))


@pytest.mark.parametrize(("name", "value"), [("eps", 2.1), ("eps", -0.1), ("share", 0.0), ("share", 1.0), ("steps", 0)])
def test_settings_have_rules(name: str, value: float) -> None:
    with pytest.raises(Invalid, match=f"`{name}`"):
        MemGuard(**{name: value})
