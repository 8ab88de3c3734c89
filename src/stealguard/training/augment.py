"""Augmentations of image batches (N, C, H, W) in [0, 1].

All are drawn on the CPU, from `generator` or torch's global one, so that the device does not change them. A GPU is sent
what was drawn without waiting for the steps that it has still to do.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


class Augmentation(Protocol):
    """A batch (N, ...) -> a batch of the same shape."""

    def __call__(self, x: Tensor, /, *, generator: Generator | None = None) -> Tensor: ...


def none(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """The batch as it is, of any shape."""
    return x


def crop(x: Tensor, pad: int = 4, *, generator: Generator | None = None) -> Tensor:
    """Each image shifted by up to `pad` pixels either way, filled up with black."""
    n, _, h, w = x.shape
    padded = F.pad(x, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, n, 1, 1), generator=generator).to(x.device, non_blocking=True)
    rows = (top + torch.arange(h, device=x.device)[:, None]).expand(n, h, w)
    columns = (left + torch.arange(w, device=x.device)).expand(n, h, w)
    return padded.permute(0, 2, 3, 1)[torch.arange(n, device=x.device)[:, None, None], rows, columns].permute(
        0, 3, 1, 2
    )


def crop_flip(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """`crop`, and half of the images mirrored: the usual one for CIFAR."""
    mirrored = (torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5).to(x.device, non_blocking=True)
    x = crop(x, generator=generator)
    return torch.where(mirrored, x.flip(-1), x)


def affine(
    x: Tensor, angle: float = 0.26, scale: float = 0.15, shift: float = 0.1, *, generator: Generator | None = None
) -> Tensor:
    """Each image turned by up to `angle` radians, scaled by up to `scale`, moved by up to `shift` of half its side."""

    def draw() -> Tensor:
        return 2 * torch.rand(len(x), generator=generator, dtype=x.dtype).to(x.device, non_blocking=True) - 1

    turn, grow = angle * draw(), 1 + scale * draw()
    c, s = turn.cos() / grow, turn.sin() / grow
    theta = torch.stack([c, -s, shift * draw(), s, c, shift * draw()], dim=1).view(len(x), 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def half_affine(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """`affine` for the first half of a batch of images; the rest, and inputs that are no images, as they are."""
    if x.dim() != 4:
        return x
    moved = len(x) // 2
    return torch.cat([affine(x[:moved], generator=generator), x[moved:]])


# Outliers go through what task inputs go through. Otherwise a black border, which all task inputs and no outlier would
# have, would tell the two apart, and benign inputs, which have none, would be taken for outliers.
AUGMENTATIONS: dict[str, Augmentation] = {
    "none": none,
    "crop": crop,
    "crop-flip": crop_flip,
    "affine": affine,
    "half-affine": half_affine,
}
