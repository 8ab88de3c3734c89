"""Pure functions of tensors. Logits and log-probabilities are (N, K), a row an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from stealguard.types import Batch


def center(logits: Tensor) -> Tensor:
    """Logits (N, K) less their row mean: the one representative that softmax cannot tell from the others."""
    return logits - logits.mean(dim=1, keepdim=True)


def induction(logits: Tensor, surrogate_logits: Tensor) -> Tensor:
    """Mean |s - center(log softmax(v))|: answers from which the surrogate has nothing to learn (InI, induction).

    Args:
        logits: the victim's, (N, K), on outliers.
        surrogate_logits: the surrogate's on the same inputs, (N, K).
    """
    return F.l1_loss(center(F.log_softmax(logits, dim=1)), surrogate_logits)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q), from log-probabilities (N, K), averaged over the N rows."""
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The inner product of two vectors that are kept as lists of tensors of equal shapes."""
    return torch.stack([torch.dot(i.reshape(-1), j.reshape(-1)) for i, j in zip(a, b, strict=True)]).sum()


def norm(a: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of a vector that is kept as a list of tensors."""
    return torch.stack([t.norm() for t in a]).norm()


def mean_abs(a: Sequence[Tensor]) -> Tensor:
    """Mean absolute entry of a vector that is kept as a list of tensors."""
    return torch.stack([t.abs().sum() for t in a]).sum() / sum(t.numel() for t in a)


def in_layout_of(like: Tensor, tensor: Tensor) -> Tensor:
    """The tensor with the strides of another of its shape: itself, or a copy."""
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, *by_and_gradients: Tensor) -> Tensor:
        n = len(by_and_gradients) // 2
        by, gradients = by_and_gradients[:n], by_and_gradients[n:]
        ctx.save_for_backward(*(g.to(tensor.dtype) for tensor, g in zip(by, gradients, strict=True)))
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        return None, *(upstream[0] * gradient for gradient in gradients), *(None for _ in gradients)


def known(value: Tensor, by: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A scalar with this value, whose gradients by the tensors `by` are already known.

    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> (2 * known(torch.tensor(9.0), [x], [torch.tensor(6.0)])).backward()
    >>> x.grad
    tensor(12.)
    """
    return _Known.apply(value, *by, *gradients)  # type: ignore[no-any-return, no-untyped-call]


def task_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy alone, against labels (B,) or rows on the simplex (B, K)."""
    return {"task": F.cross_entropy(model(batch.x), batch.y)}
