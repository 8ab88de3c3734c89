"""MISLEADER: each term against float64 by hand, and which nets learn from which."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from samples import mlp, noise
from stealguard.boxes.base import Boxed
from stealguard.defenses import Misleader
from stealguard.defenses.misleader import altered, member_terms
from stealguard.errors import Invalid
from stealguard.types import Batch

BATCH = Batch(noise(8, (16,)).double(), torch.arange(8) % 3)


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p * (p / q).log()).sum(dim=1).mean()


def test_the_terms_by_hand() -> None:
    member, clone, teacher = (mlp().double() for _ in range(3))
    asked = noise(6, (16,), seed=5).double()
    terms = member_terms(member, clone, teacher(BATCH.x), BATCH, asked, 4.0)
    torch.testing.assert_close(terms.task, F.cross_entropy(member(BATCH.x), BATCH.y))
    soft = [(net(BATCH.x) / 4).softmax(1) for net in (teacher, member)]
    torch.testing.assert_close(terms.distillation, 16 * divergence(*soft))
    told, learned = member(asked).softmax(1), clone(asked).softmax(1)
    torch.testing.assert_close(terms.clone, divergence(told, learned))
    torch.testing.assert_close(terms.extraction, -divergence(told, learned))


def gradients(loss: torch.Tensor, net: nn.Module) -> bool:
    found = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, materialize_grads=True)
    return any(bool(g.abs().sum() > 0) for g in found)


def test_each_part_learns_from_its_own_losses() -> None:
    model = Misleader().build(mlp(), noise(2, (16,))).double()
    losses = model.losses(BATCH)
    parts = {"teacher": model.teacher, "members": nn.ModuleList(model.members), "clones": model.clones}
    moved = {name: {part for part, net in parts.items() if gradients(loss, net)} for name, loss in losses.items()}
    assert moved == {
        "task": {"members"}, "distillation": {"members"}, "extraction": {"members"}, "clones": {"clones"},
        "teacher": {"teacher"},
    }  # fmt: skip


def test_a_member_learns_as_fast_as_it_would_alone() -> None:
    """Its gradient is that of its own loss, however many members there are."""
    model = Misleader(extraction=0).build(mlp(), noise(2, (16,))).double()
    member = model.members[0]
    terms = member_terms(member, model.clones[0], model.teacher(BATCH.x).detach(), BATCH, BATCH.x, 6.0)
    losses = model.losses(BATCH)
    weights = list(member.parameters())
    alone = torch.autograd.grad(0.7 * terms.task + 0.3 * terms.distillation, weights)
    together = torch.autograd.grad(losses["task"] + losses["distillation"], weights)
    torch.testing.assert_close(together, alone)


def test_it_answers_the_mean_of_its_members() -> None:
    model, x = Misleader().build(mlp(), noise(2, (16,))), noise(9, (16,))
    mean = torch.stack([Boxed(member, (16,))(x) for member in model.members]).mean(dim=0)
    torch.testing.assert_close(Boxed(model, (16,))(x), mean)


@pytest.mark.parametrize("shape", [(1, 28, 28), (16,)])
def test_altered_inputs_stay_in_the_unit_interval(shape: tuple[int, ...]) -> None:
    x = noise(5, shape)
    new = altered(x)
    assert new.shape == x.shape
    assert not torch.equal(new, x)
    assert new.min() >= 0
    assert new.max() <= 1


@pytest.mark.parametrize(
    ("setting", "value"), [("extraction", -1.0), ("distillation", 1.1), ("temperatures", ()), ("temperatures", (0.0,))]
)
def test_a_setting_out_of_range_is_named(setting: str, value: object) -> None:
    with pytest.raises(Invalid, match=f"`{setting}`"):
        Misleader(**{setting: value})
