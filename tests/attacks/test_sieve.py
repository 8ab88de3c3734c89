"""Sieve keeps the answers that no linear classifier predicts, and all answers if it predicts every one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from samples import noise
from stealguard.attacks import Knockoff, Sieve
from stealguard.boxes import Metered
from stealguard.training.loop import Training

LONG = Training(epochs=40, batch=64, lr=0.3)


def task(x: Tensor) -> Tensor:
    """No linear classifier can tell these classes: is the first value on the same side of 1/2 as the second?"""
    return ((x[:, 0] > 0.5) == (x[:, 1] > 0.5)).long()


def box(x: Tensor) -> Tensor:
    """Honest if the third value is small, otherwise a linear decoy."""
    decoy = (x[:, 3] > 0.5).long() + 2
    return nn.functional.one_hot(torch.where(x[:, 2] < 0.2, task(x), decoy), 4).float()


def clone(attack: Knockoff | Sieve) -> nn.Module:
    torch.manual_seed(0)
    clone = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    return attack(Metered(box, 4000), noise(4000, (16,)), clone, seed=0)


def right(clone: nn.Module) -> float:
    x = noise(1000, (16,), seed=9)
    x[:, 2] = 0.2 + x[:, 2] / 10  # the task's inputs, just beyond those that are answered honestly
    return (clone(x).argmax(dim=1) == task(x)).float().mean().item()


@pytest.mark.slow
def test_it_learns_the_honest_answers_among_linear_decoys() -> None:
    sieved = right(clone(Sieve(budget=2000, training=LONG, sieve=LONG)))
    assert sieved > right(clone(Knockoff(budget=2000, training=LONG))) + 0.2


def test_it_trains_on_all_answers_if_all_are_predicted() -> None:
    def linear(x: Tensor) -> Tensor:
        return nn.functional.one_hot((x[:, 0] > x[:, 1]).long(), 2).float()

    far = noise(300, (16,))
    far = far[(far[:, 0] - far[:, 1]).abs() > 0.3]
    torch.manual_seed(0)
    clone = nn.Linear(16, 2)
    start = clone.weight.clone()
    Sieve(budget=len(far), training=LONG, sieve=LONG)(Metered(linear, len(far)), far, clone, seed=0)
    assert not torch.equal(clone.weight, start)
    assert (clone(far).argmax(dim=1) == linear(far).argmax(dim=1)).float().mean() > 0.95
