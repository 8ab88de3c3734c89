"""Forward differences against exact gradients, in float64; what they cost; and the attack that follows them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from samples import noise
from stealguard.attacks.data_free.zeroth_order import ZerothOrder, forward_differences
from stealguard.errors import Invalid


def exact(values: Any, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(values(x).sum(), x)
    return gradient


class TestForwardDifferences:
    def test_differences_of_a_linear_function_in_one_dimension_are_exact(self) -> None:
        x = noise(5, (1,)).double()
        found = forward_differences(lambda p: 3 * p[:, 0], x, directions=1, step=1e-3)
        torch.testing.assert_close(found, torch.full_like(x, 3.0))

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", [(6,), (2, 3, 2)])
    def test_the_mean_of_the_differences_is_the_gradient(self, shape: tuple[int, ...]) -> None:
        """Of the log-likelihood of a softmax box; the error of a mean over m directions falls as sqrt(d / m)."""
        torch.manual_seed(0)
        weight = torch.randn(4, torch.Size(shape).numel(), dtype=torch.double)

        def values(x: Tensor) -> Tensor:
            return F.log_softmax(x.flatten(1) @ weight.T, dim=1)[:, 0]

        x = noise(3, shape).double()
        true, found = exact(values, x), forward_differences(values, x, directions=100_000, step=1e-6)
        assert found.shape == x.shape
        assert (found - true).norm() / true.norm() < 3 * (x[0].numel() / 100_000) ** 0.5

    def test_the_bias_is_half_a_step_of_curvature(self) -> None:
        """f = x^2 in one dimension: (f(x + e u) - f(x)) / e u = 2 x + e u, and e u averages to 0 over u = -1, 1."""
        torch.manual_seed(0)
        x = noise(1, (1,)).double()
        found = torch.cat([forward_differences(lambda p: p[:, 0] ** 2, x, step=0.1) for _ in range(50)])
        torch.testing.assert_close((found - 2 * x).abs(), torch.full_like(found, 0.1))

    @pytest.mark.parametrize("directions", [1, 4])
    def test_the_cost_is_one_value_more_than_directions(self, directions: int) -> None:
        seen: list[Tensor] = []
        x = noise(7, (16,))
        forward_differences(lambda p: (seen.append(p), p.sum(dim=1))[1], x, directions=directions, step=0.5)
        (asked,) = seen
        assert asked.shape == ((directions + 1) * 7, 16)
        steps = (asked.view(directions + 1, 7, 16) - x).norm(dim=2)
        torch.testing.assert_close(steps, torch.tensor([0.0, *[0.5] * directions])[:, None].expand_as(steps))

    def test_points_are_independent(self) -> None:
        x = torch.tensor([[0.0], [1.0], [2.0]]).double()
        torch.manual_seed(0)
        found = forward_differences(lambda p: p[:, 0].exp(), x, directions=3, step=1e-7)
        torch.testing.assert_close(found, x.exp(), rtol=1e-5, atol=0)

    @pytest.mark.parametrize(("name", "value"), [("directions", 0), ("step", 0.0)])
    def test_settings_out_of_range_are_named(self, name: str, value: Any) -> None:
        with pytest.raises(Invalid, match=f"`{name}`"):
            forward_differences(lambda p: p.sum(dim=1), noise(2, (3,)), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget", 0),
        ("generator_steps", -1),
        ("clone_steps", 0),
        ("replay_steps", -1),
        ("directions", 0),
        ("step", 0.0),
        ("replay", 0),
        ("loss", "l2"),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(Invalid, match=f"`{name}`"):
        ZerothOrder(**{name: value})
