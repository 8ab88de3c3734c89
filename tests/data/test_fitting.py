"""Pictures of all sizes, brought to one: cut, padded or stretched, and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_folders import classes, picture, pixels

from stealguard import data
from stealguard.data import pictures
from stealguard.data.reading import Columns, Fit, fitted, reading_of
from stealguard.errors import Invalid


def fitted_pixels(size: tuple[int, int], fit: Fit) -> np.ndarray:
    whole = Image.fromarray(pixels(0, size))
    return np.asarray(pictures._sized(whole, fit)).astype(int)


@pytest.mark.parametrize("size", [(61, 40), (40, 61), (640, 480), (20, 11), (16, 700)])
def test_a_crop_is_the_center_of_the_resized_picture(size: tuple[int, int]) -> None:
    """The center crop of the whole picture, whose shorter side was resized to 16."""
    short = min(size)
    w, h = (16 * side // short for side in size)
    whole = np.asarray(Image.fromarray(pixels(0, size)).resize((w, h), Image.Resampling.BILINEAR)).astype(int)
    left, top = round((w - 16) / 2), round((h - 16) / 2)
    found = fitted_pixels(size, Fit(16))
    assert found.shape == (16, 16, 3)
    assert abs(found - whole[top : top + 16, left : left + 16]).max() <= 1


def test_padding_keeps_the_whole_picture_and_stretching_all_of_the_frame() -> None:
    padded = fitted_pixels((40, 20), Fit(16, "pad"))
    small = np.asarray(Image.fromarray(pixels(0, (40, 20))).resize((16, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(padded[4:12], small)
    assert not padded[:4].any()
    assert not padded[12:].any()
    assert fitted_pixels((40, 20), Fit((8, 12), "stretch")).shape == (8, 12, 3)
    assert fitted_pixels((3000, 1), Fit(16, "pad")).shape == (16, 16, 3)


def test_fine_stripes_are_averaged_and_not_sampled() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 254
    found = np.asarray(pictures._sized(Image.fromarray(stripes), Fit(16))).astype(int)
    assert abs(found[:, 1:-1] - 127).max() <= 2


def test_a_folder_of_mixed_sizes_is_a_task(tmp_path: Path) -> None:
    classes(tmp_path, n=4, size=(20, 12))
    picture(tmp_path / "a" / "tall.jpg", seed=50, size=(10, 30))
    picture(tmp_path / "b" / "gray.png", seed=51, mode="L", size=(40, 40))
    picture(tmp_path / "b" / "clear.png", seed=52, mode="RGBA", size=(16, 16))
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    picture(tmp_path / "b" / "turned.jpg", seed=53, size=(18, 22), exif=exif)
    with pytest.raises(Invalid, match=r"of one size .or say with `size` to which size they are brought"):
        data.task(f"folder:{tmp_path}")
    task = data.task(f"folder:{tmp_path}", reading=Fit(16))
    assert task.train.x.shape[1:] == task.test.x.shape[1:] == (3, 16, 16)
    assert task.reading == Fit(16, "crop", 3) == reading_of(task.reading.state())
    told = "Pictures of 20 x 12 to 40 x 40 pixels are brought to 16 x 16"
    assert any(note.startswith(told) for note in task.notes)
    assert "Pictures smaller than 16 x 16, which were enlarged: 9." in task.notes
    gray = data.task(f"folder:{tmp_path}", reading=Fit(16, channels=1))
    assert gray.train.x.shape[1:] == (1, 16, 16)
    hashes = {data.task(f"folder:{tmp_path}", reading=Fit(*how)).hash for how in ((16,), (16, "pad"), (17,))}
    assert len(hashes) == 3, "how the pictures are read is part of what they are"


def test_fitted_pictures_by_row_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes(tmp_path, n=4)
    whole = data.task(f"folder:{tmp_path}", reading=Fit(5))
    monkeypatch.setattr(pictures, "KEPT", 8 * 3 * 25 - 1)
    lazy = data.task(f"folder:{tmp_path}", reading=Fit(5))
    assert lazy.train.x._kept is None
    assert torch.equal(lazy.train.x[:], whole.train.x[:])
    assert lazy.hash == whole.hash


def test_three_means_ask_for_color() -> None:
    assert fitted(224, None, (0.5, 0.5, 0.5)) == Fit(224, "crop", 3)
    assert fitted(224, "pad", 0.5) == Fit((224, 224), "pad", None)
    assert fitted(None, None, None) is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Fit(0), "`size` should be a number of pixels in 1 .. 4096, or .height, width.. Found 0"),
        (lambda: Fit((224, 0)), "`size`"),
        (lambda: Fit(224, "fill"), "`fit` should be one of crop, pad, stretch. Found `fill`"),
        (lambda: Fit(224, channels=2), "`channels` should be 1 or 3. Found 2"),
        (lambda: fitted(None, "pad", None), "`fit` should be left out without `size`"),
        (lambda: reading_of({"sizes": 3}), "`reading`"),
        (lambda: data.task("mnist", reading=Fit(64)), "`size` should be left out where the data are no folder"),
        (lambda: data.images("letters", reading=Fit(64)), "`size` should be left out where the data are no folder"),
        (
            lambda: data.task("mnist", reading=Columns((("age", ()),), "pay")),
            "`reading` should be left out where the data are no table. Found columns for `mnist`",
        ),
    ],
)
def test_rules_of_sizes(make: object, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        make()
