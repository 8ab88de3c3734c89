"""Whether the inputs of an account are together like the task's, as each of them is by itself.

What a program draws looks to a net like the task's inputs, one by one, and yet the mean of its logits in a class is
another: it drifts. Where an account hides outliers among such inputs, this tells it from one that asks the task's own.
D-ADD (Mei et al., AAAI 2025) compares distributions of features by class for the same purpose.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GROUPS = 16  # that classes share a mean in, where there are more
STEP = 100  # inliers after which drift is judged again
MOST = 200  # that it is the mean of; then all that are known count half
NEAR = 2.0  # squared drift that counts as none, if nothing else is said
NOISE = 1.5  # and variances of each mean that chance adds to it
FEW = 40  # held-out inputs of a class, with which a difference from its mean counts 0.7 of one
NOTHING = 1e-6  # share of the greatest variance, below which a direction has none; and number, of a mean of none

Array = NDArray[np.floating[Any]]


class Centers(NamedTuple):
    """What the task's own inputs are like.

    Attributes:
        means: of the logits of inputs that the net gives each class, (K, D).
        whitening: makes the covariance of the differences from these the identity, (D, D).
        weights: of the differences in each class, (K,), less than 1 where few inputs tell its mean.
    """

    means: Tensor
    whitening: Tensor
    weights: Tensor


def centers(v: Tensor, named: Tensor) -> Centers:
    """Those of logits (N, D) of held-out inputs, which the net gives the classes `named`, one-hot (N, K).

    >>> centers(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]]), torch.tensor([[1, 0], [1, 0], [0, 1]])).means
    tensor([[2., 0.],
            [0., 4.]], dtype=torch.float64)
    """
    finite = v.isfinite().all(dim=1)  # a net may overflow
    v, named = v[finite].double(), named[finite].double()
    counts = named.sum(dim=0)
    means = named.T @ v / counts.clamp_min(1)[:, None]
    apart = v - named @ means
    variances, axes = torch.linalg.eigh(apart.T @ apart / max(1, len(apart)))
    scales = torch.where(variances > NOTHING * variances[-1], variances.rsqrt(), 0.0)
    return Centers(means, axes * scales @ axes.T, (counts / (counts + FEW)).sqrt())


class Drift(NamedTuple):
    """What is known of an account's inliers.

    Attributes:
        sums: of their differences from the means of their classes, by groups of these, and their number, (G, D + 1).
        inliers: how many they are.
        drifted: what was judged last.
        pending: queries that the sums lack.
    """

    sums: Array
    inliers: int
    drifted: bool
    pending: int = 0


def followed(
    known: Drift, rows: Array, groups: NDArray[np.intp], whitening: Array, near: float
) -> tuple[list[bool], Drift]:
    """Whether an account's inliers had drifted at each of its next queries, and what is known after these.

    It is the same to the bit however queries are batched.

    Args:
        known: before these queries, with none pending.
        rows: the differences and 1, or zeros where a query is no inlier, (n, D + 1).
        groups: of the classes that the net gives, (n,).
        whitening: (D, D).
        near: squared drift that counts as none.
    """
    sums, count, drifted, flags = known.sums.copy(), known.inliers, known.drifted, list[bool]()
    while len(rows):
        counts = rows[:, -1].cumsum()
        part = rows[: 1 + int(counts.searchsorted(STEP - count % STEP))]
        n = len(part)
        np.add.at(sums, groups[:n], part)  # in their order
        flags += [drifted] * n
        count += int(counts[n - 1])
        if count % STEP == 0 and part[-1, -1]:
            drifted = has_drifted(sums, whitening, near)
            if count >= MOST:
                sums, count = sums / 2, count // 2
        rows, groups = rows[n:], groups[n:]
    return flags, Drift(sums, count, drifted)


def has_drifted(sums: Array, whitening: Array, near: float) -> bool:
    """Whether the means of sums (G, D + 1), weighted by their numbers, are farther from 0 than chance explains.

    >>> [has_drifted(np.array([[mean * 50, 0, 50], [0, mean * 50, 50]]), np.eye(2), 2.0) for mean in (1.4, 1.5)]
    [False, True]
    """
    means, counts = sums[:, :-1], sums[:, -1]
    limit = near * counts.sum() + NOISE * means.size
    return not squared(sums, whitening) <= limit  # sums that are no numbers have drifted


def squared(sums: Array, whitening: Array) -> float:
    """How far the means of sums (G, D + 1) are from 0: the squares, each times its number, in all.

    >>> squared(np.array([[30.0, 0, 10], [0, -20, 5]]), np.eye(2))
    170.0
    """
    moved = sums[:, :-1] @ whitening
    return float(((moved * moved).sum(axis=1) / np.fmax(sums[:, -1], NOTHING)).sum())
