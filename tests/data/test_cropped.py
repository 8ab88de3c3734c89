"""CIFAR-10 in gray, crops of pictures and tiny ImageNet, from small stand-ins."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stealguard.data.generated import cropped
from stealguard.data.sources import Site, Unavailable
from stealguard.errors import FetchError


def test_gray_is_luma_and_area() -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 32, 32)).astype(np.uint8)
    x = cropped.gray({"train_x": images[:20], "test_x": images[20:]})["x"]
    assert (x.shape, x.dtype) == ((30, 1, 28, 28), np.uint8)
    luma = np.floor(np.einsum("nchw,c->nhw", images.astype(int), [299, 587, 114]) / 1000 + 0.5)
    large = luma.repeat(7, axis=1).repeat(7, axis=2)  # 224 = 28 x 8
    area = large.reshape(30, 28, 8, 28, 8).mean(axis=(2, 4))
    assert np.abs(x[:, 0] - area).max() <= 0.5


def test_gray_of_one_gray_is_that_gray() -> None:
    flat = np.full((12, 3, 32, 32), 77, np.uint8)
    assert (cropped.gray({"train_x": flat, "test_x": flat})["x"] == 77).all()


def png(mode: str, size: tuple[int, int], color: tuple[int, ...] | int, form: str = "png") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, form)
    return out.getvalue()


RED, CLEAR, GRAY = (
    png("RGB", (90, 60), (255, 0, 0), "jpeg"),
    png("RGBA", (40, 80), (0, 0, 255, 0)),
    png("L", (50, 50), 99),
)


def cut(files: list[bytes], n: int) -> np.ndarray:
    return cropped.cut(files, n, 64, 0.4, np.random.default_rng(0), lambda done: None)


def test_crops_come_from_all_pictures_alike() -> None:
    x = cut([RED, GRAY], 21)
    assert (x.shape, x.dtype) == ((21, 3, 32, 32), np.uint8)
    red, gray = (x[:, 0] > 250).all(axis=(1, 2)), (x == 99).all(axis=(1, 2, 3))
    assert (red.sum(), gray.sum()) == (11, 10)
    assert np.array_equal(x, cut([RED, GRAY], 21))
    assert len(cut([RED, GRAY, CLEAR], 2)) == 2


def test_what_is_clear_shows_a_gradient_behind() -> None:
    x = cut([CLEAR], 8).astype(int)
    assert np.abs(np.diff(x, axis=2)).max() < 10
    assert x.std(axis=(2, 3)).max() > 5
    assert len(np.unique(x.reshape(8, -1), axis=0)) == 8


def test_half_clear_is_mixed() -> None:
    crops = np.zeros((1, 32, 32, 4), np.uint8)
    crops[..., 0], crops[..., 3] = 200, 255
    assert (cropped.composed(crops, np.random.default_rng(0))[0, 0] == 200).all()


def test_pictures_that_are_too_small_or_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cropped.handy(RED)
    assert not cropped.handy(png("L", (400, 31), 0))
    monkeypatch.setattr(cropped, "LARGEST", 90 * 60 - 1)
    assert not cropped.handy(RED)
    for limit in 4000, 400:  # more pixels than the limit warn, twice as many are an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert not cropped.handy(RED)


def test_painted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "stamps/a.png": RED,
        "stamps/symbols/b.png": GRAY,
        "stamps/c.txt": b"",
        "stamps/d.png": png("L", (9, 9), 0),
    }
    found = lambda package, site, wanted: (item for item in files.items() if wanted(item[0]))  # noqa: E731
    monkeypatch.setattr(cropped, "debian_files", found)
    (source,) = cropped.painted("stamps", 5, 64, 0.5, {"some-stamps": r"stamps/(?!symbols/).*png$"})
    x = source.read(Site(tmp_path, tmp_path, False, lambda name: {}))["x"]
    assert source.name == "Debian some-stamps"
    assert (x[:, 0] > 250).all()

    files.clear()
    with pytest.raises(FetchError, match="no pictures in some-stamps"):
        source.read(Site(tmp_path, tmp_path, False, lambda name: {}))


def test_tiny_imagenet(tmp_path: Path) -> None:
    site = Site(tmp_path, tmp_path, False, lambda name: {})
    with pytest.raises(Unavailable, match=f"not in {tmp_path}"):
        cropped.tiny_imagenet(site)
    folder = tmp_path / "tiny-imagenet-200"
    for name, color in ("n02", 200), ("n01", 100):
        images = folder / "train" / name / "images"
        images.mkdir(parents=True)
        (images / f"{name}_0.JPEG").write_bytes(png("L", (64, 64), color, "jpeg"))
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "val" / "images" / "val_0.JPEG").write_bytes(png("RGB", (64, 64), (0, 0, 0), "jpeg"))
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t1\t1\n")
    arrays = cropped.tiny_imagenet(site)
    assert arrays["train_x"].shape == (2, 3, 64, 64)
    assert arrays["train_x"][:, 0, 0, 0].tolist() == [100, 200]
    assert (arrays["train_y"].tolist(), arrays["test_y"].tolist()) == ([0, 1], [1])
