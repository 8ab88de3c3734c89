"""Small data and small nets that several tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stealguard.boxes.accounts import Account, Accounts
from stealguard.defenses.base import Defended, Defense, Rule
from stealguard.seeds import seeded
from stealguard.training import Training, fit
from stealguard.training.combine import COMBINES


def blobs(n: int, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy class prototypes in [0, 1]: a task that a small net learns in seconds. Images' prototypes are coarse."""
    generator = torch.Generator().manual_seed(seed)
    coarse = shape if len(shape) == 1 else (shape[0], 4, 4)
    prototypes = torch.rand(classes, *coarse, generator=torch.Generator().manual_seed(99))
    if len(shape) > 1:
        prototypes = nn.functional.interpolate(prototypes, size=shape[1:])
    y = torch.randint(classes, (n,), generator=generator)
    x = 0.6 * prototypes[y] + 0.4 * torch.rand(n, *shape, generator=generator)
    return x, y


def task(
    n: int = 1000, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *blobs(n, shape, classes, seed=1), *blobs(n // 4, shape, classes, seed=2)


def noise(n: int, shape: tuple[int, ...] = (1, 28, 28), seed: int = 3) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def nearest(x: Tensor, classes: int = 3) -> Tensor:
    """Answers to flat `blobs`, right on nearly all: by the distance to the prototypes."""
    prototypes = torch.rand(classes, x.shape[1], generator=torch.Generator().manual_seed(99))
    return (-9 * torch.cdist(x, 0.6 * prototypes + 0.2)).softmax(dim=1)


def rolled(x: Tensor) -> Tensor:
    """The answers of `nearest` with its classes in another order: right on nearly none."""
    return nearest(x).roll(1, dims=1)


def mlp(inputs: int = 16, classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 24), nn.ReLU(), nn.Linear(24, classes))


def linear(inputs: int = 784, classes: int = 10) -> nn.Module:
    """Learns blobs in little time; the same net at each call."""
    with seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


def boxed(model: Defended, shape: tuple[int, ...] = (16,)) -> Account:
    """The box of one account that has asked nothing yet."""
    return Accounts(model.heads(), model.guard, shape).connect("a")


def told(defense: Defense, y: Tensor) -> Tensor:
    """What a defense that changes answers by a rule makes of rows `y` on the simplex, (N, K)."""
    guard = defense.guard(nn.Identity(), y[:2])
    return guard.rule(y) if isinstance(guard, Rule) else guard({"logits": y.log()}, y, {})[0]


def trained(
    defense: Defense, net: nn.Module, x: Tensor, y: Tensor, training: Training, **options: Any
) -> tuple[Defended, list[dict[str, float]]]:
    """What a defense makes of a net, trained with its losses, and the history of that; options are those of `fit`."""
    model = defense.build(net, x[:2])
    combine = COMBINES[defense.combine]
    return model, fit(model, x, y, training, seed=0, combine=combine, progress=False,
                      **{"objective": lambda _, batch: model.losses(batch), **options})  # fmt: skip
