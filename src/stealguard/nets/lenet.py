"""LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, as the model-stealing papers use it."""

from __future__ import annotations

from torch import nn


def lenet5(channels: int, size: int, classes: int, width: int = 1) -> nn.Module:
    """Inputs (N, channels, size, size) -> logits (N, classes). 44,426 weights for 28 x 28 gray and ten classes.

    `width` multiplies the channels and units of every layer. Pooling comes before ReLU: the function is the same, and
    ReLU has a quarter to do.
    """
    side = ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 6 * width, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(6 * width, 16 * width, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * width * side * side, 120 * width), nn.ReLU(),
        nn.Linear(120 * width, 84 * width), nn.ReLU(),
        nn.Linear(84 * width, classes),
    )  # fmt: skip
