"""MAD as public programs write it: a backward pass a class, a vertex at a time in numpy. Oracle and reference."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

UPWEIGHED = 1e-5


def jacobian(surrogate: nn.Module, x: Tensor) -> Tensor:
    """G, (K, D): gradients of -log q_k at one input (1, ...) in the last layer's weights, a backward pass a class."""
    weights = list(surrogate.parameters())[-2]
    losses = -F.log_softmax(surrogate(x), dim=1)[0]
    return torch.stack([torch.autograd.grad(loss, weights, retain_graph=True)[0].flatten() for loss in losses])


def vertices(y: np.ndarray, keep_top: bool) -> Iterator[np.ndarray]:
    """Every vertex that is tried for one answer (K,)."""
    if not keep_top:
        yield from np.eye(len(y), dtype=y.dtype)
        return
    members = np.asarray(list(itertools.product((0, 1), repeat=len(y))), dtype=y.dtype)
    top = y.argmax()
    for vertex in members[members[:, top] > 0]:
        vertex[top] += UPWEIGHED
        yield vertex / vertex.sum()


def objective(vertex: np.ndarray, y: np.ndarray, g: np.ndarray, objmax: bool) -> float:
    u, v = g.T @ vertex, g.T @ y
    if objmax:
        u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    return float(np.linalg.norm(u - v) ** 2)


def _best(y: np.ndarray, g: np.ndarray, keep_top: bool, objmax: bool) -> np.ndarray:
    return max(vertices(y, keep_top), key=lambda vertex: objective(vertex, y, g, objmax))


def perturbed(surrogate: nn.Module, x: Tensor, answers: Tensor, eps: float, keep_top: bool, objmax: bool) -> Tensor:
    """MAD's answers (N, K) to inputs (N, ...), one after the other."""
    rows = []
    for sample, y in zip(x, answers, strict=True):
        g = jacobian(surrogate, sample[None])
        best = torch.from_numpy(_best(y.numpy(), g.numpy(), keep_top, objmax))
        share = (eps / ((best - y).abs().sum() + 1e-7)).clamp(0, 1)
        rows.append((1 - share) * y + share * best)
    return torch.stack(rows)
