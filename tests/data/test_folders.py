"""Folders of pictures as people have them: their layouts, their formats, and what is ignored, converted and refused."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stealguard import data
from stealguard.data import folders, pictures
from stealguard.errors import Invalid


def pixels(seed: int, size: tuple[int, int] = (8, 6)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3)).astype(np.uint8)


def picture(path: Path, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (8, 6), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size)).convert(mode).save(path, **options)


def classes(path: Path, names: str = "ab", n: int = 7, **options: Any) -> Path:
    for number, name in enumerate(names):
        for i in range(n):
            picture(path / name / f"{i}.png", seed=100 * number + i, **options)
    return path


def contents(x: Any) -> set[tuple[float, ...]]:
    return {tuple(row.flatten().tolist()) for row in x}


# --- splits --------------------------------------------------------------------------------------------------------


def test_class_folders_are_split_alike_every_time(tmp_path: Path) -> None:
    task = data.task(f"folder:{classes(tmp_path, n=9)}")
    assert task.train.x.shape[1:] == (3, 6, 8)
    assert task.names == ("a", "b")
    for split in task.train, task.test:
        assert len(split.x) == len(split.y)
        assert set(split.y.tolist()) == {0, 1}
        assert split.y.tolist() == sorted(split.y.tolist())
    assert len(task.test.x) < len(task.train.x) / 2
    assert torch.equal(task.test.x[:], data.task(f"folder:{tmp_path}").test.x[:])
    assert len(contents(task.train.x) | contents(task.test.x)) == 18  # none in both
    assert torch.equal(data.images(f"folder:{tmp_path}")[:], task.train.x[:])
    assert f"The test set is {len(task.test.x)} of 18 pictures, about one in six of each class." in task.notes


def test_no_picture_changes_sides_when_others_are_added(tmp_path: Path) -> None:
    before = data.task(f"folder:{classes(tmp_path, 'ab', n=18)}")
    for name in "ab":
        for i in range(6):
            picture(tmp_path / name / f"0{i}.png", seed=ord(name) + 1000 * i)
    classes(tmp_path, "c")
    after = data.task(f"folder:{tmp_path}")
    assert len(after.train.x) + len(after.test.x) == 36 + 12 + 7
    assert not contents(after.test.x) & contents(before.train.x)
    assert contents(before.test.x) <= contents(after.test.x)
    assert after.hash != before.hash


def test_about_one_picture_in_six_is_for_testing(tmp_path: Path) -> None:
    task = data.task(f"folder:{classes(tmp_path, n=120, size=(1, 1))}")
    assert 20 < len(task.test.x) < 60


def test_equal_pictures_are_on_one_side(tmp_path: Path) -> None:
    for i in range(6):
        classes(tmp_path, n=12)
        for name in "ab":
            (tmp_path / name / f"copy{i}.png").write_bytes((tmp_path / name / f"{i}.png").read_bytes())
    task = data.task(f"folder:{tmp_path}")
    assert not contents(task.train.x) & contents(task.test.x)


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "val"), ("training", "Valid"), ("TRAIN", "validation")])
def test_folders_of_training_and_test_pictures(tmp_path: Path, names: tuple[str, str]) -> None:
    train, test = names
    classes(tmp_path / train, mode="L")
    classes(tmp_path / test, n=2, mode="L")
    task = data.task(f"folder:{tmp_path}")
    assert (task.train.x.shape, task.test.x.shape) == ((14, 1, 6, 8), (4, 1, 6, 8))
    told = "4 test pictures are training pictures, too: they tell nothing about new ones."
    assert (task.names, task.notes) == (("a", "b"), (told,))
    assert len(data.images(f"folder:{tmp_path}")) == 14
    classes(tmp_path / test, names="z", n=1, mode="L")
    with pytest.raises(Invalid, match=r"test classes that are also in train. Found z"):
        data.task(f"folder:{tmp_path}")


def test_the_test_folder_goes_before_the_validation_folder(tmp_path: Path) -> None:
    for name, n in ("train", 3), ("val", 1), ("test", 2):
        classes(tmp_path / name, n=n)
    task = data.task(f"folder:{tmp_path}")
    assert (len(task.train.x), len(task.test.x)) == (6, 4)
    assert task.notes[0] == "The folder `val` is not used."


def test_folders_that_are_no_classes_may_have_few_pictures(tmp_path: Path) -> None:
    classes(tmp_path, "a", n=1)
    classes(tmp_path, "b", n=3)
    inputs, words = folders.read(tmp_path, labels=False).train
    assert len(inputs) == 3, "one of the three of b is left out, as of a task"
    assert words.tolist() == ["a", "b", "b"]
    with pytest.raises(Invalid, match=r"at least 2 pictures a class.* Found 1 of `a`"):
        folders.read(tmp_path)


def test_a_test_folder_without_classes_is_not_used(tmp_path: Path) -> None:
    classes(tmp_path / "train", n=12)
    picture(tmp_path / "test" / "1.png")
    task = data.task(f"folder:{tmp_path}")
    assert len(task.train.x) + len(task.test.x) == 24
    assert "The folder `test` is not used." in task.notes


def test_bare_training_and_test_pictures_are_no_classes(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "train" / f"{i}.png", seed=i)
        picture(tmp_path / "val" / f"{i}.png", seed=9 + i)
    assert len(data.images(f"folder:{tmp_path}")) == 3
    with pytest.raises(Invalid, match="a labeled set"):
        data.task(f"folder:{tmp_path}")


def test_a_folder_around_the_class_folders_is_passed_through(tmp_path: Path) -> None:
    classes(tmp_path / "flowers")
    (tmp_path / "__MACOSX" / "flowers").mkdir(parents=True)
    assert data.task(f"folder:{tmp_path}").names == ("a", "b")


def test_classes_give_the_folders_another_order(tmp_path: Path) -> None:
    task = data.task(f"folder:{classes(tmp_path)}", classes=["b", "a"])
    assert task.names == ("b", "a")
    assert task.train.y[0] == 1
    with pytest.raises(Invalid, match=r"labels of `classes`, a, c. Found b"):
        data.task(f"folder:{tmp_path}", classes=["a", "c"])


# --- files ---------------------------------------------------------------------------------------------------------


def test_bare_pictures(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"{i}.png", seed=i, mode="P")
    (tmp_path / "notes.txt").write_text("")
    assert data.images(f"folder:{tmp_path}").shape == (3, 3, 6, 8)
    with pytest.raises(Invalid, match="a labeled set"):
        data.task(f"folder:{tmp_path}")


def test_pictures_below_class_folders_and_of_other_formats_are_taken(tmp_path: Path) -> None:
    classes(tmp_path, n=3)
    for number, name in enumerate(("deep/er/x.png", "y.tga", "z.JPG", "w.jp2", "v.Tiff", "u.pcx", "t.webp")):
        picture(tmp_path / "a" / name, seed=500 + number)
    task = data.task(f"folder:{tmp_path}")
    assert len(task.train.x) + len(task.test.x) == 13


def test_what_is_ignored_is_counted(tmp_path: Path) -> None:
    classes(tmp_path, n=3)
    picture(tmp_path / "a" / "deep" / "x.png", seed=9)
    for name in "a/._0.png", "a/.DS_Store", "b/Thumbs.db", "a/deep/desktop.ini", "b/list.txt", "b/x.heic", ".hidden":
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / "a" / "__MACOSX").mkdir()
    picture(tmp_path / "beside.png", size=(3, 3))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "b" / "pipe.png")
    else:
        (tmp_path / "b" / "pipe.bin").write_bytes(b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    task = data.task(f"folder:{tmp_path}")
    assert len(task.train.x) + len(task.test.x) == 7
    assert "Ignored hidden and system files: 6." in task.notes
    assert "Ignored files that are no pictures: 3." in task.notes
    assert "Ignored pictures beside the class folders: 1." in task.notes


def test_gray_and_color_are_read_as_color(tmp_path: Path) -> None:
    classes(tmp_path, n=3)
    picture(tmp_path / "a" / "gray.png", seed=4, mode="L")
    picture(tmp_path / "a" / "print.jpg", seed=5, mode="CMYK")
    task = data.task(f"folder:{tmp_path}")
    assert task.train.x.shape[1] == 3
    assert "Pictures of other modes, which were converted to color: CMYK 1, L 1." in task.notes
    both = torch.cat([task.train.x[:], task.test.x[:]])
    gray = torch.from_numpy(np.array(Image.fromarray(pixels(4)).convert("L"))).float() / 255
    assert any(torch.equal(row, gray.expand(3, -1, -1)) for row in both)


def test_transparent_pictures_are_laid_over_white(tmp_path: Path) -> None:
    clear = np.dstack([pixels(0), np.zeros((6, 8), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "a.png")  # RGBA
    palette = Image.new("P", (8, 6), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "b.png", transparency=0)
    gray = Image.new("LA", (8, 6), (0, 0))
    gray.save(tmp_path / "c.png")
    assert (data.images(f"folder:{tmp_path}")[:] == 1).all()
    found = folders.read(tmp_path)
    assert "Pictures with transparency, which were laid over white: 3." in found.notes
    only = tmp_path / "gray"
    only.mkdir()
    gray.save(only / "c.png")
    assert data.images(f"folder:{only}").shape == (1, 1, 6, 8)


def test_test_pictures_that_are_trained_on_are_told(tmp_path: Path) -> None:
    for split in ("train", "test"):
        classes(tmp_path / split)
    picture(tmp_path / "test" / "a" / "new.png", seed=999)
    told = "14 test pictures are training pictures, too: they tell nothing about new ones."
    assert told in folders.read(tmp_path).notes
    assert told not in folders.read(tmp_path, labels=False).notes
    assert not any("training pictures" in note for note in folders.read(tmp_path / "train").notes)


def test_animations_give_their_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.png")
    x = data.images(f"folder:{tmp_path}")[:]
    assert torch.equal(x[0], x[1])
    assert "Pictures with several frames, of which the first is taken: 1." in folders.read(tmp_path).notes


@pytest.mark.parametrize("kind", ["png", "webp", "tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, turn: int, kind: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[pictures.ORIENTATION] = turn
    picture(tmp_path / f"a.{kind}", exif=exif, lossless=True)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / f"a.{kind}"))
    x = data.images(f"folder:{tmp_path}")
    assert x.shape == (1, 3, expected.height, expected.width)
    assert np.array_equal((x[0] * 255).round().byte().permute(1, 2, 0), np.asarray(expected))
    told = "Pictures turned upright, as their EXIF orientation says: 1." in folders.read(tmp_path).notes
    assert told == (turn > 1)


def test_sixteen_bits_are_read_with_eight(tmp_path: Path) -> None:
    deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1365
    Image.fromarray(deep).save(tmp_path / "a.png")
    x = data.images(f"folder:{tmp_path}")
    assert np.array_equal(x[0][0], (deep >> 8).astype(np.float32) / 255)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_by_row_are_those_in_memory(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = data.task(f"folder:{classes(tmp_path, mode=mode)}")
    monkeypatch.setattr(pictures, "KEPT", 14 * 8 * 6 * len(mode) - 1)
    lazy = data.task(f"folder:{tmp_path}")
    assert lazy.train.x._kept is None
    assert whole.train.x._kept is not None
    assert torch.equal(lazy.train.x[:], whole.train.x[:])
    assert lazy.hash == whole.hash
    rows = torch.tensor([3, 0, 3])
    assert torch.equal(lazy.train.x.rows(rows), whole.train.x[:][rows])


def test_the_hash_follows_from_names_contents_and_labels(tmp_path: Path) -> None:
    for name in "one", "two":
        classes(tmp_path / name, n=3)
    first = data.task(f"folder:{tmp_path / 'one'}")
    assert first.hash == data.task(f"folder:{tmp_path / 'two'}").hash
    (tmp_path / "two" / "a" / "0.png").rename(tmp_path / "two" / "a" / "9.png")
    assert first.hash != data.task(f"folder:{tmp_path / 'two'}").hash
    (tmp_path / "two" / "a" / "9.png").rename(tmp_path / "two" / "a" / "0.png")
    picture(tmp_path / "two" / "b" / "0.png", seed=77)
    assert first.hash != data.task(f"folder:{tmp_path / 'two'}").hash


def test_a_pool_may_lie_in_a_single_folder_since_its_labels_are_not_read(tmp_path: Path) -> None:
    classes(tmp_path / "one", "a")
    assert data.images(f"folder:{tmp_path / 'one'}").shape[1:] == (3, 6, 8)
    with pytest.raises(Invalid, match=r"at least 2 class folders\. Found 1"):
        data.task(f"folder:{tmp_path / 'one'}")


def test_rules_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, said: str) -> None:
        with pytest.raises(Invalid, match=said):
            data.images(f"folder:{path}")

    refused(tmp_path / "nowhere", "a folder. Found .*nowhere")
    refused(tmp_path, "a folder of class folders or of pictures")
    (classes(tmp_path / "empty") / "c").mkdir()
    refused(tmp_path / "empty", "class folders with pictures. Found none in .*empty/c")
    picture(classes(tmp_path / "sizes") / "b" / "x.png", size=(9, 6))
    refused(tmp_path / "sizes", r"one size .*with `size` to .*Found .*png \(8x6\) and .*x.png \(9x6\)")
    (classes(tmp_path / "bad") / "b" / "x.png").write_text("no picture")
    refused(tmp_path / "bad", r"readable pictures. Found .*x.png")
    whole = (classes(tmp_path / "cut") / "b" / "3.png").read_bytes()
    (tmp_path / "cut" / "b" / "3.png").write_bytes(whole[:-40])
    refused(tmp_path / "cut", r"readable pictures. Found .*3.png")
    (tmp_path / "float").mkdir()
    Image.fromarray(np.zeros((6, 8), np.float32)).save(tmp_path / "float" / "x.tif")
    refused(tmp_path / "float", r"readable pictures. Found .*x.tif \(floating-point pixels\)")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n")
    refused(tmp_path / "code", r"readable pictures. Found .*x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    refused(classes(tmp_path / "bomb"), "readable pictures. Found .*decompression bomb")


def test_damaged_pictures_raise_nothing_but_invalid(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for suffix in "png", "jpg", "gif", "webp", "tif", "bmp":
        picture(tmp_path / f"x.{suffix}", size=(16, 16))
        whole = (tmp_path / f"x.{suffix}").read_bytes()
        for _ in range(25):
            content = bytearray(whole)
            for place in rng.integers(len(content), size=4):
                content[place] = rng.integers(256)
            (tmp_path / f"x.{suffix}").write_bytes(bytes(content))
            with suppress(Invalid):  # most damage is not noticed
                data.images(f"folder:{tmp_path}")[:]
        (tmp_path / f"x.{suffix}").unlink()
