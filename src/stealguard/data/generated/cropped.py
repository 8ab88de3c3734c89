"""Sets cut from pictures: CIFAR-10 in gray, and crops of what Debian packages for painters and desktops.

Crops of 32 x 32 are cut once and stored. For other sizes the pictures themselves are stored, reduced to what crops of
that size need, and each crop is cut when it is asked for; no picture is enlarged.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from math import ceil, log2
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.random import Generator

from stealguard.data.formats import Array, Arrays
from stealguard.data.sources import Site, Source, Unavailable, content, debian_files, find
from stealguard.files import read_text
from stealguard.progress import Tick, bar
from stealguard.seeds import derive

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE, LARGEST = 32, 20_000_000  # pixels: a crop's side, a whole picture
PICTURES = 200  # at most, that crops of other sizes are cut from


class Photographs(NamedTuple):
    """A set of `n` crops of the pictures of Debian `packages`, each package with the pattern of its pictures' paths.

    Pictures are reduced to `working` pixels for crops of 32 x 32; a crop's side is `smallest` to 1 of the picture's.
    """

    name: str
    n: int
    working: int
    smallest: float
    packages: dict[str, str]

    def working_at(self, size: int) -> int:
        """What pictures are reduced to for crops of this size: a power of two, of a quarter as many crops to a side."""
        return max(self.working, 2 ** ceil(log2(self.working * size / (4 * SIZE))))


PHOTOGRAPHS = {
    kind.name: kind
    for kind in (
        Photographs("stamps", 30_000, 256, 0.4, {"tuxpaint-stamps-default": r"/stamps/(?!symbols/).*\.png$"}),
        Photographs(
            "wallpapers",
            30_000,
            512,
            0.12,
            {
                "mate-backgrounds": r"/backgrounds/.*\.(png|jpg)$",
                "plasma-workspace-wallpapers": r"/contents/images(_dark)?/.*\.(png|jpg)$",
                "gnome-backgrounds": r"/backgrounds/.*\.(png|jpg|webp)$",
            },
        ),
        # shapes/ is hundreds of circles and spirals that differ by a parameter
        Photographs("clipart", 30_000, 256, 0.4, {"openclipart-png": r"/png/(?!unsorted/duplicates/|shapes/).*\.png$"}),
    )
}


# --- CIFAR-10 in gray ----------------------------------------------------------------------------------------------


def gray(arrays: Arrays) -> Arrays:
    """CIFAR-10's train and test images in gray (60000, 1, 28, 28), in exact integers, so that every machine agrees.

    Luma is (299 R + 587 G + 114 B) / 1000; then each pixel is the mean over the 8/7 x 8/7 pixels that it covers.
    """
    images = np.concatenate([arrays["train_x"], arrays["test_x"]])
    return {"x": np.concatenate([shrunk(luma(part)) for part in np.array_split(images, 12)])[:, None]}


def luma(images: Array) -> Array:
    """(N, 3, H, W) -> (N, H, W), int32 in 0..255."""
    red, green, blue = images.astype(np.int32).swapaxes(0, 1)
    return np.asarray((299 * red + 587 * green + 114 * blue + 500) // 1000)


def shrunk(planes: Array) -> Array:
    """(N, 32, 32) -> (N, 28, 28), uint8, by area."""
    cover = np.zeros((28, 32), np.float32)  # in sevenths of a pixel: all sums are whole and below 2 ** 24, so exact
    np.add.at(cover, (np.arange(28 * 8) // 8, np.arange(28 * 8) // 7), 1)
    sums = cover @ planes.astype(np.float32) @ cover.T
    return ((sums.astype(np.int32) + 32) // 64).astype(np.uint8)


# --- crops of pictures ---------------------------------------------------------------------------------------------


def painted(name: str, n: int, working: int, smallest: float, packages: dict[str, str]) -> tuple[Source]:
    """The one source of the set of crops of 32 x 32; see `Photographs`."""

    def read(site: Site) -> Arrays:
        files = found(packages, site)
        with bar(f"cutting {name}", n, show=site.progress) as tick:
            return {"x": cut(files, n, working, smallest, np.random.default_rng(derive(0, name)), tick)}

    return (Source(f"Debian {', '.join(packages)}", read),)


def pictures(kind: Photographs, working: int) -> Source:
    """The pictures that crops of other sizes are cut from: of each (H, W, 4), uint8, by its number."""

    def read(site: Site) -> Arrays:
        files = found(kind.packages, site)
        some = [files[int(i)] for i in np.linspace(0, len(files) - 1, min(PICTURES, len(files))).round()]
        arrays: Arrays = {}
        with bar(f"reducing the pictures of {kind.name}", len(some), show=site.progress) as tick:
            for number, content in enumerate(some):
                arrays[f"{number:03}"] = np.asarray(reduced(header(content), working))
                tick(number + 1)
        return arrays

    return Source(f"Debian {', '.join(kind.packages)}", read)


def found(packages: dict[str, str], site: Site) -> list[bytes]:
    """The pictures of the packages, in their order."""
    files = [file for package, pattern in packages.items() for file in matching(package, pattern, site)]
    if not files:
        raise Unavailable(f"no pictures in {', '.join(packages)}")
    return files


def matching(package: str, pattern: str, site: Site) -> list[bytes]:
    """The package's pictures whose path matches and whose size is `handy`."""
    found = debian_files(package, site, lambda name: re.search(pattern, name) is not None)
    return [picture for _, picture in found if handy(picture)]


def handy(content: bytes) -> bool:
    """Whether a picture is neither smaller than a crop nor so large that decoding it takes seconds and gigabytes."""
    from PIL.Image import DecompressionBombError, DecompressionBombWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DecompressionBombWarning)
            width, height = header(content).size
    except (DecompressionBombError, DecompressionBombWarning):
        return False
    return min(width, height) >= SIZE and width * height <= LARGEST


def header(content: bytes) -> Image:
    """The picture, of which only the header has been read yet."""
    from PIL import Image

    return Image.open(io.BytesIO(content))


def cut(files: Sequence[bytes], n: int, working: int, smallest: float, rng: Generator, tick: Tick) -> Array:
    """`n` crops (n, 3, 32, 32), uint8, as many of each picture, in random order, over backgrounds where transparent."""
    crops = np.empty((n, SIZE, SIZE, 4), np.uint8)
    order = rng.permutation(n)
    done = 0
    for number, file in enumerate(files):
        rows = order[number :: len(files)]
        if len(rows):
            picture = reduced(header(file), working)
            crops[rows] = [crop(picture, smallest, rng) for _ in rows]
        done += len(rows)
        tick(done)
    return np.concatenate([composed(part, rng) for part in np.array_split(crops, -(-n // 1000))])


def reduced(picture: Image, working: int) -> Image:
    """The picture as RGBA with `working` pixels or fewer on its longer side, padded to a square where transparent."""
    from PIL import Image

    picture.draft("RGB", (working, working))
    picture.thumbnail((working, working), reducing_gap=2)
    colored = picture.convert("RGBA")
    if colored.getchannel("A").getextrema() == (255, 255):
        return colored
    side = max(colored.size)
    square = Image.new("RGBA", (side, side))
    square.paste(colored, ((side - colored.width) // 2, (side - colored.height) // 2))
    return square


def crop(picture: Image, smallest: float, rng: Generator) -> Array:
    """A random square of the picture (32, 32, 4); the middle of it where the square has caught next to nothing."""
    side = rng.uniform(smallest, 1) * min(picture.size)
    left, top = rng.uniform(0, picture.width - side), rng.uniform(0, picture.height - side)
    found = resized(picture, left, top, side)
    if found[..., 3].mean() < 64:
        side = min(picture.size)
        found = resized(picture, (picture.width - side) / 2, (picture.height - side) / 2, side)
    return found


def resized(picture: Image, left: float, top: float, side: float) -> Array:
    from PIL import Image

    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box, reducing_gap=2))


def one(picture: Array, height: int, width: int, smallest: float, rng: Generator) -> Array:
    """One crop (3, height, width) of a picture (H, W, 4), over a gradient where it is transparent.

    Its scale is `smallest` to 1 of the greatest that fits, but never enlarges: a smaller picture lies on a gradient.
    """
    from PIL import Image

    high, wide = picture.shape[:2]
    most = min(high / height, wide / width)
    found = np.zeros((height, width, 4), np.uint8)
    if most >= 1:
        scale = max(1.0, most * rng.uniform(smallest, 1))
        left, top = rng.uniform(0, wide - scale * width), rng.uniform(0, high - scale * height)
        box = (left % 1, top % 1, left % 1 + scale * width, top % 1 + scale * height)
        part = picture[int(top) : int(top) + ceil(box[3]), int(left) : int(left) + ceil(box[2])]
        box = (*box[:2], min(box[2], part.shape[1]), min(box[3], part.shape[0]))
        resized = Image.fromarray(part).resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=2)
        found = np.asarray(resized)
    else:
        part = picture[max(0, high - height) // 2 :, max(0, wide - width) // 2 :][:height, :width]
        top, left = (int(rng.integers(room + 1)) for room in (height - part.shape[0], width - part.shape[1]))
        found[top : top + part.shape[0], left : left + part.shape[1]] = part
    if found[..., 3].min() == 255:
        return found[..., :3].transpose(2, 0, 1)
    pixels: Array = composed(found[None], rng)[0]
    return pixels


def composed(crops: Array, rng: Generator) -> Array:
    """Crops (N, H, W, 4) over gradients from one random color to another, as (N, 3, H, W)."""
    n, height, width, _ = crops.shape
    angle = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height))
    ramp = (0.5 + (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2))[..., None]
    ends = rng.uniform(0, 255, (2, n, 1, 1, 3))
    opaque = crops[..., 3:] / 255
    mixed = opaque * crops[..., :3] + (1 - opaque) * (ends[0] + ramp * (ends[1] - ends[0]))
    pixels: Array = np.rint(mixed).astype(np.uint8)
    return pixels.transpose(0, 3, 1, 2)


# --- tiny ImageNet -------------------------------------------------------------------------------------------------


def tiny_imagenet(site: Site) -> Arrays:
    """The folder tiny-imagenet-200: train/CLASS/images/*.JPEG; val/images and val/val_annotations.txt are the test."""
    folder = find("tiny-imagenet-200", site)
    numbers = {name: number for number, name in enumerate(sorted(path.name for path in (folder / "train").iterdir()))}
    train = [(path, numbers[path.parts[-3]]) for path in sorted(folder.glob("train/*/images/*"))]
    lines = [line.split("\t") for line in read_text(folder / "val" / "val_annotations.txt").splitlines()]
    test = [(folder / "val" / "images" / line[0], numbers[line[1]]) for line in lines]
    arrays: Arrays = {}
    for split, listed in ("train", train), ("test", test):
        with bar(f"reading {split}", len(listed), show=site.progress) as tick:
            arrays[f"{split}_x"] = decoded([path for path, _ in listed], tick)
        arrays[f"{split}_y"] = np.array([number for _, number in listed], np.int64)
    return arrays


def decoded(paths: Sequence[Path], tick: Tick) -> Array:
    """Pictures of 64 x 64, some of them gray, as (N, 3, 64, 64)."""
    pixels = np.empty((len(paths), 3, 64, 64), np.uint8)
    for number, path in enumerate(paths):
        pixels[number] = np.asarray(header(content(path)).convert("RGB")).transpose(2, 0, 1)
        tick(number + 1)
    return pixels
