"""Pictures in files: looked at once for their size, mode and content, and decoded into memory or when asked for."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from stealguard.data.formats import Array
from stealguard.data.inputs import ByRow, parallel
from stealguard.data.reading import Fit
from stealguard.errors import Invalid, require

if TYPE_CHECKING:
    from PIL.Image import Image

    from stealguard.data.shards import Member

T = TypeVar("T")

File: TypeAlias = "Path | Member"
"""A file, or a part of one: what can be opened, and named below a folder."""

KEPT = 512 * 2**20  # bytes of pixels: what is no larger is decoded into memory, once
FORMATS = (  # those that decode pixels from the file alone: EPS, for one, would be run by another program
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF"),
    *("WEBP", "XBM", "XPM"),
)
GRAY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
DEEP = {mode for mode in GRAY if mode.startswith("I")}  # 16 bits a pixel
ALPHA = {"RGBA", "RGBa", "LA", "La", "PA"}
ORIENTATION = 0x0112  # EXIF's tag; its value k > 1 says by which of these the picture stands upright
UPRIGHT = (
    *("", "", "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"),
    *("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"),
)


DONE = {
    "crop": "the shorter side is resized, and the center cut out",
    "pad": "the longer side is resized, and the rest is black",
    "stretch": "both sides are resized",
}


class Head(NamedTuple):
    """What is known of a picture before it is decoded; `width` and `height` are those of the upright picture."""

    sha256: bytes
    width: int
    height: int
    mode: str
    transparent: bool
    frames: bool
    turned: bool

    @property
    def gray(self) -> bool:
        return self.mode in GRAY


class Pictures(ByRow):
    """Pictures in files as inputs (N, C, H, W), of one size or brought to one; C is 1 for gray and 3 for color.

    Pixels that take no more than `KEPT` bytes are decoded into memory as uint8 at once, others by row and by a few
    threads whenever they are asked for; the rows are the same.

    Args:
        paths, heads: the files, and what `survey` said of them.
        root: the folder that the hash names the files from.
        color: whether all are read as RGB, or all as gray.
        fit: the size that they are brought to, and how; they have one size where None.
        keep: whether the pixels are decoded at once.

    Raises:
        Invalid: a file cannot be decoded; names it.
    """

    def __init__(
        self, paths: Sequence[File], heads: Sequence[Head], *, root: Path, color: bool, keep: bool,
        fit: Fit | None = None,
    ):  # fmt: skip
        self._paths, self._root, self._color, self._fit = list(paths), root, color, fit
        self._contents = [head.sha256 for head in heads]
        self.shape = (len(paths), 3 if color else 1, *size_of(heads, fit))
        self._kept = self._decoded(range(len(paths))) if keep else None
        self.held = keep

    def rows(self, index: Tensor, /) -> Tensor:
        pixels = self._decoded(index.tolist()) if self._kept is None else self._kept[index]
        return pixels.to(torch.float32).div_(255)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the files' relative paths and contents, in order, and of how they are decoded."""
        way = "" if self._fit is None else f" {self._fit.way}"
        digest = hashlib.sha256(f"{self.shape} {'RGB' if self._color else 'L'}{way}\n".encode())
        for path, content in zip(self._paths, self._contents, strict=True):
            digest.update(f"{path.relative_to(self._root).as_posix()}\0".encode(errors="surrogateescape"))
            digest.update(content)
        return digest.hexdigest()

    def _decoded(self, index: Sequence[int]) -> Tensor:
        """The pixels (n, C, H, W), uint8."""
        pixels = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)
        paths = [self._paths[i] for i in index]
        rule = f"pictures that stay {self.shape[3]}x{self.shape[2]}"
        for path, place, picture in zip(paths, pixels.numpy(), parallel(self._decode, paths), strict=True):
            require(picture.shape == place.shape, "data", rule, f"{path} {picture.shape}")
            place[:] = picture
        return pixels

    def _decode(self, path: File) -> Array:
        return decode(path, color=self._color, fit=self._fit)


def size_of(heads: Sequence[Head], fit: Fit | None) -> tuple[int, int]:
    """Height and width of the pictures as they are read."""
    return (heads[0].height, heads[0].width) if fit is None else (fit.height, fit.width)


def settled(heads: Sequence[Head], fit: Fit | None) -> tuple[Fit | None, bool, bool]:
    """How the pictures are read: the fit with its number of channels, whether in color, and whether into memory."""
    channels = fit.channels if fit is not None and fit.channels else 1 if all(head.gray for head in heads) else 3
    keep = len(heads) * math.prod(size_of(heads, fit)) * channels <= KEPT
    return None if fit is None else replace(fit, channels=channels), channels == 3, keep


def survey(paths: Sequence[File], fit: Fit | None = None) -> list[Head]:
    """The heads of the files, in order.

    Raises:
        Invalid: a file is no picture, has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels, or is of another size and
            there is no size that all are brought to.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Pillow finds odd in a file that it can read
        heads = list(parallel(head, paths))
    odd = next((i for i, seen in enumerate(heads) if seen[1:3] != heads[0][1:3]), None)
    if odd is not None and fit is None:
        rule = "pictures of one size (or say with `size` to which size they are brought: 224, for example)"
        found = " and ".join(f"{paths[i]} ({heads[i].width}x{heads[i].height})" for i in (0, odd))
        raise Invalid("data", rule, found)
    return heads


def changes(heads: Sequence[Head], *, color: bool, fit: Fit | None = None) -> Iterator[str]:
    """What decoding converts, one line each, with counts."""
    if fit is not None:
        yield from _resizing(heads, fit)
    modes = Counter(seen.mode for seen in heads if seen.mode != ("RGB" if color else "L"))
    if modes:
        listed = ", ".join(f"{mode} {count}" for mode, count in sorted(modes.items()))
        yield f"Pictures of other modes, which were converted to {'color' if color else 'gray'}: {listed}."
    for count, what in (
        (sum(seen.transparent for seen in heads), "with transparency, which were laid over white"),
        (sum(seen.frames for seen in heads), "with several frames, of which the first is taken"),
        (sum(seen.turned for seen in heads), "turned upright, as their EXIF orientation says"),
    ):
        if count:
            yield f"Pictures {what}: {count}."


def _resizing(heads: Sequence[Head], fit: Fit) -> Iterator[str]:
    sizes = {(seen.width, seen.height) for seen in heads}
    if sizes != {(fit.width, fit.height)}:
        low, high = (f"{w} x {h}" for w, h in (min(sizes, key=math.prod), max(sizes, key=math.prod)))
        from_ = low if low == high else f"{low} to {high}"
        yield f"Pictures of {from_} pixels are brought to {fit.width} x {fit.height} ({DONE[fit.way]})."
    small = sum(seen.width < fit.width or seen.height < fit.height for seen in heads)
    if small:
        yield f"Pictures smaller than {fit.width} x {fit.height}, which were enlarged: {small}."


def head(path: File) -> Head:
    """What is known of a picture before it is decoded.

    Raises:
        Invalid: the file is no picture that can be read; names it.
    """

    def seen(image: Image, sha256: bytes) -> Head:
        turn, size = _turn(image), _stored_size(image)
        width, height = size[::-1] if turn >= 5 else size
        frames = image.format != "MPO" and bool(getattr(image, "is_animated", False))  # MPO: previews
        return Head(sha256, width, height, image.mode, _transparent(image), frames, turn > 1)

    def read() -> Head:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").digest()
            file.seek(0)
            with _opened(file) as image:
                return seen(image, sha256)

    return _readable(path, read)


def decode(path: File, *, color: bool, fit: Fit | None = None) -> Array:
    """The pixels of a picture's first frame, upright, (C, H, W), uint8; brought to the size of `fit`, if there is one.

    Raises:
        Invalid: the file is no picture that can be read; names it.
    """

    def read() -> Array:
        with path.open("rb") as file, _opened(file) as image:
            turn = 1 if image.format == "TIFF" else _turn(image)  # Pillow turns a TIFF itself, when it decodes it
            plain = _opaque(image).convert("RGB" if color else "L")
        if turn > 1:
            from PIL.Image import Transpose

            plain = plain.transpose(Transpose[UPRIGHT[turn]])
        if fit is not None and plain.size != (fit.width, fit.height):
            plain = _sized(plain, fit)
        return np.ascontiguousarray(np.atleast_3d(np.asarray(plain)).transpose(2, 0, 1))

    return _readable(path, read)


def _sized(image: Image, fit: Fit) -> Image:
    """The picture in the size of `fit`, by bilinear resampling with antialiasing, as torchvision's `Resize` does it."""
    from PIL import Image
    from PIL.Image import Resampling

    size, width, height = (fit.width, fit.height), image.width, image.height
    if fit.way == "stretch":
        return image.resize(size, Resampling.BILINEAR)
    wide = width * fit.height > height * fit.width  # in relation to the size that is wanted
    if fit.way == "crop":  # the box is that part of the picture whose resized pixels are the center of all of them
        w, h = (width * fit.height // height, fit.height) if wide else (fit.width, height * fit.width // width)
        left, top = round((w - fit.width) / 2), round((h - fit.height) / 2)
        x, y = width / w, height / h
        box = (left * x, top * y, (left + fit.width) * x, (top + fit.height) * y)
        return image.resize(size, Resampling.BILINEAR, box=box)
    w, h = (fit.width, height * fit.width // width) if wide else (width * fit.height // height, fit.height)
    whole = Image.new(image.mode, size)
    whole.paste(image.resize((max(w, 1), max(h, 1)), Resampling.BILINEAR), ((size[0] - w) // 2, (size[1] - h) // 2))
    return whole


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of files that are taken for pictures."""
    from PIL import Image

    return frozenset(suffix for suffix, form in Image.registered_extensions().items() if form in FORMATS)


@cache
def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [form for form in FORMATS if form in Image.OPEN]


def _opened(file: object) -> Image:
    """The picture, of which only the header has been read.

    Raises:
        ValueError: it has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels. (Up to twice as many, Pillow only warns.)
    """
    from PIL import Image

    image = Image.open(file, formats=_formats())  # type: ignore[arg-type]
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and math.prod(image.size) > most:
        raise ValueError(f"{math.prod(image.size):,} pixels: a decompression bomb, above {most:,}")
    return image


def _turn(image: Image) -> int:
    """EXIF's orientation, 1 .. 8, from what stands before the pixels (PNG's own `getexif` would decode them)."""
    from PIL import Image

    turn = Image.Image.getexif(image).get(ORIENTATION, 1)
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _stored_size(image: Image) -> tuple[int, int]:
    """Width and height of the pixels in the file: those of a TIFF are said upright by some versions of Pillow."""
    from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

    return (image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]) if isinstance(image, TiffImageFile) else image.size


def _transparent(image: Image) -> bool:
    return image.mode in ALPHA or "transparency" in image.info


def _opaque(image: Image) -> Image:
    """The picture over white where it is transparent, and with 8 bits where it has 16."""
    from PIL import Image

    if image.mode in DEEP:
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("more than 16 bits a pixel")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if not _transparent(image):
        return image
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)


def _readable(path: File, read: Callable[[], T]) -> T:
    """What `read` gives; whatever a decoder of foreign bytes raises is told as one line that names the file."""
    try:
        return read()
    except Exception as error:
        raise Invalid("data", "readable pictures", f"{path} ({error or type(error).__name__})") from error
