"""Several losses, one gradient: closed forms, torchjd as the oracle, and the authors' loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from benchmarks import double_backward as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stealguard.errors import Invalid, StealguardError
from stealguard.training.combine import COMBINES, _project, pcgrad, settled, total, upgrad


def linear_losses(gradients: Tensor) -> tuple[list[Tensor], list[nn.Parameter]]:
    """Losses whose gradients are the rows of (K, n), split over two parameters."""
    p = nn.Parameter(torch.zeros(gradients.shape[1] - 1, dtype=gradients.dtype))
    q = nn.Parameter(torch.zeros(1, dtype=gradients.dtype))
    return [g[:-1] @ p + g[-1:] @ q for g in gradients], [p, q]


def written(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.grad for p in parameters])


@pytest.mark.parametrize("name", COMBINES)
def test_without_conflict_nothing_is_projected(name: str) -> None:
    gradients = torch.eye(3, 4, dtype=torch.float64)
    losses, parameters = linear_losses(gradients)
    COMBINES[name](losses, parameters)
    merged = gradients.sum(dim=0) if name == "total" else gradients.mean(dim=0)
    torch.testing.assert_close(written(parameters), merged, atol=1e-6, rtol=0)


def test_settled_losses_have_the_same_values_and_gradients() -> None:
    losses, parameters = linear_losses(torch.randn(3, 5, dtype=torch.float64))
    taken = settled(dict(zip("abc", losses, strict=True)), parameters)
    for loss, name in zip(losses, taken, strict=True):
        assert torch.equal(taken[name], loss)
        expected = torch.autograd.grad(2 * loss, parameters, retain_graph=True)
        assert all(map(torch.equal, torch.autograd.grad(2 * taken[name], parameters), expected))


def test_pcgrad_by_hand() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    losses, parameters = linear_losses(torch.stack([a, b]).double())
    pcgrad(losses, parameters, [[0, 1], [1, 0]])
    # a - (a.b)/|b|^2 b = (1/2, 1/2); b - (a.b)/|a|^2 a = (0, 1); their mean
    torch.testing.assert_close(written(parameters), torch.tensor([0.25, 0.75], dtype=torch.float64))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(2, 7), st.integers(0, 10_000))
def test_pcgrad_is_the_authors_loop(k: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(k, n, generator=generator, dtype=torch.float64)
    orders = [torch.randperm(k, generator=generator).tolist() for _ in range(k)]
    losses, parameters = linear_losses(gradients)
    oracle.pcgrad(losses, parameters, orders)
    expected = written(parameters)
    losses, parameters = linear_losses(gradients)
    pcgrad(losses, parameters, orders)
    torch.testing.assert_close(written(parameters), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_pcgrad_is_torchjds_up_to_the_mean(seed: int) -> None:
    """torchjd sums over the losses and draws its own orders: over all orders of two losses there is but one."""
    from torchjd.aggregation import PCGradWeighting

    g = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gram = g @ g.T
    torch.testing.assert_close(2 * _project(gram, torch.tensor([[0, 1], [1, 0]])), PCGradWeighting()(gram).to(gram))


def test_upgrad_conflicts_with_no_loss() -> None:
    for seed in range(10):
        g = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        losses, parameters = linear_losses(g)
        upgrad(losses, parameters)
        assert (g @ written(parameters) > -1e-4).all()


def test_upgrad_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchjd.aggregation", None)
    losses, parameters = linear_losses(torch.eye(2))
    with pytest.raises(StealguardError, match=r"pip install 'stealguard\[upgrad\]'"):
        upgrad(losses, parameters)


def test_orders_are_drawn_from_torchs_generator() -> None:
    g = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    g[2] = -g[0] - g[1]
    seen = []
    for seed in (0, 0, *range(1, 12)):
        losses, parameters = linear_losses(g)
        torch.manual_seed(seed)
        pcgrad(losses, parameters)
        seen.append(written(parameters))
    assert torch.equal(seen[0], seen[1])
    assert any(not torch.equal(a, b) for a, b in itertools.pairwise(seen[1:]))


@pytest.mark.parametrize("orders", [[[0, 1]], [[0, 1], [0, 2]], []])
def test_wrong_orders_are_named(orders: list[list[int]]) -> None:
    losses, parameters = linear_losses(torch.eye(2))
    with pytest.raises(Invalid, match="`orders` should be 2 sequences of indices below 2"):
        pcgrad(losses, parameters, orders)


def test_parameters_that_a_loss_does_not_reach_get_zeros() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    for combine in (total, pcgrad):
        combine([used.sum(), (2 * used).sum()], iter([used, unused]))  # a generator, as `module.parameters()` is
        assert torch.equal(unused.grad, torch.zeros(3))
