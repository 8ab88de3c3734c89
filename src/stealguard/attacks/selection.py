"""Which inputs to ask next: pure functions of points, answers and nets, linear in memory, without loops over samples.

Rows of answers are on the simplex, (N, K). Random choices follow from a seed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stealguard.attacks.base import QueryPool
from stealguard.boxes.base import CHUNK, Boxed
from stealguard.devices import device_of

ROWS = 1024  # compared at once
INPUTS = 128  # differentiated at once: a net keeps every layer's output of each


def entropy(answers: Tensor) -> Tensor:
    """The entropy of each answer, (N, K) -> (N,), in nats."""
    return torch.special.entr(answers).sum(dim=1)


def guesses(clone: nn.Module, pool: QueryPool, rows: Tensor | None = None) -> Tensor:
    """The clone's probabilities, (n, K), for inputs (N, *shape), or for these `rows` of them, read chunk by chunk."""
    rows = torch.arange(len(pool)) if rows is None else rows
    guess = Boxed(clone, tuple(pool.shape[1:]))
    return torch.cat([guess(pool[part]) for part in rows.split(CHUNK)])


def k_center(points: Tensor, centers: Tensor, k: int) -> Tensor:
    """Greedy k-center (Sener & Savarese, ICLR 2018, algorithm 1): k times the point farthest from every center so far.

    Each pick compares all points with one center, so memory is linear in N and no distance is taken twice.

    Args:
        points: candidates (N, D).
        centers: the centers so far, (M, D), M at least 1.
        k: how many to pick, at most N.

    Returns:
        The picked points' rows, (k,), all different.
    """
    nearest = points.new_full((len(points),), torch.inf)
    for part in centers.split(ROWS):
        nearest = torch.minimum(nearest, torch.cdist(points, part).square().amin(dim=1))
    picked = torch.empty(k, dtype=torch.long)
    for i in range(k):
        row = picked[i] = nearest.argmax()
        nearest = torch.minimum(nearest, (points - points[row]).square().sum(dim=1))
        nearest[row] = -1.0  # below every distance: points that coincide are picked once each
    return picked


def boundary_distance(
    net: nn.Module, x: Tensor, *, classes: int = 10, steps: int = 20, overshoot: float = 0.02
) -> Tensor:
    """The length of DeepFool's perturbation (Moosavi-Dezfooli et al., CVPR 2016, algorithm 2), (N,), in batches.

    Each step moves every input that has not yet crossed to the nearest boundary of the net's linearization,
    r += |f_l| / ||w_l||^2 w_l with l = argmin |f_l| / ||w_l||, f_l and w_l the difference of class l's logit and
    gradient from the first class's.

    Args:
        net: in evaluation mode, from inputs to logits.
        x: inputs (N, *shape).
        classes: how many of the most probable classes are considered, as in the authors' program.
        steps: the greatest number of steps.
        overshoot: the share of the perturbation by which a boundary must be crossed; not part of the length.
    """
    return torch.cat([_deepfool(net, part, classes, steps, overshoot) for part in x.split(INPUTS)])


def _deepfool(net: nn.Module, x: Tensor, classes: int, steps: int, overshoot: float) -> Tensor:
    with torch.no_grad():
        order = net(x).argsort(dim=1, descending=True)[:, :classes]
    moved = torch.zeros_like(x)
    inside = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        values, gradients = class_gradients(net, x[inside] + (1 + overshoot) * moved[inside], order[inside])
        still = values.argmax(dim=1) == 0  # of the classes considered, the first is still the most probable
        inside, values, gradients = inside[still], values[still], gradients[still]
        if not len(inside):
            break
        f, w = values[:, 1:] - values[:, :1], gradients[:, 1:] - gradients[:, :1]
        length = w.flatten(2).norm(dim=2).clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
        distance, nearest = (f.abs() / length).min(dim=1)
        rows = torch.arange(len(inside), device=x.device)
        scale = distance / length[rows, nearest]
        moved[inside] += scale.view(-1, *[1] * (x.dim() - 1)) * w[rows, nearest]
    return moved.flatten(1).norm(dim=1)


def class_gradients(net: nn.Module, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of chosen classes, (B, C), and their gradients, (B, C, *shape): C backward passes of the whole batch.

    Args:
        x: inputs (B, *shape).
        classes: for each input the classes, (B, C).
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        values = net(x).gather(1, classes)
        gradients = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in values.unbind(dim=1)]
    return values.detach(), torch.stack(gradients, dim=1)


def k_means(x: QueryPool, k: int, *, seed: int, sample: int = 5_000, pixels: int = 256, rounds: int = 20) -> Tensor:
    """The group of each input, (N,), of k: Lloyd's algorithm on evenly spaced pixels of a random sample.

    A group that loses its last input keeps its center, so that a group may end empty.

    Args:
        x: inputs (N, *shape), which are read chunk by chunk.
        k: groups, at most N.
        sample: the greatest number of inputs that find the centers, at least k; all inputs are assigned to them.
        pixels: the greatest number of values of each input that are compared.
    """
    generator = torch.Generator().manual_seed(seed)
    points = _thinned(x[torch.randperm(len(x), generator=generator)[: max(k, sample)]], pixels)
    centers = points[:k].clone()
    for _ in range(rounds):
        groups = torch.cat([_nearest(part, centers) for part in points.split(ROWS)])
        sums = torch.zeros_like(centers).index_add_(0, groups, points)
        counts = groups.bincount(minlength=k)[:, None]
        centers = torch.where(counts > 0, sums / counts.clamp_min(1), centers)
    return torch.cat([_nearest(_thinned(x[part], pixels), centers) for part in torch.arange(len(x)).split(ROWS)])


def _thinned(x: Tensor, pixels: int) -> Tensor:
    """At most so many evenly spaced values of each input, (n, *shape) -> (n, at most pixels)."""
    flat = x.flatten(1)
    return flat[:, :: -(-flat.shape[1] // pixels)]


def _nearest(points: Tensor, centers: Tensor) -> Tensor:
    return torch.cdist(points, centers).argmin(dim=1)


def entropy_gradients(net: nn.Module, x: Tensor, *, over: Literal["classes", "batch"] = "classes") -> Tensor:
    """The gradient of the entropy of the net's answer at each input, (N, D), in batches, on the inputs' device.

    Args:
        net: in evaluation mode, from inputs to logits.
        x: inputs (N, *shape), of D numbers each.
        over: what the softmax sums over: the `classes` of one input, or one class over the whole `batch`, as Marich's
            program does; an input's gradient then depends on the other inputs of its batch.
    """
    gradients = []
    for part in x.split(INPUTS):
        part = part.to(device_of(net)).detach().requires_grad_()
        with torch.enable_grad():
            total = torch.special.entr(net(part).softmax(dim=1 if over == "classes" else 0)).sum()
            gradients.append(torch.autograd.grad(total, part)[0].flatten(1).to(x.device))
    return torch.cat(gradients)


def near_each(points: Tensor, centers: Tensor, k: int) -> Tensor:
    """The k points that are chosen first when, in rounds, every center chooses the nearest point that is left to it.

    These are the union of every center's t nearest points for the smallest t at which the union has k points; of the
    last round those nearest to their center.

    Args:
        points: candidates (N, D).
        centers: what they should be near, (M, D).
        k: how many to pick, at most N.

    Returns:
        The picked points' rows, (k,), all different.
    """
    distance = torch.cdist(points, centers)
    rank = distance.argsort(dim=0, stable=True).argsort(dim=0)
    first, center = rank.min(dim=1)
    by_distance = distance.gather(1, center[:, None]).squeeze(1).argsort(stable=True)
    return by_distance[first[by_distance].argsort(stable=True)][:k]


def near_all(points: Tensor, centers: Tensor, k: int) -> Tensor:
    """The k points (of (N, D)) with the smallest sum of squared distances to all centers, (M, D): rows (k,)."""
    return torch.cdist(points, centers).square().sum(dim=1).topk(k, largest=False).indices
