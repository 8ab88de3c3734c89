"""Parameters move as by `torch.optim.SGD` and `torch.optim.Adam`, to the last bit."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from grids import environment
from stealguard.training.descent import Adam, Descent

ALONE = """
import sys, torch, stealguard as sg
from stealguard.boxes import Boxed, Metered
x, net, clone = torch.rand(64, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
sg.fit(net, x, x.argmax(dim=1), sg.Training(epochs=1), seed=0, progress=False)
box = Metered(Boxed(net, (3,)), 64)
sg.attacks.DFMSHL(64)(box, x, clone, seed=0)
sys.exit("torch._dynamo" in sys.modules)
"""


def nets() -> tuple[nn.Sequential, nn.Sequential]:
    """Two nets of the same weights."""
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    return net, copy.deepcopy(net)


def check(net: nn.Sequential, descent: Descent | Adam, other: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    """Six steps of both are the same, although some parameters have no gradient in the first."""
    for step, x in enumerate(torch.rand(6, 8, 5)):
        for model in (net, other):
            model[2 if step == 0 else slice(None)](x[:, :4] if step == 0 else x).square().mean().backward()
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.step()
        descent.step(0.1 / (step + 1))
        for moved, expected in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.equal(moved, expected)
            moved.grad = expected.grad = None


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.0, 0.01), (0.9, 0.0), (0.9, 5e-4)])
def test_descent_moves_parameters_as_sgd_of_torch_does(momentum: float, weight_decay: float) -> None:
    net, other = nets()
    descent = Descent(net.parameters(), momentum, weight_decay)
    check(net, descent, other, torch.optim.SGD(other.parameters(), 0.1, momentum, weight_decay=weight_decay))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.99)])
def test_adam_moves_parameters_as_adam_of_torch_does(betas: tuple[float, float]) -> None:
    net, other = nets()
    check(net, Adam(net.parameters(), betas), other, torch.optim.Adam(other.parameters(), betas=betas))


def test_what_has_no_gradient_stays_and_has_no_momentum() -> None:
    moved, still = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    descent = Descent([still, moved], momentum=0.9, weight_decay=0.5)
    moved.grad = torch.ones(2)
    descent.step(0.1)
    assert descent.momenta.keys() == {1}
    assert torch.equal(still, torch.ones(2))
    assert not torch.equal(moved, torch.ones(2))


@pytest.mark.slow
def test_trainings_do_not_import_the_compiler_of_torch() -> None:
    """Neither a net's nor that of an attack without data."""
    assert subprocess.run([sys.executable, "-c", ALONE], env=environment(), check=False).returncode == 0
