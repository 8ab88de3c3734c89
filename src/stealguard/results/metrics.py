"""What is measured of answers, rows on the simplex (N, K), against labels (N,), and the names that results give to it.

Importing this loads no torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Metric(NamedTuple):
    """The range of a metric, both ends included where they are finite, and what it is in one line."""

    low: float
    high: float
    meaning: str


METRICS = {
    # of a theft
    "clone_accuracy": Metric(0, 1, "share of the test set that the clone classifies correctly"),
    "agreement": Metric(0, 1, "share of the test set on which the clone's most probable class is the victim's"),
    "no_theft": Metric(0, 1, "accuracy that the attacker's own labeled samples give without any query"),
    "chance": Metric(0, 1, "accuracy of always naming the most frequent class of the test set"),
    "renamed_accuracy": Metric(0, 1, "clone accuracy after the best renaming of its classes, by all test labels"),
    "renamed_accuracy_20": Metric(0, 1, "clone accuracy after a renaming of its classes by 20 labeled samples"),
    "no_theft_20": Metric(0, 1, "accuracy that 20 labeled samples give without any query"),
    "no_theft_pool": Metric(0, 1, "accuracy that the attacker's own labels of a near-task pool give without any query"),
    "silent_accounts": Metric(0, math.inf, "accounts of a server that answered nothing from the first request on"),
    # of a victim
    "benign_accuracy": Metric(0, 1, "share of the test set that the victim's answers classify correctly"),
    "test_inputs": Metric(0, math.inf, "inputs of the test set, which `benign_accuracy` and clones are measured on"),
    "user_queries": Metric(0, math.inf, "test inputs that a user's account asks, where answers may depend on it"),
    "one_account_accuracy": Metric(0, 1, "`benign_accuracy` if one account asks the whole test set"),
    "top_1_kept": Metric(0, 1, "share of the test set whose most probable class the guard leaves as it is"),
    "distortion": Metric(0, math.inf, "mean L1 distance that the guard puts between answers, at most 2"),
    "calibration_error": Metric(0, 1, "expected calibration error of the answers"),
    "ms_1": Metric(0, math.inf, "milliseconds for an answer, one input at a time"),
    "ms_64": Metric(0, math.inf, "milliseconds for an answer, in batches of 64 inputs"),
    "plain_ms_1": Metric(0, math.inf, "`ms_1` of an undefended net of the same architecture"),
    "plain_ms_64": Metric(0, math.inf, "`ms_64` of an undefended net of the same architecture"),
    "validation_inputs": Metric(0, math.inf, "held-out inputs that the next six are measured on"),
    "validation_served": Metric(0, 1, "share of held-out inputs answered rightly, by accounts of 100 queries or fewer"),
    "validation_alone": Metric(0, 1, "share of held-out inputs that the net alone classifies correctly"),
    "validation_start": Metric(0, 1, "the same of the weights that training began with"),
    "validation_first": Metric(0, 1, "share of held-out inputs that are answered rightly as an account's first query"),
    "validation_outliers": Metric(0, 1, "share of held-out inputs that are answered as outliers"),
    "validation_refused": Metric(0, 1, "share of held-out inputs that are refused"),
    "validation_chance": Metric(0, 1, "accuracy of always naming the most frequent class of the training set"),
    "protect_seconds": Metric(0, math.inf, "seconds that training the victim took"),
}
"""Metrics by name. A row may hold others too, if they are finite."""


def accuracy(answers: Tensor, y: Tensor) -> float:
    """The share of rows whose most probable class is the label, in [0, 1]; a row that prefers no class is wrong."""
    return _right(answers, y).double().mean().item()


def by_class(answers: Tensor, y: Tensor) -> list[list[int]]:
    """For each class, how many of its rows have it as their most probable class, and how many rows it has.

    >>> import torch
    >>> by_class(torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 0, 1, 1]))
    [[1, 2], [1, 2], [0, 0]]
    """
    k = answers.shape[1]
    counts = (rows.bincount(minlength=k).tolist() for rows in (y[_right(answers, y)], y))
    return [list(pair) for pair in zip(*counts, strict=True)]


def _right(answers: Tensor, y: Tensor) -> Tensor:
    return (answers.argmax(dim=1) == y) & decided(answers)


def chance(y: Tensor) -> float:
    """The accuracy of always naming the most frequent of the labels (N,), N > 0: 1 / K where K classes are balanced.

    >>> import torch
    >>> chance(torch.tensor([0, 1, 1, 2]))
    0.5
    """
    return int(y.bincount().max()) / len(y)


def decided(answers: Tensor) -> Tensor:
    """Which rows (N,) prefer some class: the uniform row, which stands for a refused answer, prefers none."""
    return answers.amax(dim=1) > answers.amin(dim=1)


def agreement(answers: Tensor, others: Tensor) -> float:
    """The share of rows with the same most probable class in both, in [0, 1]: the fidelity of a clone."""
    return accuracy(answers, others.argmax(dim=1).where(decided(others), -1))


def calibration_error(answers: Tensor, y: Tensor, bins: int = 15) -> float:
    """Expected calibration error over equally wide bins of confidence (Guo et al. 2017), in [0, 1]."""
    confidence, predicted = answers.double().max(dim=1)
    index = (confidence * bins).long().clamp_max(bins - 1)
    gap = confidence - (predicted == y).double()
    return (gap.new_zeros(bins).index_add(0, index, gap).abs().sum() / len(y)).item()


def distortion(answers: Tensor, originals: Tensor) -> float:
    """Mean L1 distance between the rows, in [0, 2]: how much a defense changes the answers."""
    return (answers - originals).abs().sum(dim=1).double().mean().item()
