"""Jacobian augmentation as public programs write it, a sample and a class at a time: oracle and reference."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def jacobian(clone: nn.Module, x: Tensor, score: str) -> Tensor:
    """The whole Jacobian (K, *shape) of one input (1, *shape), a backward pass for each class."""
    here = x.clone().requires_grad_()
    logits = clone(here)
    scores = logits if score == "logit" else F.softmax(logits, dim=1)
    rows = []
    for of_class in scores[0]:
        here.grad = None
        of_class.backward(retain_graph=True)
        assert here.grad is not None
        rows.append(here.grad[0].clone())
    return torch.stack(rows)


def jacobian_step(clone: nn.Module, x: Tensor, labels: Tensor, step: float, score: str = "probability") -> Tensor:
    """clip(x + step sgn J[label]) for inputs (N, *shape) and labels (N,), one after the other."""
    clone.eval()
    moved = [
        sample + step * jacobian(clone, sample[None], score)[label].sign()
        for sample, label in zip(x, labels.tolist(), strict=True)
    ]
    clone.zero_grad()
    return torch.stack(moved).clamp(0, 1)
