"""CopycatCNN learns from labels alone, whatever the box answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samples import noise
from stealguard.attacks import CopycatCNN
from stealguard.attacks.copycat import hard
from stealguard.boxes import Labels, Metered
from stealguard.training.loop import Training


def box(x: Tensor) -> Tensor:
    return (8 * x.flatten(1)[:, :3]).softmax(dim=1)


def steal(asked: Metered) -> nn.Linear:
    torch.manual_seed(0)
    clone = nn.Linear(16, 3)
    CopycatCNN(budget=50, training=Training(epochs=2, batch=16))(asked, noise(60, (16,)), clone, seed=0)
    return clone


def test_it_learns_the_same_from_probabilities_as_from_labels() -> None:
    soft, only_labels = Metered(box, 50), Metered(Labels(box), 50)
    assert torch.equal(steal(soft).weight, steal(only_labels).weight)
    assert soft.spent == only_labels.spent == 50


def test_answers_become_labels_and_rows_of_zeros_stay_zeros() -> None:
    answers = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 0.0], [0.9, 0.1, 0.0]])
    assert torch.equal(hard(answers), torch.tensor([[0.0, 1, 0], [0, 0, 0], [1, 0, 0]]))


def test_labels_of_a_linear_victim_are_learned() -> None:
    pool, fresh = noise(2000, (16,)), noise(500, (16,), seed=9)
    clone = nn.Linear(16, 3)
    attack = CopycatCNN(budget=2000, training=Training(epochs=30, lr=0.5))
    clone = attack(Metered(box, 2000), pool, clone, seed=0)
    assert (clone(fresh).argmax(1) == box(fresh).argmax(1)).double().mean() > 0.95
