"""Recipes by name: a defense together with how it is trained."""

from __future__ import annotations

from typing import NamedTuple

from stealguard.defenses import DEFENSES, InI, RobustInI
from stealguard.defenses.base import Defense
from stealguard.errors import pick
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
    "ini-fast": Preset(
        InI(gamma=0.1, delta=0.3333, epsilon=33.3, combine="total", surrogate="mlp", surrogate_layers="head"),
        Training(),
    ),
    "ini-official-mnist": _authors(50),
    "ini-official-fashion-mnist": _authors(50),
    "ini-official-cifar10": _authors(150, "crop-flip"),
    "ini-official-cifar100": _authors(150, "crop-flip"),
}


def preset_of(name: str, parameter: str = "defense") -> Preset:
    """The preset of that name; the usual training for a defense of an installed package or your own, `module:Class`.

    Raises:
        Invalid: there is no such preset or defense.
    """
    if name not in PRESETS and (":" in name or name in DEFENSES.names):
        return Preset(DEFENSES.find(name, parameter)(), Training())
    return pick(PRESETS, name, parameter)
