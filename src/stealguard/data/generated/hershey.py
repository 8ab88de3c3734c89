"""Latin letters drawn with a pen in the Hershey fonts, which are strokes and no outlines: a pool of another hand.

It shares no font with `letters` or `glyphs`, and a defender should not own it, so that audits can query with it.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from functools import cache
from pathlib import PurePath

import numpy as np
from numpy.random import Generator

from stealguard.data.formats import Array, Arrays
from stealguard.data.generated.rendered import CANVAS, LONGER, affine, warp
from stealguard.data.sources import Site, Source, debian_files
from stealguard.progress import Tick, bar
from stealguard.seeds import derive

PACKAGE = "hershey-fonts-data"
FONTS = [  # those whose places 32 to 126 are the characters of ASCII, each in its Latin form
    *("futural", "futuram", "rowmans", "rowmand", "rowmant", "scripts", "scriptc", "cursive"),
    *("timesr", "timesrb", "timesi", "timesib"),
]
PENS = 3, 5, 7, 9  # pixels of the canvas that a stroke is wide
MIDDLE = ord("R")  # coordinates are letters of ASCII, and R is 0

Stroke = list[tuple[int, int]]


def source(n: int = 20_000) -> tuple[Source]:
    """The one source of a set of `n` letters: Debian's package of the fonts."""

    def read(site: Site) -> Arrays:
        files = debian_files(PACKAGE, site, lambda name: PurePath(name).suffix == ".jhf")
        fonts = {PurePath(name).stem: glyphs(content.decode("ascii")) for name, content in files}
        with bar("rendering hershey", n, show=site.progress) as tick:
            return letters([fonts[font] for font in FONTS], n, np.random.default_rng(derive(0, "hershey")), tick)

    return (Source(f"Debian {PACKAGE}", read),)


def glyphs(text: str) -> list[list[Stroke]]:
    """The strokes of each glyph of a font file, in its order.

    A glyph is five characters of number, three of how many pairs follow, and those pairs, wrapped where lines are long:
    first its left and right edge, then points, of which " R" lifts the pen.
    """
    found, rest = [], text.replace("\r", "").replace("\n", "")
    while len(rest) > 8:
        end = 8 + 2 * int(rest[5:8])
        found.append(list(_strokes(rest[10:end])))
        rest = rest[end:]
    return found


def _strokes(pairs: str) -> Iterator[Stroke]:
    for stroke in pairs.split(" R"):
        if stroke:
            points = [ord(sign) - MIDDLE for sign in stroke]
            yield list(zip(points[::2], points[1::2], strict=True))


def letters(fonts: list[list[list[Stroke]]], n: int, rng: Generator, tick: Tick) -> Arrays:
    """`n` images (n, 1, 28, 28), uint8, of A-Z and a-z: each letter, font and pen as often, each with its own map."""
    choices = rng.integers((len(string.ascii_letters), len(fonts), len(PENS)), size=(n, 3))
    drawn, row = np.unique(choices, axis=0, return_inverse=True)

    @cache
    def strokes(letter: int, font: int) -> list[Stroke]:
        return fonts[font][ord(string.ascii_letters[letter]) - ord(" ")]

    atlas = np.stack([drawing(strokes(letter, font), PENS[pen]) for letter, font, pen in drawn.tolist()])
    return {"x": warp(atlas, row.reshape(-1), affine(n, rng), tick)}


def drawing(strokes: list[Stroke], pen: int) -> Array:
    """A glyph alone (CANVAS, CANVAS), uint8, its longer side `LONGER` pixels, at the middle, drawn with a round pen."""
    from PIL import Image, ImageDraw

    points = np.array([point for stroke in strokes for point in stroke], float)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (LONGER - pen) / max(1, (high - low).max())
    canvas = Image.new("L", (CANVAS, CANVAS))
    ink = ImageDraw.Draw(canvas)
    for stroke in strokes:
        line = [tuple((np.array(point) - (low + high) / 2) * scale + CANVAS / 2) for point in stroke]
        ink.line(line, fill=255, width=pen, joint="curve")
        for x, y in line:
            ink.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return np.asarray(canvas)
