"""Residual nets (He et al. 2016): with the 3 x 3 stem of their CIFAR form, or the ImageNet stem for large inputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 64  # pixels: beyond, the stem is that for ImageNet, a 7 x 7 convolution and pooling, each with stride 2


class Residual(nn.Module):
    """relu(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet20(channels: int, size: int, classes: int) -> nn.Module:
    """Three basic blocks in each of three stages of 16, 32, 64 channels: 270,000 weights, the paper's for CIFAR."""
    return _resnet(_basic, (3, 3, 3), channels, classes, width=16)


def resnet18(channels: int, size: int, classes: int) -> nn.Module:
    """Two basic blocks in each of four stages of 64, 128, 256, 512 channels."""
    return _resnet(_basic, (2, 2, 2, 2), channels, classes, large=size > LARGE)


def resnet34(channels: int, size: int, classes: int) -> nn.Module:
    """Basic blocks, 3 + 4 + 6 + 3."""
    return _resnet(_basic, (3, 4, 6, 3), channels, classes, large=size > LARGE)


def resnet50(channels: int, size: int, classes: int) -> nn.Module:
    """Bottleneck blocks, 3 + 4 + 6 + 3, of four times the width."""
    return _resnet(_bottleneck, (3, 4, 6, 3), channels, classes, expansion=4, large=size > LARGE)


def _resnet(  # type: ignore[no-untyped-def]
    block, depths: Sequence[int], channels: int, classes: int, *, width: int = 64, expansion: int = 1,
    large: bool = False,
) -> nn.Module:  # fmt: skip
    layers: list[nn.Module] = [*_conv(channels, width, 7 if large else 3, 2 if large else 1), nn.ReLU()]
    if large:
        layers.append(nn.MaxPool2d(3, 2, padding=1))
    wide = width
    for stage, depth in enumerate(depths):
        for i in range(depth):
            layers.append(block(wide, width << stage, stride=2 if stage > 0 and i == 0 else 1))
            wide = (width << stage) * expansion
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, classes))


def _basic(inside: int, width: int, stride: int) -> nn.Module:
    body = nn.Sequential(*_conv(inside, width, 3, stride), nn.ReLU(), *_conv(width, width, 3))
    return Residual(body, _shortcut(inside, width, stride))


def _bottleneck(inside: int, width: int, stride: int) -> nn.Module:
    body = nn.Sequential(
        *_conv(inside, width, 1), nn.ReLU(), *_conv(width, width, 3, stride), nn.ReLU(), *_conv(width, 4 * width, 1)
    )
    return Residual(body, _shortcut(inside, 4 * width, stride))


def _shortcut(inside: int, outside: int, stride: int) -> nn.Module:
    same = inside == outside and stride == 1
    return nn.Identity() if same else nn.Sequential(*_conv(inside, outside, 1, stride))


def _conv(inside: int, outside: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(outside)
