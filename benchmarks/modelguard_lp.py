"""ModelGuard-W as published: one linear program an answer, handed to a solver. Oracle and reference."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

SMALLEST = 1e-6


def solved(y: np.ndarray, eps: float) -> np.ndarray:
    """The least likely answer (K,) within L1 distance `eps` of `y` (K,) whose top class is the same."""
    k, top = len(y), int(y.argmax())
    one, zero = np.eye(k), np.zeros((k, k))
    lower = one.copy()
    lower[:, top] -= 1  # y'_j <= y'_top
    constraints = np.block([[one, -one], [-one, -one], [np.zeros((1, k)), np.ones((1, k))], [lower, zero]])
    found = linprog(
        np.concatenate([np.log(y + SMALLEST), np.zeros(k)]),
        A_ub=constraints, b_ub=np.concatenate([y, -y, [eps], np.zeros(k)]),
        A_eq=np.concatenate([np.ones(k), np.zeros(k)])[None], b_eq=[y.sum()],
    )  # fmt: skip
    return found.x[:k]
