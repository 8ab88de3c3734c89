"""Nets for attacks without data: noise -> inputs, and inputs -> how much they look like given ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stealguard.errors import require


class Generator(nn.Module):
    """Noise (N, latent) -> inputs (N, *shape) in [0, 1].

    The last layer's output `before` the squashing is normalized over the batch, as in DFME's generator, so that
    inputs neither fade nor saturate; gradients are estimated there, because there every point is a valid input.

    Args:
        body: from noise to as many numbers as inputs have, in rows.
        shape: of one input; its first axis is channels where it has several axes.
    """

    def __init__(self, body: nn.Module, shape: tuple[int, ...]):
        super().__init__()
        self.body, self.shape = body, shape
        self.norm = nn.BatchNorm1d(1 if len(shape) == 1 else shape[0], affine=False)

    def before(self, z: Tensor) -> Tensor:
        """What is squashed, (N, *shape); each channel has mean 0 and variance 1 over the batch."""
        x = self.body(z).unflatten(1, self.shape)
        return self.norm(x.flatten(2) if x.dim() > 2 else x[:, None]).view_as(x)

    def forward(self, z: Tensor) -> Tensor:
        return squash(self.before(z))


def squash(before: Tensor) -> Tensor:
    """Any number -> [0, 1]: a hyperbolic tangent, as the papers use, scaled to inputs' range."""
    return (before.tanh() + 1) / 2


class Crop(nn.Module):
    """Images (N, C, H, W) -> their upper left (N, C * height * width), flat."""

    def __init__(self, height: int, width: int):
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.height, : self.width].flatten(1)


def generator(shape: tuple[int, ...], latent: int, width: int) -> Generator:
    """Three times doubled and convolved, from an eighth of the size, for images; two layers for others.

    This is DFME's generator with one more doubling and fewer channels. Fresh, its images are coarse, and classifiers
    give them more diverse answers than they give the images of transposed convolutions.

    Args:
        shape: (C, H, W) with H and W at least 4, or any other.
        latent: numbers in the noise, at least 1.
        width: channels of the convolutions, twice as many before the first; of a hidden layer, 8 times as many units.
    """
    require(latent >= 1, "latent", "at least 1", latent)
    require(width >= 1, "width", "at least 1", width)
    if not pictures(shape):
        hidden = 8 * width
        body = nn.Sequential(
            nn.Linear(latent, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, torch.Size(shape).numel()),
        )  # fmt: skip
        return Generator(body, shape)
    channels, height, breadth = shape
    start = (2 * width, -(-height // 8), -(-breadth // 8))
    body = nn.Sequential(
        nn.Linear(latent, torch.Size(start).numel()), nn.Unflatten(1, start), nn.BatchNorm2d(2 * width),
        nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2), nn.Conv2d(width, channels, 3, 1, 1), Crop(height, breadth),
    )  # fmt: skip
    return Generator(body, shape)


def discriminator(shape: tuple[int, ...], width: int) -> nn.Module:
    """Inputs (N, *shape) -> logits (N, 1) of being given rather than generated; DCGAN's for images."""
    if not pictures(shape):
        hidden = 8 * width
        return nn.Sequential(
            nn.Flatten(), nn.Linear(torch.Size(shape).numel(), hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )
    channels, height, breadth = shape
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(2 * width * (height // 4) * (breadth // 4), 1),
    )  # fmt: skip


def pictures(shape: tuple[int, ...]) -> bool:
    """Whether inputs of this shape are images large enough to be halved twice."""
    return len(shape) == 3 and min(shape[1:]) >= 4


def shapes(n: int, like: Tensor, *, seed: int, count: int = 12) -> Tensor:
    """n images of random rectangles and discs, slightly blurred; uniform noise if inputs are not images.

    The synthetic data of DFMS-HL (Sanyal, Addepalli & Babu, CVPR 2022), for an attacker without images.

    Args:
        like: an input in a batch, (1, *shape).
        seed: what they follow from.
        count: shapes in an image.
    """
    draws = torch.Generator().manual_seed(seed)
    shape = tuple(like.shape[1:])
    if not pictures(shape):
        return torch.rand(n, *shape, generator=draws)
    rows, columns = torch.arange(shape[1]).view(-1, 1), torch.arange(shape[2]).view(1, -1)
    images = torch.rand(n, shape[0], 1, 1, generator=draws).expand(n, *shape)
    for _ in range(count):
        y, x, tall, wide, disc, *color = torch.rand(5 + shape[0], n, 1, 1, generator=draws)
        down = (rows - y * shape[1]).abs() / (1 + tall * shape[1] / 4)
        across = (columns - x * shape[2]).abs() / (1 + wide * shape[2] / 4)
        inside = torch.where(disc < 0.5, down**2 + across**2 < 1, torch.maximum(down, across) < 1)
        images = torch.where(inside[:, None], torch.stack(color, dim=1), images)
    return nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
