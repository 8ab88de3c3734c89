"""Augmentations of image batches (N, C, H, W) in [0, 1], drawn from torch's global generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def none(x: Tensor) -> Tensor:
    """The batch as it is, of any shape."""
    return x


def crop(x: Tensor, pad: int = 4) -> Tensor:
    """Each image shifted by up to `pad` pixels either way, black coming in."""
    n, _, h, w = x.shape
    padded = F.pad(x, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, n, 1, 1), device=x.device)
    rows = (top + torch.arange(h, device=x.device)[:, None]).expand(n, h, w)
    columns = (left + torch.arange(w, device=x.device)).expand(n, h, w)
    return padded.permute(0, 2, 3, 1)[torch.arange(n, device=x.device)[:, None, None], rows, columns].permute(
        0, 3, 1, 2
    )


def crop_flip(x: Tensor) -> Tensor:
    """`crop`, and half of the images mirrored: the usual one for CIFAR."""
    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    x = crop(x)
    return torch.where(mirrored, x.flip(-1), x)


def affine(x: Tensor, angle: float = 0.26, scale: float = 0.15, shift: float = 0.1) -> Tensor:
    """Each image turned by up to `angle` radians, scaled by up to `scale`, moved by up to `shift` of half its side."""
    n = len(x)
    turn, grow = angle * _symmetric(n, x), 1 + scale * _symmetric(n, x)
    c, s = turn.cos() / grow, turn.sin() / grow
    theta = torch.stack([c, -s, shift * _symmetric(n, x), s, c, shift * _symmetric(n, x)], dim=1).view(n, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def _symmetric(n: int, like: Tensor) -> Tensor:
    return 2 * torch.rand(n, device=like.device, dtype=like.dtype) - 1


def half_affine(x: Tensor) -> Tensor:
    """`affine` for the first half of a batch of images; the rest, and inputs that are no images, as they are."""
    if x.dim() != 4:
        return x
    moved = len(x) // 2
    return torch.cat([affine(x[:moved]), x[moved:]])


# Outliers go through what task inputs go through: a black border that all of the task and no outlier has would be what
# a net tells the two by, and honest inputs, which have none, would be taken for outliers.
AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": none,
    "crop": crop,
    "crop-flip": crop_flip,
    "affine": affine,
    "half-affine": half_affine,
}
