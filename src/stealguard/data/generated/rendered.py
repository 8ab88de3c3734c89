"""Characters drawn like MNIST's digits: white on black, one glyph at the middle, each with its own affine map and pen.

`letters` and `glyphs` share no font file and no character, so that each is an unseen pool against the other. `digits`
are what anyone can print who knows that a task is about digits, with labels that cost nothing.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from stealguard.data.formats import Array, Arrays
from stealguard.progress import Tick, silent
from stealguard.seeds import derive

LETTER_FONTS = [
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10"),
]
GLYPH_FONTS = [
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("STIXGeneral", "STIXGeneralBol"),
]

CANVAS, SIZE = 64, 28  # pixels of a drawn glyph's canvas and of an image; the canvas covers the image exactly
LONGER = 46  # pixels of the canvas that a glyph's longer side takes: 20 of the 28, as in MNIST
TIE = 1e-6  # added before rounding
PENS = 4  # widths of the pen, from the font's own upwards


class Glyph(NamedTuple):
    font: str
    character: str


def letters(n: int = 60_000, seed: int = 0, tick: Tick = silent) -> Arrays:
    """`n` images (n, 1, 28, 28) of A-Z and a-z."""
    return {"x": render(latin(), n, np.random.default_rng(derive(seed, "letters")), tick)[0]}


def glyphs(n: int = 100_000, seed: int = 0, tick: Tick = silent) -> Arrays:
    """`n` images (n, 1, 28, 28) of characters that are neither Latin nor digits, each script and kind as often."""
    return {"x": render(list(scripts().values()), n, np.random.default_rng(derive(seed, "glyphs")), tick)[0]}


def digits(n: int = 12_000, seed: int = 0, tick: Tick = silent) -> Arrays:
    """`n` images (n, 1, 28, 28) of 0-9 with their labels; the last sixth is for testing."""
    groups = [[Glyph(font, character) for font in [*LETTER_FONTS, *GLYPH_FONTS]] for character in string.digits]
    x, y = render(groups, n, np.random.default_rng(derive(seed, "digits")), tick)
    cut = n - n // 6
    return {"train_x": x[:cut], "train_y": y[:cut], "test_x": x[cut:], "test_y": y[cut:]}


def latin() -> list[list[Glyph]]:
    """The glyphs of each Latin letter."""
    return [[Glyph(font, character) for font in LETTER_FONTS] for character in string.ascii_letters]


@cache
def scripts() -> dict[str, list[Glyph]]:
    """The glyphs of every script and kind of symbol that has at least 40, by its name."""
    groups: dict[str, list[Glyph]] = {}
    for font in GLYPH_FONTS:
        for character in foreign(font):
            groups.setdefault(kind(character), []).append(Glyph(font, character))
    return {name: group for name, group in sorted(groups.items()) if len(group) >= 40}


def kind(character: str) -> str:
    """The script of a letter (GREEK, HEBREW, ...), the category of a symbol (Sm, So, ...)."""
    category = unicodedata.category(character)
    return unicodedata.name(character).split()[0] if category[0] == "L" else category


def foreign(font: str) -> list[str]:
    """The font's letters and symbols that are no Latin letter or digit, nor made of them, nor look like one."""
    from matplotlib.ft2font import FT2Font

    codes = sorted(FT2Font(str(font_file(font))).get_charmap())
    shown = [character for character in map(chr, codes) if character > "\x7f" and strange(character)]
    likeness = directions(font, shown) @ directions(font, string.ascii_letters + string.digits).T
    return [c for c, nearest in zip(shown, likeness.max(axis=1), strict=True) if 0 < nearest < 0.9]


def directions(font: str, characters: Sequence[str]) -> Array:
    """Each character's drawing, from afar, as a vector of length 1 (len(characters), 256), or of zeros if blank."""
    drawn = np.stack([drawing(font, character, 0) for character in characters]).astype(np.float32)
    far = drawn.reshape(len(drawn), 16, CANVAS // 16, 16, CANVAS // 16).mean(axis=(2, 4)).reshape(len(drawn), -1)
    return np.asarray(far / np.maximum(np.linalg.norm(far, axis=1, keepdims=True), 1e-9))


# In names: what is Latin or a number, what repeats those or Greek in another style, and what is only dots or bars.
FAMILIAR = "LATIN", "DIGIT", "NUMBER", "OLD ITALIC", "LISU", "MATHEMATICAL", "BRAILLE", "HEXAGRAM", "TETRAGRAM"


def strange(character: str) -> bool:
    """Whether a character is a letter or symbol that has nothing to do with Latin letters and digits, by its name."""
    name, category = unicodedata.name(character, ""), unicodedata.category(character)
    if not name or category[0] not in "LS" or category in ("Lm", "Sk") or any(word in name for word in FAMILIAR):
        return False
    return not any(part.isascii() and part.isalnum() for part in unicodedata.normalize("NFKD", character))


def font_file(font: str) -> Path:
    from matplotlib import get_data_path

    return Path(get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"


@cache
def loaded(font: str, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(str(font_file(font)), size, layout_engine=ImageFont.Layout.BASIC)


def drawing(font: str, character: str, pen: int, canvas: int = CANVAS) -> Array:
    """A glyph alone (canvas, canvas), uint8, at the middle, its longer side 46 of 64 parts. Zeros if it is blank."""
    from PIL import Image, ImageDraw

    whole, face = Image.new("L", (canvas, canvas)), loaded(font, canvas)
    width = round(pen * canvas / CANVAS)
    left, top, right, bottom = face.getbbox(character, stroke_width=width)
    ink = Image.new("L", (max(1, ceil(right - left)), max(1, ceil(bottom - top))))
    ImageDraw.Draw(ink).text((-left, -top), character, fill=255, font=face, stroke_width=width)
    box = ink.getbbox()
    if box is not None:
        glyph = ink.crop(box)
        scale = LONGER * canvas / CANVAS / max(glyph.size)
        glyph = glyph.resize([max(1, round(side * scale)) for side in glyph.size], Image.Resampling.BILINEAR)
        whole.paste(glyph, ((canvas - glyph.width) // 2, (canvas - glyph.height) // 2))
    return np.asarray(whole)


def one(groups: Sequence[Sequence[Glyph]], size: int, rng: Generator) -> Array:
    """One image (size, size), uint8, as `render` gives it at 28 x 28, drawn at twice the size and averaged."""
    from PIL import Image

    group = groups[int(rng.integers(len(groups)))]
    glyph, pen = group[int(rng.integers(len(group)))], int(rng.integers(PENS))
    canvas = round(size * CANVAS / SIZE)
    (a, b, x), (c, d, y) = affine(1, rng)[0].astype(float).tolist()
    unit, middle = canvas / (2 * size), canvas / 2  # from the image's pixels to the canvas's
    rows = [a * unit, b * unit, middle * (1 + x - a - b), c * unit, d * unit, middle * (1 + y - c - d)]
    drawn = Image.fromarray(drawing(glyph.font, glyph.character, pen, canvas))
    fine = drawn.transform((2 * size, 2 * size), Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    return np.asarray(fine.reduce(2))


def render(groups: Sequence[Sequence[Glyph]], n: int, rng: Generator, tick: Tick) -> tuple[Array, Array]:
    """`n` images (n, 1, 28, 28), uint8, of glyphs drawn from the groups, each group as often, and the groups (n,)."""
    picks, numbers = [], rng.integers(len(groups), size=n)
    for group in numbers.tolist():
        glyph = groups[group][int(rng.integers(len(groups[group])))]
        picks.append((glyph.font, glyph.character, int(rng.integers(PENS))))
    drawn = sorted(set(picks))
    atlas = np.stack([drawing(*pick) for pick in drawn])
    row = {pick: number for number, pick in enumerate(drawn)}
    return warp(atlas, np.array([row[pick] for pick in picks]), affine(n, rng), tick), numbers


def affine(n: int, rng: Generator) -> Array:
    """`n` maps (n, 2, 3) from the image's coordinates in [-1, 1] to the canvas's: turned, slanted, scaled, shifted."""
    turn, slant = rng.uniform(-0.3, 0.3, (2, n))
    wide, high = rng.uniform(0.8, 1.1, n), rng.uniform(0.8, 1.1, n)
    shift = rng.uniform(-2, 2, (n, 2, 1)) * 2 / SIZE
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]).transpose(2, 0, 1)
    shear = np.array([[np.ones(n), slant], [np.zeros(n), np.ones(n)]]).transpose(2, 0, 1)
    scale = np.stack([1 / wide, 1 / high], axis=1)[:, :, None]
    return np.concatenate([(scale * (rotation @ shear)), -shift], axis=2).astype(np.float32)


def warp(atlas: Array, rows: Array, maps: Array, tick: Tick, batch: int = 1000) -> Array:
    """Each row's drawing through its map, at twice the size and averaged, so that edges are soft as in MNIST.

    It is computed in float64 and halves are rounded up, so that no pixel depends on the processor.
    """
    import torch
    from torch.nn.functional import avg_pool2d, grid_sample

    axis = (torch.arange(2 * SIZE, dtype=torch.float64) + 0.5) / SIZE - 1
    x, y = axis[None, None, :], axis[None, :, None]
    images = np.empty((len(rows), 1, SIZE, SIZE), np.uint8)
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        m = torch.from_numpy(maps[part]).double()[:, :, :, None, None]
        grid = torch.stack([m[:, i, 0] * x + m[:, i, 1] * y + m[:, i, 2] for i in (0, 1)], dim=-1)
        drawings = torch.from_numpy(atlas[rows[part]])[:, None].double()
        fine = grid_sample(drawings, grid, padding_mode="zeros", align_corners=False)
        images[part] = avg_pool2d(fine, 2).add_(TIE).round_().to(torch.uint8).numpy()
        tick(start + len(m))
    return images
