"""A multilayer perceptron for inputs of any shape: tables, and images that no named convolutional net takes."""

from __future__ import annotations

from torch import nn


def mlp(channels: int, size: int, classes: int, width: int = 128) -> nn.Module:
    """Inputs (N, ...) of channels * size * size numbers -> logits (N, classes), with two hidden layers of `width`."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * size * size, width), nn.ReLU(),
        nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, classes),
    )  # fmt: skip
