"""What refusals tell an attacker: the measurement `benchmarks.refusals`, against a real guard by hand."""

from __future__ import annotations

import torch
from benchmarks.refusals import Accounts, Covers, Known, explore, reveal
from torch import Tensor, nn

from samples import noise
from stealguard import boxes
from stealguard.defenses.suspicion import BINS, HIGH, LOW, Gate, Measured, Suspicion

K = 10
SHAPE = (1, 28, 28)
OUTLIER, TASK = -5.0, 9.0  # odds


class Bright(nn.Module):
    """Inputs of the task are those with a mean above 0.4: their odds are 9, and -5 elsewhere; class 1."""

    def forward(self, x: Tensor) -> Tensor:
        named = torch.where(x.flatten(1).mean(dim=1) > 0.4, TASK, OUTLIER)[:, None]
        return torch.cat([-20 + x.flatten(1)[:, 1:2], named, -20 + x.flatten(1)[:, 2:10]], dim=1)


class Server:
    """The accounts of a guard for which an outlier is evidence of 7, and a task input of -7; 20 reveal an attacker."""

    def __init__(self) -> None:
        known = Measured()
        middle = LOW + (torch.arange(BINS) + 0.5) * (HIGH - LOW) / BINS
        known.evidence.copy_(torch.where(middle < 0, 7.0, -7.0))
        known.alike.fill_(0.999999)
        heads: dict[str, nn.Module] = {"logits": Bright(), "decoys": nn.Sequential(nn.Flatten(), nn.Linear(784, K))}
        self.accounts = boxes.Accounts(heads, Suspicion(Gate(known, 5.0, True), -1.0, 20.0, "refuse", K), SHAPE)

    def connect(self, account: str) -> boxes.Account:
        return self.accounts.connect(account)


def images(inside: list[bool], seed: int = 3) -> Tensor:
    return noise(len(inside), SHAPE, seed) / (2 - torch.tensor(inside).float().view(-1, 1, 1, 1))


def test_refused_requests_tell_which_inputs_are_outliers_and_answer_nothing() -> None:
    inside = [True, False, True, True, False, False, True, False, True, False]
    accounts, x = Accounts(Server(), 5), images(inside)
    known = Known(x[:0], torch.empty(0, dtype=torch.long), x[:0])
    assert reveal(accounts, known, x, 5) == len(x)
    assert torch.equal(known.inliers, x[torch.tensor(inside)])
    assert torch.equal(known.outliers, x[~torch.tensor(inside)])
    assert (accounts.opened, accounts.queries) == (5, 0)


def test_inliers_in_turn_pay_for_outliers_and_a_refused_account_ends_the_exploration() -> None:
    x = images([False] * 30, seed=4)
    for each, answered in ((8, 30), (2, 3)):
        covers = Covers(images([True] * 200))
        accounts = Accounts(Server(), 1)
        found, classes = explore(accounts, covers, x, each)
        assert torch.equal(found, x[:answered])
        assert len(classes) == answered
        assert accounts.over == (answered < 30)
