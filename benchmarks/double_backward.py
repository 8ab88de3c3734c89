"""InI's gradient terms as the authors compute them, by differentiating a gradient: oracle and reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def divergence(logits: Tensor, surrogate_logits: Tensor, reading: str) -> Tensor:
    """What the clone minimizes: KL(p || q) in the paper, KL(q || p) in the authors' program."""
    log_p, log_q = F.log_softmax(logits, dim=1), F.log_softmax(surrogate_logits, dim=1)
    if reading == "official":
        log_p, log_q = log_q, log_p
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def flat_gradient(loss: Tensor, surrogate: nn.Module, create_graph: bool) -> Tensor:
    gradients = torch.autograd.grad(
        loss, list(surrogate.parameters()), create_graph=create_graph, retain_graph=True, materialize_grads=True
    )
    return torch.cat([g.reshape(-1) for g in gradients])


def isolation(logits: Tensor, surrogate: nn.Module, x: Tensor, y: Tensor, reading: str) -> Tensor:
    s = surrogate(x)
    mine = flat_gradient(divergence(logits, s, reading), surrogate, create_graph=True)
    truth = flat_gradient(F.cross_entropy(s, y), surrogate, create_graph=False)
    return F.cosine_similarity(mine, truth, dim=0)


def magnitude(logits: Tensor, surrogate: nn.Module, z: Tensor, reading: str) -> Tensor:
    return flat_gradient(divergence(logits, surrogate(z), reading), surrogate, create_graph=True).abs().mean()


def induction(logits: Tensor, surrogate: nn.Module, z: Tensor) -> Tensor:
    with torch.no_grad():
        s = surrogate(z)
    log_p = F.log_softmax(logits, dim=1)
    return (s - (log_p - log_p.mean(dim=1, keepdim=True))).abs().mean()


def losses(
    victim: nn.Module, surrogate: nn.Module, x: Tensor, y: Tensor, z: Tensor, reading: str, weights: Sequence[float]
) -> list[Tensor]:
    """Task, induction, isolation, magnitude, each with its weight: the authors' order."""
    gamma, delta, epsilon = weights
    on_task, on_outliers = victim(x), victim(z)
    return [
        F.cross_entropy(on_task, y),
        gamma * induction(on_outliers, surrogate, z),
        delta * isolation(on_task, surrogate, x, y, reading),
        epsilon * magnitude(on_outliers, surrogate, z, reading),
    ]


def pcgrad(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter], orders: Sequence[Sequence[int]]) -> None:
    """Projected conflicting gradients on whole cloned gradients, the mean over the losses."""
    gradients = []
    for loss in losses:
        gs = torch.autograd.grad(loss, parameters, retain_graph=True)
        gradients.append(torch.cat([g.reshape(-1).clone() for g in gs]))
    projected = [g.clone() for g in gradients]
    for mine, order in zip(projected, orders, strict=True):
        for j in order:
            conflict = torch.dot(mine, gradients[j])
            if conflict < 0:
                mine -= conflict * gradients[j] / gradients[j].norm() ** 2
    merged, start = torch.stack(projected).mean(dim=0), 0
    for p in parameters:
        p.grad = merged[start : start + p.numel()].view_as(p).clone()
        start += p.numel()
