"""Garments that any attacker can draw who knows what Fashion-MNIST is about. Their labels are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageDraw
from torch import Tensor

from stealguard.data.formats import Array
from stealguard.data.generated.rendered import CANVAS, affine, warp
from stealguard.progress import silent
from stealguard.seeds import derive

Outline = list[tuple[float, float]]  # corners in [0, 1] from the top left
JITTER = 0.015  # deviation of a corner
SIDE = 60  # pixels of the canvas that an outline spans


def garments(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`n` drawn garments (n, 1, 28, 28) in [0, 1], each with its own outline, shade and pattern, and their labels."""
    rng = np.random.default_rng(derive(seed, "garments"))
    y = rng.integers(10, size=n)
    atlas = np.stack([_drawing(GARMENTS[kind](rng), rng) for kind in y.tolist()])
    maps = (affine(n, rng) + 7 * np.eye(2, 3, dtype=np.float32)) / 8  # the task's garments stand upright
    return torch.from_numpy(warp(atlas, np.arange(n), maps, silent)).float() / 255, torch.from_numpy(y)


def _top(rng: Generator, sleeve: float, length: float, waist: float) -> Outline:
    """A garment with sleeves down to `sleeve`, as long as `length`, and as wide as 2 `waist` at its end."""
    shoulder, chest, neck = rng.uniform(0.24, 0.3), rng.uniform(0.17, 0.23), rng.uniform(0.06, 0.1)
    out = 0.5 - (0.02 if sleeve > 0.5 else 0.06) - rng.uniform(0, 0.05)  # of the sleeve's end from the middle
    cuff = rng.uniform(0.07, 0.13)
    half = [(neck, 0.0), (shoulder, 0.06), (out, sleeve), (out - cuff, sleeve + 0.02), (chest, 0.3), (waist, length)]
    return _mirrored(half)


def _mirrored(half: Outline) -> Outline:
    """An outline from its right half, (distance from the middle, height)."""
    return [(0.5 + x, y) for x, y in half] + [(0.5 - x, y) for x, y in reversed(half)]


def _t_shirt(rng: Generator) -> list[Outline]:
    return [_top(rng, rng.uniform(0.22, 0.38), 1.0, rng.uniform(0.2, 0.27))]


def _trouser(rng: Generator) -> list[Outline]:
    waist, hem, apart = rng.uniform(0.13, 0.19), rng.uniform(0.08, 0.12), rng.uniform(0.01, 0.09)
    crotch = rng.uniform(0.2, 0.35)
    return [_mirrored([(waist, 0.0), (waist + 0.04, crotch), (apart + hem, 1.0), (apart, 1.0), (0.0, crotch)])]


def _pullover(rng: Generator) -> list[Outline]:
    return [_top(rng, rng.uniform(0.75, 0.95), rng.uniform(0.85, 1.0), rng.uniform(0.2, 0.26))]


def _dress(rng: Generator) -> list[Outline]:
    neck, chest, hem = rng.uniform(0.05, 0.11), rng.uniform(0.1, 0.15), rng.uniform(0.14, 0.3)
    waist = rng.uniform(0.08, 0.13)
    return [_mirrored([(neck, 0.0), (chest + 0.02, 0.05), (chest, 0.2), (waist, 0.4), (hem, 1.0)])]


def _coat(rng: Generator) -> list[Outline]:
    front = [(0.5 - 0.012, 0.05), (0.5 + 0.012, 0.05), (0.5 + 0.012, 1.0), (0.5 - 0.012, 1.0)]
    return [_top(rng, rng.uniform(0.8, 1.0), 1.0, rng.uniform(0.2, 0.28)), front]


def _sandal(rng: Generator) -> list[Outline]:
    heel, toe, thick = rng.uniform(0.35, 0.55), rng.uniform(0.68, 0.74), rng.uniform(0.04, 0.09)
    sole = [(0.0, toe), (0.4, toe), (1.0, heel), (1.0, heel + thick), (0.42, toe + thick), (0.0, toe + thick)]
    straps = [[(x, toe - 0.02), (x + 0.07, toe - 0.02), (x + 0.2, heel - 0.1), (x + 0.13, heel - 0.1)]
              for x in rng.uniform(0.08, 0.7, int(rng.integers(1, 4)))]  # fmt: skip
    leg = [(1.0, heel), (0.92, heel + 0.02), (0.93, toe + thick), (1.0, toe + thick)]
    return [sole, *straps, leg] if rng.random() < 0.6 else [sole, *straps]


def _shirt(rng: Generator) -> list[Outline]:
    collar = [(0.5, 0.14), (0.41, 0.0), (0.59, 0.0)]
    front = [(0.5 - 0.008, 0.14), (0.5 + 0.008, 0.14), (0.5 + 0.008, 1.0), (0.5 - 0.008, 1.0)]
    sleeve = rng.uniform(0.3, 0.9)
    return [_top(rng, sleeve, rng.uniform(0.92, 1.0), rng.uniform(0.18, 0.24)), collar, front]


def _sneaker(rng: Generator) -> list[Outline]:
    top, low = rng.uniform(0.4, 0.48), rng.uniform(0.68, 0.74)
    upper = [(0.0, low), (0.05, low - 0.1), (0.3, low - 0.14), (0.6, top), (0.72, top + 0.04), (0.97, top - 0.02),
             (1.0, low)]  # fmt: skip
    return [upper, [(0.0, low), (1.0, low), (1.0, low + 0.06), (0.02, low + 0.06)]]


def _bag(rng: Generator) -> list[Outline]:
    top, narrow = rng.uniform(0.3, 0.5), rng.uniform(0.0, 0.1)
    body = [(narrow, top), (1.0 - narrow, top), (1.0, 0.95), (0.0, 0.95)]
    reach, rise, wide = rng.uniform(0.15, 0.4), rng.uniform(0.0, top), 0.05
    handle = [(0.5 - reach, top), (0.5 - reach * 0.7, rise), (0.5 + reach * 0.7, rise), (0.5 + reach, top),
              (0.5 + reach - wide, top), (0.5 + reach * 0.7 - wide, rise + wide),
              (0.5 - reach * 0.7 + wide, rise + wide), (0.5 - reach + wide, top)]  # fmt: skip
    return [body, handle]


def _boot(rng: Generator) -> list[Outline]:
    shaft, ankle, low = rng.uniform(0.36, 0.48), rng.uniform(0.5, 0.58), rng.uniform(0.84, 0.9)
    upper = [(0.0, low), (0.06, low - 0.14), (0.35, ankle), (shaft, 0.05), (0.95, 0.02), (1.0, low)]
    heel = [(0.7, low), (1.0, low), (1.0, 1.0), (0.78, 1.0)] if rng.random() < 0.5 else [(0.0, low), (1.0, low),
            (1.0, low + 0.05), (0.0, low + 0.05)]  # fmt: skip
    return [upper, heel]


GARMENTS: list[Callable[[Generator], list[Outline]]] = [
    _t_shirt, _trouser, _pullover, _dress, _coat, _sandal, _shirt, _sneaker, _bag, _boot,
]  # fmt: skip


def _drawing(outlines: list[Outline], rng: Generator) -> Array:
    """A garment alone (CANVAS, CANVAS), uint8, at the middle: the first outline in a shade, the others in others."""
    shades = np.clip(rng.uniform(0.25, 1.0) + 0.25 * rng.standard_normal(len(outlines)), 0.1, 1.0)
    canvas = np.zeros((CANVAS, CANVAS))
    for outline, shade in zip(outlines, shades, strict=True):
        corners = (np.array(outline) + JITTER * rng.standard_normal((len(outline), 2)) - 0.5) * SIDE + CANVAS / 2
        filled = Image.new("L", (CANVAS, CANVAS))
        ImageDraw.Draw(filled).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
        canvas = np.where(np.asarray(filled) == 1, shade * _pattern(rng), canvas)
    return (255 * canvas).clip(0, 255).astype(np.uint8)


def _pattern(rng: Generator) -> Array:
    """What a shade is multiplied by (CANVAS, CANVAS): folds, noise, and in a third of cases stripes."""
    at = np.linspace(0, 1, CANVAS)
    angle, waves = rng.uniform(0, np.pi), rng.uniform(1, 4)
    along = np.cos(angle) * at[:, None] + np.sin(angle) * at[None, :]
    folds = 1 + rng.uniform(0, 0.2) * np.sin(2 * np.pi * (waves * along + rng.random()))
    striped = rng.random() < 1 / 3
    stripes = 1 - striped * rng.uniform(0, 0.6) * (np.sin(2 * np.pi * rng.uniform(4, 9) * at[:, None]) > 0)
    return folds * stripes * (1 + rng.uniform(0, 0.15) * rng.standard_normal((CANVAS, CANVAS)))
