"""MAD as public programs write it: a sample at a time, its Jacobian a class at a time. Oracle and reference."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UPWEIGHED = 1e-5


def jacobian(surrogate: nn.Module, x: Tensor) -> Tensor:
    """G, (K, D): gradients of -log q_k at one input (1, ...) in the last layer's weights, a backward pass a class."""
    weights = list(surrogate.parameters())[-2]
    losses = -F.log_softmax(surrogate(x), dim=1)[0]
    return torch.stack([torch.autograd.grad(loss, weights, retain_graph=True)[0].flatten() for loss in losses])


def vertices(y: Tensor, keep_top: bool) -> Iterator[Tensor]:
    """Every vertex that is tried for one answer (K,)."""
    if not keep_top:
        yield from torch.eye(len(y), dtype=y.dtype)
        return
    top = int(y.argmax())
    for members in itertools.product((0.0, 1.0), repeat=len(y)):
        if members[top]:
            vertex = torch.tensor(members, dtype=y.dtype)
            vertex[top] += UPWEIGHED
            yield vertex / vertex.sum()


def objective(vertex: Tensor, y: Tensor, g: Tensor, objmax: bool) -> float:
    u, v = vertex @ g, y @ g
    return float(((u / u.norm() - v / v.norm()) if objmax else (u - v)).norm() ** 2)


def perturbed(surrogate: nn.Module, x: Tensor, answers: Tensor, eps: float, keep_top: bool, objmax: bool) -> Tensor:
    """MAD's answers (N, K) to inputs (N, ...), one after the other."""
    rows = []
    for sample, y in zip(x, answers, strict=True):
        g = jacobian(surrogate, sample[None])
        best = max(vertices(y, keep_top), key=lambda vertex: objective(vertex, y, g, objmax))
        share = (eps / ((best - y).abs().sum() + 1e-7)).clamp(0, 1)
        rows.append((1 - share) * y + share * best)
    return torch.stack(rows)
