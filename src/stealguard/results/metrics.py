"""What is measured of answers: pure functions of rows on the simplex, (N, K), and labels, (N,)."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(answers: Tensor, y: Tensor) -> float:
    """The share of rows whose most probable class is the label, in [0, 1]; a row without one is wrong."""
    return ((answers.argmax(dim=1) == y) & decided(answers)).double().mean().item()


def decided(answers: Tensor) -> Tensor:
    """Which rows (N,) prefer some class to another: what a client that is refused goes by does not."""
    return answers.amax(dim=1) > answers.amin(dim=1)


def agreement(answers: Tensor, others: Tensor) -> float:
    """The share of rows with the same most probable class in both, in [0, 1]: the fidelity of a clone."""
    return accuracy(answers, others.argmax(dim=1).where(decided(others), -1))


def calibration_error(answers: Tensor, y: Tensor, bins: int = 15) -> float:
    """Expected calibration error over equally wide bins of confidence (Guo et al. 2017), in [0, 1]."""
    confidence, predicted = answers.double().max(dim=1)
    index = (confidence * bins).long().clamp_max(bins - 1)
    gap = confidence - (predicted == y).double()
    return (torch.zeros(bins, dtype=gap.dtype).index_add(0, index, gap).abs().sum() / len(y)).item()


def distortion(answers: Tensor, originals: Tensor) -> float:
    """Mean L1 distance between the rows, in [0, 2]: what a defense changes of the answers."""
    return (answers - originals).abs().sum(dim=1).double().mean().item()
