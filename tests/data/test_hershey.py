"""Hershey letters: the font format read, strokes drawn, and the same images from the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from stealguard import data
from stealguard.data.generated.hershey import FONTS, drawing, glyphs, letters
from stealguard.progress import silent

# A space without strokes, an exclamation mark of two, and a stroke that is wrapped in the middle of a pair.
FONT = "  699  1JZ\n  714  6MWRFRT RRYR[\n  501  4I[\nRFJ[R\n[\n"


def test_a_font_is_read() -> None:
    assert glyphs(FONT) == [[], [[(0, -12), (0, 2)], [(0, 7), (0, 9)]], [[(0, -12), (-8, 9), (0, 9)]]]


def test_strokes_are_drawn_at_the_middle_with_a_round_pen() -> None:
    upright = drawing([[(3, -12), (3, 9)]], pen=7)
    columns = (upright > 0).any(axis=0).nonzero()[0]
    rows = (upright > 0).any(axis=1).nonzero()[0]
    assert 7 <= len(columns) <= 8
    assert abs(columns.mean() - 31.5) <= 1
    assert abs(rows.mean() - 31.5) <= 1
    assert 44 <= len(rows) <= 48
    assert (upright[rows[0]] > 0).sum() < 7  # the end is round


def test_the_seed_alone_decides() -> None:
    place = [[(number % 7, -9), (3, number % 5), (-4, 8)] for number in range(95)]
    font = [[stroke] for stroke in place]
    first, again, other = (letters([font], 40, np.random.default_rng(seed), silent)["x"] for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == ((40, 1, 28, 28), np.uint8)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.thorough
@pytest.mark.network
def test_the_real_fonts_have_every_letter() -> None:
    import string
    import tempfile
    from pathlib import Path, PurePath

    from stealguard.data.generated import hershey
    from stealguard.data.sources import Site, debian_files

    with tempfile.TemporaryDirectory() as work:
        site = Site(Path(work), Path(work), False, lambda name: {})
        found = debian_files(hershey.PACKAGE, site, lambda name: name.endswith(".jhf"))
        fonts = {PurePath(name).stem: glyphs(content.decode("ascii")) for name, content in found}
    for font in FONTS:
        drawn = {drawing(fonts[font][ord(letter) - 32], 5).tobytes() for letter in string.ascii_letters}
        assert len(drawn) >= 45, font
    assert data.SETS["hershey"].sizes == (20_000,)
