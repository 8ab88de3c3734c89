"""Recipes by name: a defense together with how it is trained."""

from __future__ import annotations

from typing import NamedTuple

from stealguard.defenses import DEFENSES, InI, RobustInI
from stealguard.defenses.base import Defense
from stealguard.training.loop import Training


class Preset(NamedTuple):
    """A defense and its training."""

    defense: Defense
    training: Training


def _authors(epochs: int, augment: str = "none") -> Preset:
    """The settings of the InI paper's program: arguments of the divergence swapped, long schedule, PCGrad's mean."""
    return Preset(
        InI(gamma=0.3, delta=1.0, epsilon=1000.0, reading="official", combine="pcgrad"),
        Training(epochs, batch=128, lr=0.1, momentum=0.5, weight_decay=1e-3, schedule="step", augment=augment),
    )


PRESETS: dict[str, Preset] = {
    **{name: Preset(kind(), Training()) for name, kind in DEFENSES.items()},
    "ini-robust": Preset(
        RobustInI(), Training(epochs=32, weight_decay=1e-3, schedule="warm-cosine", augment="half-affine")
    ),
    "ini-official-mnist": _authors(50),
    "ini-official-fashion-mnist": _authors(50),
    "ini-official-cifar10": _authors(150, "crop-flip"),
    "ini-official-cifar100": _authors(150, "crop-flip"),
}
