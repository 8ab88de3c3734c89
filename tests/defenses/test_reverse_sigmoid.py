"""Reverse Sigmoid and DCP against their formula, written with logarithms in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from samples import told
from stealguard.defenses import DCP, ReverseSigmoid
from stealguard.defenses.base import Defense
from stealguard.errors import Invalid

Y = torch.randn(40, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(3).softmax(dim=1)


def formula(y: Tensor, beta: float, gamma: float, gate: Tensor | float = 1.0) -> Tensor:
    bent = y - gate * beta * (torch.sigmoid(gamma * torch.logit(y)) - 0.5)
    return bent / bent.sum(dim=1, keepdim=True)


@pytest.mark.parametrize(("beta", "gamma"), [(0.7, 0.2), (0.02, 0.2), (1.9, 1.0)])
def test_it_is_the_formula_odds_above_one_included(beta: float, gamma: float) -> None:
    assert (Y > 0.5).any(), "the odds that public programs clamp"
    torch.testing.assert_close(told(ReverseSigmoid(beta, gamma), Y), formula(Y, beta, gamma))


def test_a_probability_of_zero_or_one_has_its_limit() -> None:
    y = torch.tensor([[1.0, 0.0, 0.0]])
    torch.testing.assert_close(told(ReverseSigmoid(0.7), y), torch.tensor([[0.65, 0.35, 0.35]]) / 1.35)
    near = torch.tensor([[1 - 2e-300, 1e-300, 1e-300]], dtype=torch.float64)
    assert told(ReverseSigmoid(0.7, 0.001), near).isfinite().all()


def test_a_uniform_row_stays_uniform_and_strength_zero_changes_nothing() -> None:
    uniform = torch.full((3, 7), 1 / 7)
    torch.testing.assert_close(told(ReverseSigmoid(), uniform), uniform)
    torch.testing.assert_close(told(ReverseSigmoid(beta=0.0), Y), Y)
    torch.testing.assert_close(told(DCP(beta=0.0), Y), Y)


def test_the_gate_does_not_change_sure_answers() -> None:
    sure = Y.amax(dim=1)
    found = told(DCP(beta=0.6), Y)
    torch.testing.assert_close(found[sure > 0.65], Y[sure > 0.65])
    torch.testing.assert_close(found[sure < 0.55], formula(Y, 0.6, 0.1)[sure < 0.55])
    gentle = DCP(beta=0.6, steepness=2.0)
    gate = torch.sigmoid(2 * (0.6 - sure))[:, None]
    torch.testing.assert_close(told(gentle, Y), formula(Y, 0.6, 0.1, gate))


@pytest.mark.parametrize("kind", [ReverseSigmoid, DCP])
def test_settings_are_checked(kind: type[Defense]) -> None:
    with pytest.raises(Invalid, match=r"`beta` should be in \[0, 2\). Found 2"):
        kind(beta=2.0)
    with pytest.raises(Invalid, match=r"`gamma` should be in \(0, 1\]. Found 0"):
        kind(gamma=0.0)
