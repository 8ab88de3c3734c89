"""Consistently wrong answers: a linear classifier of the task into wrong classes, trained beside a net."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.defenses.base import Defended
from stealguard.defenses.suspicion import Measured
from stealguard.types import Batch, Guard

SIDE = 32  # pixels of a side at most, of what decoys are made from
COARSE = 14  # and of what clusters are made from
NOTHING = 1e-9  # variance of an input below which it counts as constant: what is left of it is rounding
LENGTH = 10.0  # of an input as decoys are made from it, so that one learning rate suits every task
CLUSTERS = 9  # of a class: enough to give each of ten classes' inputs all nine wrong names


class Clusters(nn.Module):
    """Mini-batch k-means within each class (Sculley, WWW 2010): a center is the mean of all inputs assigned to it.

    A class's first inputs become its centers.

    Args:
        size: D, of a point.
        classes: K.

    Attributes:
        centers: (K, CLUSTERS, D).
        counts: how many points each center is the mean of, (K, CLUSTERS).
    """

    centers: Tensor
    counts: Tensor

    def __init__(self, size: int, classes: int):
        super().__init__()
        self.register_buffer("centers", torch.zeros(classes, CLUSTERS, size))
        self.register_buffer("counts", torch.zeros(classes, CLUSTERS))

    @torch.no_grad()
    def learn(self, points: Tensor, y: Tensor) -> Tensor:
        """The clusters (B,) of points (B, D) of classes `y`, (B,), which move their centers."""
        points = points.to(self.centers)
        nearest = (points[:, None] - self.centers[y]).square().sum(dim=2).argmin(dim=1)
        earlier = F.one_hot(y, len(self.centers)).cumsum(dim=0).gather(1, y[:, None]).squeeze(1) - 1
        place = earlier + (self.counts > 0).sum(dim=1)[y]
        own = torch.where(place < CLUSTERS, place, nearest)
        added = torch.zeros_like(self.counts).index_put((y, own), self.counts.new_ones(len(y)), accumulate=True)
        self.counts += added
        sums = torch.zeros_like(self.centers).index_put((y, own), points, accumulate=True)
        self.centers += (sums - added[:, :, None] * self.centers) / self.counts.clamp_min(1)[:, :, None]
        return own


class Decoys(nn.Module):
    """A linear classifier of inputs (N, *shape) into *wrong* classes; forward is its logits (N, K).

    A class is split into clusters, and each cluster gets another wrong name, so that no renaming of the classes makes
    the right ones of the wrong ones.

    Attributes:
        wrong: the class that stands for each cluster of each class, (K, CLUSTERS).
    """

    wrong: Tensor

    def __init__(self, like: Tensor, classes: int, seed: int):
        super().__init__()
        self.linear = nn.Linear(_flat(like[:1]).shape[1], classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.clusters = Clusters(_flat(like[:1], COARSE).shape[1], classes)
        self.register_buffer("wrong", wrong_names(classes, CLUSTERS, seed))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(_flat(x))  # type: ignore[no-any-return]

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy to the wrong names of the clusters of task inputs (N, *shape) with labels `y`, (N,)."""
        return F.cross_entropy(self(x), self.wrong[y, self.clusters.learn(_flat(x, COARSE), y)])


def _flat(x: Tensor, side: int = SIDE) -> Tensor:
    """Inputs as vectors (N, D) of mean 0 and length `LENGTH`, images of more than `side` pixels at a coarser scale.

    A constant input becomes 0. It is a layer normalization, which is one operation of ONNX Runtime.
    """
    if x.dim() == 4 and max(x.shape[2:]) > side:
        x = F.adaptive_avg_pool2d(x, side)
    flat = x.flatten(1)
    size = flat.shape[1]
    return F.layer_norm(flat, (size,), weight=flat.new_full((size,), LENGTH / size**0.5), eps=NOTHING)


def wrong_names(classes: int, clusters: int, seed: int) -> Tensor:
    """For each cluster of each class the name of another class, (K, clusters), drawn at random.

    The clusters of a class get different names as far as there are some, and every name is given equally often.

    >>> wrong_names(2, 3, seed=0)
    tensor([[1, 1, 1],
            [0, 0, 0]])
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(classes, generator=generator)
    steps = 1 + torch.randperm(classes - 1, generator=generator)[torch.arange(clusters) % (classes - 1)]
    return order[(order.argsort()[:, None] + steps) % classes]


class Decoyed(Defended):
    """A net, whose forward this is, and decoys that are trained beside it.

    Args:
        net: from inputs (N, *shape) to logits (N, K).
        decoys: from the same inputs to logits of wrong classes, (N, K).
        measured: what the guard knows of held-out inputs.
        guard: what is answered.
    """

    steady = True

    def __init__(self, net: nn.Module, decoys: Decoys, measured: Measured, guard: Guard):
        super().__init__(net, guard)
        self.decoys, self.measured = decoys, measured

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """Task inputs and outliers go through the net together: batch normalization sees what it will see in use."""
        x, y, z = batch.x, batch.y, batch.z
        v = F.pad(self.net(torch.cat([x, z])), (0, 1))
        outlier = torch.full((len(z),), v.shape[1] - 1, device=v.device)
        return {
            "task": F.cross_entropy(v[: len(x)], y),
            "induction": F.cross_entropy(v[len(x) :], outlier),
            "decoys": self.decoys.loss(x, y),
        }

    def calibrate(self, held_out: Batch) -> None:
        self.measured.measure(self.heads(), held_out)

    def heads(self) -> Mapping[str, nn.Module]:
        return {**super().heads(), "decoys": self.decoys}
