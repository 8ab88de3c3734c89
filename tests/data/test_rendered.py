"""Letters and glyphs: the same from the same seed on any number of threads, without a shared font or character."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stealguard import data
from stealguard.data import SETS
from stealguard.data.generated import rendered
from stealguard.data.generated.rendered import GLYPH_FONTS, LETTER_FONTS, digits, drawing, foreign, glyphs, letters
from stealguard.data.sets import made


def test_letters_are_white_on_black_at_the_middle() -> None:
    x = letters(300)["x"]
    assert (x.shape, x.dtype) == ((300, 1, 28, 28), np.uint8)
    assert 0.08 < x.mean() / 255 < 0.3
    assert (x.max(axis=(1, 2, 3)) > 180).all()
    assert x[..., 0].mean() < 8  # next to nothing at the edge
    centre = (x.sum(axis=(0, 1, 2)) * np.arange(28)).sum() / x.sum()
    assert 12.5 < centre < 14.5


def test_the_seed_alone_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    first = letters(64)["x"]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(123)
    again = letters(64)["x"]
    torch.set_num_threads(threads)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, letters(64, seed=1)["x"])


def test_no_font_file_is_shared_and_all_exist() -> None:
    assert not set(LETTER_FONTS) & set(GLYPH_FONTS)
    assert all(rendered.font_file(font).exists() for font in [*LETTER_FONTS, *GLYPH_FONTS])


@pytest.mark.parametrize("font", LETTER_FONTS)
def test_every_face_has_every_letter(font: str) -> None:
    drawn = {drawing(font, character, 0).tobytes() for character in string.ascii_letters}
    assert len(drawn) >= 40  # letters such as C, c and O, o look alike when drawn at one size


def test_glyphs_are_neither_latin_nor_digits() -> None:
    characters = set(foreign("DejaVuSansMono-Oblique"))  # a small face, of which glyphs() uses larger ones
    assert characters > set("ЖЩψξ≠→")
    assert not characters & set("aAéÆß0²½АОТХЗЅΑΒ①ℝ𝐀")


def test_glyphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "GLYPH_FONTS", ["DejaVuSansMono-Oblique"])
    done: list[float] = []
    x = glyphs(50, tick=done.append)["x"]
    assert x.shape == (50, 1, 28, 28)
    assert done == [50]


def test_digits_come_with_labels_that_are_right() -> None:
    made = digits(600)
    assert [made[name].shape for name in ("train_x", "train_y", "test_y")] == [(500, 1, 28, 28), (500,), (100,)]
    assert np.bincount(made["train_y"], minlength=10).min() > 20
    means = np.stack([made["train_x"][made["train_y"] == k].mean(axis=0).ravel() for k in range(10)]) / 255
    nearest = ((made["test_x"].reshape(100, 1, -1) / 255 - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == made["test_y"]).mean() > 0.5


@pytest.mark.parametrize("font", [*LETTER_FONTS, *GLYPH_FONTS])
def test_every_face_has_every_digit(font: str) -> None:
    assert len({drawing(font, character, 0).tobytes() for character in string.digits}) == 10


def test_a_blank_character_is_all_black() -> None:
    assert not drawing("DejaVuSans", " ", 0).any()


def test_a_wider_pen_draws_more() -> None:
    thin, wide = (drawing("DejaVuSerif", "T", pen) for pen in (0, 3))
    assert wide.astype(int).sum() > 1.2 * thin.astype(int).sum()


def test_get_renders(root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    small = replace(SETS["letters"], sizes=(40,), sources=made("letters", letters, 40))
    monkeypatch.setitem(SETS, "letters", small)
    data.get("letters")
    assert "rendering letters" in capfd.readouterr().err
    assert data.images("letters").shape == (40, 1, 28, 28)
    with pytest.raises(ValueError, match="a labeled set"):
        data.task("letters")
    Image.fromarray(letters(1)["x"][0, 0])  # a picture like any other
