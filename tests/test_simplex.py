"""Moves on the simplex, against a solver of linear programs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
import torch

from stealguard.simplex import steepest, toward


def solved(y: np.ndarray, gain: np.ndarray, eps: float) -> float:
    """The greatest sum of gain y' on the simplex within the budget, with y' = y + up - down."""
    k = len(y)
    both = np.concatenate([gain, -gain])
    found = scipy.optimize.linprog(
        -both,
        A_ub=np.ones((1, 2 * k)), b_ub=[eps],
        A_eq=np.concatenate([np.ones(k), -np.ones(k)])[None], b_eq=[0],
        bounds=[(0, None)] * k + [(0, v) for v in y],
    )  # fmt: skip
    return float(gain @ y - found.fun)


@pytest.mark.parametrize("classes", [2, 3, 10, 40])
@pytest.mark.parametrize("eps", [0.0, 0.1, 1.0, 2.0])
def test_steepest_solves_the_linear_program(classes: int, eps: float) -> None:
    draw = torch.Generator().manual_seed(classes)
    y = torch.randn(8, classes, generator=draw, dtype=torch.float64).mul(3).softmax(dim=1)
    y = torch.cat([y, torch.eye(classes, dtype=torch.float64)[:2], torch.full_like(y[:1], 1 / classes)])
    gain = torch.randn(y.shape, generator=draw, dtype=torch.float64)
    gain[3] = gain[3].round()  # ties
    moved = steepest(y, gain, eps)
    assert moved.min() >= 0
    torch.testing.assert_close(moved.sum(dim=1), torch.ones(len(y), dtype=torch.float64))
    assert ((moved - y).abs().sum(dim=1) <= eps + 1e-12).all()
    for row, g, found in zip(y.numpy(), gain.numpy(), (gain * moved).sum(dim=1), strict=True):
        assert found.item() == pytest.approx(solved(row, g, eps), abs=1e-9)


def test_toward_goes_as_far_as_the_budget_allows() -> None:
    y, target = torch.tensor([[0.5, 0.5, 0], [0, 0.1, 0.9]]), torch.tensor([[0, 0, 1.0], [0, 0, 1.0]])
    torch.testing.assert_close(toward(y, target, 0.5), torch.tensor([[0.375, 0.375, 0.25], [0, 0, 1]]))
    assert torch.equal(toward(y, y, 0.5), y)
    assert torch.equal(toward(y, target, 0.0), y)
