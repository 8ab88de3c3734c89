"""VGG-16 with batch normalization and one linear layer (Simonyan & Zisserman 2015, the CIFAR form)."""

from __future__ import annotations

from torch import nn


def vgg16(channels: int, size: int, classes: int) -> nn.Module:
    """Thirteen 3 x 3 convolutions in five stages, each ended by pooling; beyond 32 pixels a mean over places."""
    layers: list[nn.Module] = []
    inside = channels
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            inside = width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))  # 28 pixels, too, end at 1 x 1
    if size > 32:
        layers.append(nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inside, classes))
