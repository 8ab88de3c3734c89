"""Digits that any attacker can make: drawn as curves with a pen, or rendered from fonts. Their labels are known."""

from __future__ import annotations

import string

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageDraw
from torch import Tensor

from stealguard.data.formats import Array
from stealguard.data.generated.rendered import CANVAS, GLYPH_FONTS, LETTER_FONTS, Glyph, affine, render, warp
from stealguard.progress import silent
from stealguard.seeds import derive

CURVES: list[list[list[tuple[float, float]]]] = [  # control points of each digit's strokes, in [0, 1] from the top left
    [[(0.5, 0.0), (0.2, 0.15), (0.1, 0.5), (0.2, 0.85), (0.5, 1.0), (0.8, 0.85), (0.9, 0.5), (0.8, 0.15), (0.5, 0.0)]],
    [[(0.45, 0.0), (0.48, 0.35), (0.5, 0.7), (0.5, 1.0)]],
    [[(0.15, 0.2), (0.4, 0.0), (0.75, 0.1), (0.75, 0.4), (0.4, 0.7), (0.1, 1.0)],
     [(0.1, 1.0), (0.5, 0.95), (0.9, 1.0)]],
    [[(0.2, 0.1), (0.55, 0.0), (0.8, 0.2), (0.65, 0.42), (0.4, 0.48)],
     [(0.4, 0.48), (0.75, 0.55), (0.85, 0.8), (0.55, 1.0), (0.15, 0.9)]],
    [[(0.25, 0.0), (0.2, 0.3), (0.15, 0.55)], [(0.15, 0.55), (0.5, 0.55), (0.9, 0.5)],
     [(0.75, 0.1), (0.7, 0.5), (0.68, 1.0)]],
    [[(0.8, 0.0), (0.5, 0.02), (0.25, 0.05)], [(0.25, 0.05), (0.22, 0.25), (0.2, 0.42)],
     [(0.2, 0.42), (0.6, 0.42), (0.82, 0.65), (0.65, 0.92), (0.2, 0.95)]],
    [[(0.7, 0.0), (0.35, 0.25), (0.15, 0.65), (0.3, 0.95), (0.65, 0.95), (0.8, 0.72), (0.6, 0.52), (0.2, 0.65)]],
    [[(0.1, 0.05), (0.5, 0.05), (0.88, 0.03)], [(0.88, 0.03), (0.65, 0.4), (0.5, 0.7), (0.4, 1.0)]],
    [[(0.75, 0.12), (0.45, 0.0), (0.22, 0.2), (0.45, 0.42), (0.75, 0.65), (0.7, 0.92), (0.42, 1.0), (0.2, 0.8),
      (0.4, 0.55), (0.7, 0.35), (0.75, 0.12)]],
    [[(0.78, 0.2), (0.5, 0.0), (0.22, 0.2), (0.3, 0.45), (0.6, 0.45), (0.78, 0.2)],
     [(0.78, 0.2), (0.76, 0.6), (0.7, 1.0)]],
]  # fmt: skip
JITTER = 0.045  # deviation of a control point
PENS = 4, 8  # pixels of the canvas, of 64, that a stroke is wide


def splines(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`n` drawn digits (n, 1, 28, 28) in [0, 1], each with its own curves, pen and affine map, and their labels."""
    rng = np.random.default_rng(derive(seed, "splines"))
    y = rng.integers(10, size=n)
    atlas = np.stack([_drawing(CURVES[digit], rng) for digit in y.tolist()])
    maps = (affine(n, rng) + np.eye(2, 3, dtype=np.float32)) / 2  # half as far as letters are moved
    return torch.from_numpy(warp(atlas, np.arange(n), maps, silent)).float() / 255, torch.from_numpy(y)


def printed(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`n` digits rendered from fonts, (n, 1, 28, 28) in [0, 1], and their labels."""
    rng = np.random.default_rng(derive(seed, "printed"))
    fonts = [*LETTER_FONTS, *GLYPH_FONTS]
    x, y = render([[Glyph(font, digit) for font in fonts] for digit in string.digits], n, rng, silent)
    return torch.from_numpy(x).float() / 255, torch.from_numpy(y)


def _drawing(strokes: list[list[tuple[float, float]]], rng: Generator) -> Array:
    """A digit alone (CANVAS, CANVAS), uint8, at the middle."""
    canvas = Image.new("L", (CANVAS, CANVAS))
    ink, pen = ImageDraw.Draw(canvas), int(rng.integers(PENS[0], PENS[1] + 1))
    width = rng.uniform(0.55, 0.95)
    for stroke in strokes:
        points = np.array(stroke) + JITTER * rng.standard_normal((len(stroke), 2))
        curve = (_curve(points) - 0.5) * [40 * width, 40] + CANVAS / 2
        line = [tuple(point) for point in curve.tolist()]
        ink.line(line, fill=255, width=pen, joint="curve")
        for x, y in (line[0], line[-1]):
            ink.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return np.asarray(canvas)


def _curve(points: Array, steps: int = 8) -> Array:
    """A Catmull-Rom spline through points (n, 2)."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, steps)[:, None]
    parts = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3))
    return np.concatenate(parts)
