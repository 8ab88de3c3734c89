"""What a clone is worth once its classes are renamed: pure functions of answers (N, K) and labels (N,).

A defense may teach a clone the task under wrong class names. A few labeled samples undo that, so a clone whose
accuracy is below chance can be a good one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stealguard.errors import require
from stealguard.results.metrics import decided
from stealguard.seeds import derive


def renaming(predicted: Tensor, y: Tensor, classes: int) -> Tensor:
    """The most frequent label of each predicted class, (K,); a class keeps its own name if that is no worse.

    Args:
        predicted: classes in 0 .. K - 1, (n,).
        y: their labels, (n,).
        classes: K.

    >>> renaming(torch.tensor([0, 0, 0, 2]), torch.tensor([1, 1, 0, 0]), 3)
    tensor([1, 1, 0])
    """
    counts = (predicted * classes + y).bincount(minlength=classes**2).view(classes, classes)
    return (2 * counts + torch.eye(classes, dtype=counts.dtype, device=counts.device)).argmax(dim=1)


def best_renaming(answers: Tensor, y: Tensor) -> float:
    """The accuracy, in [0, 1], after each output class is mapped to its most frequent label: an upper bound.

    Rows that prefer no class count as wrong.

    >>> best_renaming(torch.eye(3)[[1, 2, 0, 0]], torch.tensor([0, 1, 2, 2]))
    1.0
    """
    predicted, usable = answers.argmax(dim=1), decided(answers)
    names = renaming(predicted[usable], y[usable], answers.shape[1])
    return _share(names[predicted], y, usable)


def renamed_accuracy(answers: Tensor, y: Tensor, n: int, draws: int = 25, *, seed: int = 0) -> float:
    """The median accuracy, in [0, 1], after a renaming that is learned from n labeled samples.

    Each draw takes n rows at random, maps each output class to its most frequent label among them (a class that does
    not occur keeps its name), and is measured on the other rows.

    Args:
        n: labeled samples, in 1 .. N - 1.
        draws: at least 1.

    Raises:
        Invalid: a number is out of range.
    """
    require(1 <= n < len(y), "n", f"in 1 .. {len(y) - 1}, to leave rows to measure on", n)
    require(draws >= 1, "draws", "at least 1", draws)
    predicted, usable = answers.argmax(dim=1), decided(answers)
    found = []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(derive(seed, "renaming", draw))
        order = torch.randperm(len(y), generator=generator).to(y.device)
        known, rest = order[:n][usable[order[:n]]], order[n:]
        names = renaming(predicted[known], y[known], answers.shape[1])
        found.append(_share(names[predicted[rest]], y[rest], usable[rest]))
    return torch.tensor(found, dtype=torch.double).quantile(0.5).item()


def _share(predicted: Tensor, y: Tensor, usable: Tensor) -> float:
    return ((predicted == y) & usable).double().mean().item()
