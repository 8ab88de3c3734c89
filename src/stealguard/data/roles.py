"""Sets in their roles: the defender's outliers, and the pools that a thief queries with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stealguard.checks import check_inputs
from stealguard.data import images, label
from stealguard.errors import Invalid
from stealguard.seeds import derive

HELD_OUT = 1 / 3  # of every outlier set: never trained on, so that an audit can query the family with unseen inputs


STAND_INS = {(1, 28, 28): ["glyphs", "textures"], (3, 32, 32): ["stamps", "wallpapers"]}


def stand_ins(shape: tuple[int, ...]) -> list[str]:
    """The sets that stand for stealing queries of this shape unless a defender names some.

    Raises:
        Invalid: there are none.
    """
    if shape not in STAND_INS:
        raise Invalid("outliers", f"given, since no set has inputs of shape {shape}", "none")
    return STAND_INS[shape]


def several(given: Any) -> list[Any]:
    """One set or a list or tuple of them, as a list."""
    return list(given) if isinstance(given, list | tuple) else [given]


def named(given: Any, shape: tuple[int, ...], parameter: str, *, resize: bool = False) -> dict[str, Tensor]:
    """One or several sets of inputs (N, *shape) by their labels.

    Raises:
        Invalid: a set is empty, off [0, 1], or of another shape and `resize` is not set.
    """
    return {label(one): conform(images(one), shape, parameter, resize=resize) for one in several(given)}


def conform(x: Tensor, shape: tuple[int, ...], parameter: str, *, resize: bool = False) -> Tensor:
    """`x` if its rows have this shape; else, where it is wanted, resized to it."""
    if tuple(x.shape[1:]) == shape:
        return x
    if not (resize and x.dim() == 4 and len(shape) == 3):
        raise Invalid(
            parameter, f"of shape (N, {', '.join(map(str, shape))}), or resized with `resize`", tuple(x.shape)
        )
    if x.shape[1] != shape[0]:
        luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        x = (x * luma).sum(dim=1, keepdim=True) if shape[0] == 1 else x.expand(-1, shape[0], -1, -1)
    x = F.interpolate(x, size=shape[1:], mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    check_inputs(x, parameter, shape)
    return x


def divide(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """What a defender may train on and what is held out for audits: the same division of `name` everywhere."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive(0, "held out", name)))
    unseen = round(len(x) * HELD_OUT)
    return x[order[unseen:]], x[order[:unseen]]
