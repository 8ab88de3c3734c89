"""Steps as written, and steps that a GPU replays: both train the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from samples import mlp
from stealguard.defenses import DEFENSES, InI
from stealguard.nets import build
from stealguard.releases.protection import losses_of
from stealguard.training.combine import COMBINES, total
from stealguard.training.descent import Descent
from stealguard.training.losses import task_loss
from stealguard.training.steps import FIRST, Recorded, Step, Steps, recordable
from stealguard.types import Batch

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def step(net: nn.Module, combine: str = "total") -> Step:
    descent = Descent(net.parameters(), momentum=0.9, weight_decay=5e-4)
    return Step(net, descent, losses_of if hasattr(net, "losses") else task_loss, COMBINES[combine])


def batches(number: int, shape: tuple[int, ...], device: str = "cpu") -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(number, 32, *shape, generator=generator).to(device)
    y = torch.randint(3, (number, 32), generator=generator).to(device)
    z = torch.rand(number, 32, *shape, generator=generator).to(device)
    return [Batch(*parts) for parts in zip(x, y, z, strict=True)]


def losses_of_step(one: Step | Steps | Recorded, batch: Batch, rate: float) -> dict[str, Tensor]:
    """Train on the batch; what is told."""
    losses: dict[str, Tensor] = {}
    one(batch, rate, losses.update)
    return losses


def test_a_step_moves_the_weights_by_the_rate_times_the_gradient() -> None:
    net, (batch,) = mlp(), batches(1, (16,))
    before = copy.deepcopy(net)
    descent = Descent(net.parameters(), momentum=0.0, weight_decay=0.0)
    losses = losses_of_step(Step(net, descent, task_loss, total), batch, 0.25)
    expected = task_loss(before, batch)["task"]
    assert losses["task"] == expected.detach()
    assert not losses["task"].requires_grad
    gradients = torch.autograd.grad(expected, list(before.parameters()))
    for p, was, gradient in zip(net.parameters(), before.parameters(), gradients, strict=True):
        torch.testing.assert_close(p, was - 0.25 * gradient)


def test_without_a_gpu_every_step_is_as_written() -> None:
    one = mlp()
    other = copy.deepcopy(one)
    written, steps = step(one), Steps(step(other), steady=True, expected=100)
    for batch in batches(FIRST + 3, (16,)):
        assert losses_of_step(written, batch, 0.1) == losses_of_step(steps, batch, 0.1)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


class Own(nn.Module):
    """A user's module, which may do anything."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


@GPU
def test_only_steps_of_known_parts_are_recorded() -> None:
    assert recordable(step(mlp().cuda()))
    assert not recordable(step(Own().cuda()))
    assert not recordable(step(nn.Sequential(Own(), nn.ReLU()).cuda()))
    assert not recordable(step(mlp().cuda(), "upgrad"))
    assert not recordable(step(mlp().double().cuda()))
    hooked = mlp().cuda()
    next(hooked.children()).register_forward_hook(lambda module, x, y: y)
    assert not recordable(step(hooked))


def trained(net: nn.Module, combine: str, *, steady: bool) -> Mapping[str, Tensor]:
    """The weights after some steps, and the last losses."""
    made = step(net, combine)
    steps = Steps(made, steady=steady, expected=100)
    torch.manual_seed(1)
    given = batches(FIRST + 5, (1, 28, 28), "cuda")
    for number, batch in enumerate(given):
        losses = losses_of_step(steps, batch, 0.05 / (1 + number))
    assert (steps._recorded is not None) == steady
    return {**{name: loss.clone() for name, loss in losses.items()}, **net.state_dict()}


@GPU
@pytest.mark.parametrize("name", ["plain", *(n for n, kind in DEFENSES.items() if n in ("ini", "ini-robust", "edm"))])
def test_replayed_steps_train_as_those_that_are_written(name: str) -> None:
    like = torch.rand(32, 1, 28, 28)
    net = build("lenet5", like, 4, seed=0)
    defended = net if name == "plain" else DEFENSES[name]().build(net, like)
    written = trained(copy.deepcopy(defended).cuda(), "total", steady=False)
    replayed = trained(copy.deepcopy(defended).cuda(), "total", steady=True)
    assert written.keys() == replayed.keys()
    for key, value in written.items():
        torch.testing.assert_close(replayed[key], value, atol=2e-3, rtol=2e-2, msg=key)


@GPU
def test_every_replay_draws_its_own_orders_and_dropout() -> None:
    like = torch.rand(32, 1, 28, 28)
    defended = InI().build(build("lenet5", like, 4, seed=0), like).cuda()
    made = step(defended, "pcgrad")
    (batch,) = batches(1, (1, 28, 28), "cuda")
    for _ in range(FIRST):
        losses_of_step(made, batch, 0.0)
    assert len(losses_of_step(Recorded(made, batch), batch, 0.0)) == 4
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 4)).cuda()
    dropping = step(net)
    for _ in range(FIRST):
        losses_of_step(dropping, batch, 0.0)
    recorded = Recorded(dropping, batch)
    torch.manual_seed(3)
    drawn = [losses_of_step(recorded, batch, 0.0)["task"].item() for _ in range(5)]
    assert len(set(drawn)) == 5
    torch.manual_seed(3)
    assert [losses_of_step(recorded, batch, 0.0)["task"].item() for _ in range(5)] == drawn


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_steps_are_recorded_on_a_gpu_that_is_not_the_current_one() -> None:
    net = mlp().to("cuda:1")
    steps = Steps(step(net), steady=True, expected=100)
    given = batches(FIRST + 2, (16,), "cuda:1")
    for batch in given[:-1]:
        losses_of_step(steps, batch, 0.1)
    assert steps._recorded is not None
    before = copy.deepcopy(net)
    losses_of_step(steps, given[-1], 0.1)
    assert all(not torch.equal(p, q) for p, q in zip(net.parameters(), before.parameters(), strict=True))
    assert torch.cuda.current_device() == 0
