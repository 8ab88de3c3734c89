"""GRAD^2's gains against gradients by autograd, in float64; tests of the simplex show that the program is solved."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samples import mlp, noise
from stealguard.boxes.base import logits, outputs_of
from stealguard.defenses import GRAD2
from stealguard.defenses.base import Cost
from stealguard.defenses.grad2 import slope_along_ones
from stealguard.errors import Invalid
from stealguard.nets import build, reinitialized
from stealguard.seeds import derive
from stealguard.simplex import steepest


def step(net: nn.Module, x: Tensor, y: Tensor, weights: list[nn.Parameter]) -> Tensor:
    """G^T y for one input (1, ...) and its answer (K,): the gradient of sum_k y_k log q_k."""
    gradients = torch.autograd.grad((y * F.log_softmax(net(x), dim=1)[0]).sum(), weights)
    return torch.cat([g.flatten() for g in gradients])


def answers(n: int, classes: int) -> Tensor:
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(dim=1)


def test_opposite_is_the_last_layer_s_inner_product() -> None:
    x, y, net = noise(6, (16,)).double(), answers(6, 5), mlp(16, 5).double()
    weights = list(net.parameters())[-2:-1]
    gains = logits(net, x).softmax(dim=1) - y
    for i in range(6):
        here = x[i : i + 1]
        z = -step(net, here, y[i], weights)
        of_classes = torch.stack([step(net, here, e, weights) @ z for e in torch.eye(5, dtype=torch.float64)])
        centered = of_classes - of_classes.mean()
        ours = gains[i] - gains[i].mean()
        torch.testing.assert_close(centered / centered.norm(), ours / ours.norm())


@pytest.mark.parametrize("net", ["mlp", "lenet5"])
def test_all_ones_is_a_derivative_of_every_logit(net: str) -> None:
    shape = (16,) if net == "mlp" else (1, 28, 28)
    x = noise(3, shape).double()
    module = (mlp(16, 4) if net == "mlp" else build("lenet5", noise(4), 4, seed=0)).double().eval()
    weights = list(module.parameters())
    slopes = slope_along_ones(module, x)
    for i in range(3):
        of_classes = torch.stack(
            [step(module, x[i : i + 1], e, weights).sum() for e in torch.eye(4, dtype=torch.float64)]
        )
        torch.testing.assert_close(of_classes - of_classes[0], slopes[i] - slopes[i][0])


@pytest.mark.parametrize("direction", ["opposite", "all-ones"])
def test_the_guard_is_the_linear_program_with_these_gains(direction: str) -> None:
    x, y, model = noise(8, (16,)), answers(8, 5).float(), mlp(16, 5)
    defense = GRAD2(eps=0.4, direction=direction, seed=3)
    surrogate = reinitialized(model, seed=derive(3, "grad2", "surrogate")).eval()
    gain = logits(surrogate, x).softmax(dim=1) - y if direction == "opposite" else slope_along_ones(surrogate, x)
    guard = defense.build(model, x).guard
    found = guard.answer({**outputs_of(guard.heads(), x), "logits": y.log()}, x)
    torch.testing.assert_close(found, steepest(y, gain, 0.4))
    torch.testing.assert_close((found - y).abs().sum(dim=1), torch.full((8,), 0.4))


def test_costs_follow_from_the_direction_and_an_unknown_one_is_named() -> None:
    assert GRAD2().cost == Cost(forwards=1)
    assert GRAD2(direction="all-ones").cost == Cost(forwards=2)
    with pytest.raises(Invalid, match=r"`direction` should be one of opposite, all-ones\. Found `watermark`"):
        GRAD2(direction="watermark")


def test_the_slope_is_right_in_many_threads_at_once() -> None:
    net, parts = mlp(), noise(64, (16,)).split(4)
    expected = [slope_along_ones(net, part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda part: slope_along_ones(net, part), parts))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
