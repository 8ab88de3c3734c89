"""New queries made of old ones: altered and combined copies of inputs in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stealguard.training.augment import affine

_NOISE = 0.05  # deviation of the noise on inputs that are not images


def elastic(x: Tensor, strength: float = 0.12, grid: int = 4) -> Tensor:
    """Images (N, C, H, W) distorted by smooth random fields, drawn from torch's global generator.

    Args:
        strength: the deviation of the shifts, as a share of half the image's side.
        grid: the number of independent shifts along a side; those between are interpolated.
    """
    n, _, height, width = x.shape
    coarse = torch.randn(n, 2, grid, grid).to(x)
    field = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    still = F.affine_grid(torch.eye(2, 3).to(x).expand(n, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, still + strength * field, align_corners=False).clamp(0, 1)


def moved(x: Tensor, much: float = 1.0) -> Tensor:
    """Changed copies of inputs (N, *shape) in [0, 1], drawn from torch's global generator.

    Images are turned, scaled, shifted and distorted; other inputs get noise.

    Args:
        much: how much: hardly with a value near 0, visibly with 2.
    """
    if x.dim() != 4:
        return _noisy(x, much * _NOISE)
    return elastic(affine(x, angle=0.12 * much, scale=0.1 * much, shift=0.05 * much), strength=0.04 * much)


def children(first: Tensor, second: Tensor, *, combined: bool = True) -> Tensor:
    """A child of each pair of parents, (N, *shape) in [0, 1], drawn from torch's global generator.

    The first parent is turned, scaled, shifted and distorted; the second is distorted. A third of the children are
    blends of both, a third have the second's upper half and the first's lower half, and a third are the first alone.
    Inputs that are not images have no geometry: a third of the children are blends, a third take each value from one
    parent or the other, a third are the first alone, and all have a little noise.

    Args:
        first, second: parents, (N, *shape) each.
        combined: whether the second parents are used; if not, every child is of the first alone.
    """
    images = first.dim() == 4
    if images:
        first = elastic(affine(first, angle=0.3, scale=0.25, shift=0.12))
    if combined:
        second = elastic(second) if images else second
        blend, part = _blends(first, second), _halves(first, second) if images else _columns(first, second)
        kind = (torch.arange(len(first)) % 3).view(-1, *[1] * (first.dim() - 1)).to(first.device)
        first = torch.where(kind == 0, blend, torch.where(kind == 1, part, first))
    return first if images else _noisy(first, _NOISE)


def _noisy(x: Tensor, deviation: float) -> Tensor:
    return (x + deviation * torch.randn(x.shape).to(x)).clamp(0, 1)


def _blends(first: Tensor, second: Tensor) -> Tensor:
    """Mixtures in which either parent has between a third and two thirds."""
    share = (1 + torch.rand(len(first), *[1] * (first.dim() - 1))).to(first) / 3
    return share * first + (1 - share) * second


def _halves(first: Tensor, second: Tensor) -> Tensor:
    """The second's upper half above the first's lower half."""
    middle = first.shape[2] // 2
    return torch.cat([second[:, :, :middle], first[:, :, middle:]], dim=2)


def _columns(first: Tensor, second: Tensor) -> Tensor:
    """Each value from one parent or the other."""
    return torch.where((torch.rand(first.shape) < 0.5).to(first.device), first, second)
