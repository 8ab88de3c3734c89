"""Sets at the shape of a task: drawn or cut at its size, or made from the columns of its training inputs.

Every input is a function of the set's name, the shape and its number, so it is made when it is asked for, and a set
takes no memory. Nothing is made at another size and then enlarged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stealguard import data
from stealguard.data.formats import Array
from stealguard.data.generated import cropped, drawn, rendered
from stealguard.data.inputs import ByRow, Inputs, parallel
from stealguard.data.sets import SETS
from stealguard.errors import require
from stealguard.identity import fingerprint, tensor_hash
from stealguard.seeds import derive

KEPT = 256 * 2**20  # bytes of inputs that are kept once they have been made, of sets that take no more in all
PROBED = 16  # inputs that go into the hash
BASE = 2**24  # numbers, at most, of the training inputs that others are made from

Image = Callable[[int], Array]
"""The number of an input -> its pixels (C, H, W), uint8."""
Columns = Callable[[Array], Tensor]
"""The numbers of inputs (n,) -> these, (n, *shape), in [0, 1]."""


def at(name: str, shape: tuple[int, ...], like: Inputs | None = None, *, root: Path | None = None) -> Made:
    """The set `name` with inputs of `shape`.

    Args:
        like: the task's training inputs (M, *shape), for the sets that are made from them.
        root: the folder of the store, where photographs are kept.

    Raises:
        Invalid: the set cannot be made at this shape, or needs `like`.
        FetchError: its photographs cannot be had.
    """
    spec = SETS[name]
    require(spec.fits(shape), "data", f"a set that can be made with inputs of shape {shape}", f"`{name}`")
    if spec.kind == "drawn":
        return Images(name, shape, _drawing(name, shape))
    if spec.kind == "photographs":
        return Images(name, shape, *_cutting(name, shape, root))
    require(like is not None, "data", "a task beside it, from whose training inputs it is made", f"`{name}`")
    assert like is not None  # for mypy
    return MadeOfColumns(name, like)


class Made(ByRow):
    """Inputs that are made when they are asked for: N of them, of any shape.

    The hash is that of the set's name, its shape, what it is made from, and a few of the inputs, so that another
    version of what draws them shows.
    """

    _source: str

    def __init__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype):
        self.name, self.shape, self._dtype = name, (SETS[name].sizes[0], *shape), dtype

    def fresh(self, index: Tensor, /) -> Tensor:
        """These inputs, (n, *shape), made now: uint8 for pixels, else float32 in [0, 1]."""
        raise NotImplementedError

    def rows(self, index: Tensor, /) -> Tensor:
        found = self._once(index.cpu()) if self._keeps else self.fresh(index.cpu())
        return found.to(torch.float32).div_(255) if self._dtype == torch.uint8 else found

    @property
    def _keeps(self) -> bool:
        return math.prod(self.shape) * self._dtype.itemsize <= KEPT

    @cached_property
    def _kept(self) -> tuple[Tensor, Tensor]:
        """The inputs that were made so far, and which these are."""
        return torch.empty(self.shape, dtype=self._dtype), torch.zeros(len(self), dtype=torch.bool)

    def _once(self, index: Tensor) -> Tensor:
        inputs, made = self._kept
        missing = index[~made[index]].unique()
        if len(missing):
            inputs[missing] = self.fresh(missing)
            made[missing] = True
        return inputs[index]

    @cached_property
    def hash(self) -> str:
        some = self.fresh(torch.linspace(0, len(self) - 1, PROBED).long())
        return fingerprint([self.name, list(self.shape), self._source, tensor_hash(some)])


class Images(Made):
    """Images (N, C, H, W), each by a function of its number; `source` stands for what they are cut from."""

    made = True

    def __init__(self, name: str, shape: tuple[int, ...], image: Image, source: str = ""):
        super().__init__(name, shape, torch.uint8)
        self._image, self._source = image, source

    def fresh(self, index: Tensor, /) -> Tensor:
        images = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)
        for place, image in zip(images.numpy(), parallel(self._image, index.tolist()), strict=True):
            place[:] = image
        return images


# Images -----------------------------------------------------------------------------------------------------


def _drawing(name: str, shape: tuple[int, ...]) -> Image:
    """Textures over the whole image, and all else in the square at its middle; in two colors but for gray images."""
    channels, height, width = shape
    side = min(height, width)
    groups = {"glyphs": lambda: list(rendered.scripts().values()), "letters": rendered.latin}

    def plane(number: int) -> Array:
        seed = derive(0, name, *shape, number)
        if name in groups:
            return _framed(rendered.one(groups[name](), side, np.random.default_rng(seed)), height, width)
        rng = torch.Generator().manual_seed(seed)
        if name == "textures":
            return drawn.texture(height, width, rng)
        return _framed(drawn.stroke_drawing(side, rng), height, width)

    def colored(number: int) -> Array:
        rng = np.random.default_rng(derive(0, name, *shape, number, "colors"))
        low, high = rng.uniform(0, 255, (2, channels, 1))
        palette = np.rint(low + (high - low) * np.linspace(0, 1, 256)).astype(np.uint8)
        return palette[:, plane(number)]

    return (lambda number: plane(number)[None]) if channels == 1 else colored


def _framed(square: Array, height: int, width: int) -> Array:
    """A square at the middle of an image (height, width) of zeros."""
    image, side = np.zeros((height, width), np.uint8), len(square)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = square
    return image


def _cutting(name: str, shape: tuple[int, ...], root: Path | None) -> tuple[Image, str]:
    """How crops are cut, and the hash of the pictures that they are cut from, which are read when they are needed."""
    from safetensors import safe_open

    channels, height, width = shape
    path = data.photographs(name, max(height, width), root=root)
    stored = safe_open(path, framework="numpy")
    smallest = cropped.PHOTOGRAPHS[name].smallest
    numbers = [key for key in sorted(stored.keys()) if _usable(stored.get_slice(key).get_shape(), stored, key, shape)]
    require(bool(numbers), "data", f"a set with pictures of at least {height} x {width} pixels", f"`{name}`")

    def image(number: int) -> Array:
        rng = np.random.default_rng(derive(0, name, *shape, number))
        picture = stored.get_tensor(numbers[int(rng.integers(len(numbers)))])
        found = cropped.one(picture, height, width, smallest, rng)
        return found if channels == 3 else cropped.luma(found[None]).astype(np.uint8)

    return image, stored.metadata()["sha256"]


def _usable(size: Sequence[int], stored: object, key: str, shape: tuple[int, ...]) -> bool:
    """Whether a picture covers a crop, or is a drawing that can lie on a gradient: transparent somewhere."""
    covers = size[0] >= shape[1] and size[1] >= shape[2]
    return covers or bool((stored.get_tensor(key)[..., 3] < 255).any())  # type: ignore[attr-defined]


# Tables and signals -----------------------------------------------------------------------------------------


class MadeOfColumns(Made):
    """Inputs (N, *shape) in [0, 1] that are made from the numbers of others: by column, as mixtures, by spectrum."""

    def __init__(self, name: str, like: Inputs):
        super().__init__(name, tuple(like.shape[1:]), torch.float32)
        self._like, self._source = like, "" if name == "uniform" else like.hash

    @cached_property
    def _base(self) -> Tensor:
        """Training inputs (M, D) in [0, 1], as many at most as have `BASE` numbers, drawn by the set's name."""
        most = max(2, BASE // math.prod(self.shape[1:]))
        order = torch.randperm(len(self._like), generator=torch.Generator().manual_seed(derive(0, self.name, "base")))
        return self._like.rows(order[:most]).flatten(1)

    def fresh(self, index: Tensor, /) -> Tensor:
        make = {
            "uniform": self._uniform, "shuffled": self._shuffled, "mixed": self._mixed, "noise": self._noise,
            "spectrum": self._spectrum,
        }[self.name]  # fmt: skip
        return make(index.numpy()).clamp(0, 1).to(torch.float32).view(len(index), *self.shape[1:])

    def _draws(self, rows: Array, columns: int, what: str = "") -> Tensor:
        return torch.from_numpy(uniform(derive(0, self.name, what), rows, columns))

    def _uniform(self, rows: Array) -> Tensor:
        return self._draws(rows, math.prod(self.shape[1:]))

    def _shuffled(self, rows: Array) -> Tensor:
        picks = (self._draws(rows, self._base.shape[1]) * len(self._base)).long()
        return self._base.gather(0, picks)

    def _mixed(self, rows: Array) -> Tensor:
        """Three training inputs with weights that are uniform on the simplex."""
        picks = (self._draws(rows, 3, "picks") * len(self._base)).long()
        weights = -(1 - self._draws(rows, 3, "weights")).log()
        weights = weights / weights.sum(dim=1, keepdim=True)
        return (weights[:, :, None] * self._base[picks]).sum(dim=1)

    def _noise(self, rows: Array) -> Tensor:
        """Box and Muller's normal numbers, scaled to each column."""
        columns = self._base.shape[1]
        radius = (-2 * (1 - self._draws(rows, columns, "radius")).log()).sqrt()
        normal = radius * (math.tau * self._draws(rows, columns, "angle")).cos()
        return self._base.mean(dim=0) + self._base.std(dim=0) * normal

    def _spectrum(self, rows: Array) -> Tensor:
        """A training signal whose phases are drawn anew, the same for all channels; its mean stays."""
        shape = self.shape[1:]
        picks = (self._draws(rows, 1, "picks") * len(self._base)).long()[:, 0]
        amplitudes = torch.fft.rfft(self._base[picks].view(-1, *shape).double())
        turns = torch.polar(torch.ones(()).double(), math.tau * self._draws(rows, amplitudes.shape[-1], "phases"))
        turns[:, 0] = 1
        return torch.fft.irfft(amplitudes * turns[:, None, :], n=shape[-1]).flatten(1)


GOLDEN, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def uniform(seed: int, rows: Array, columns: int) -> Array:
    """MadeOfColumns (n, columns), uniform in [0, 1), each a function of the seed, its row's number and its column.

    They are those of SplitMix64 (Steele, Lea and Flood, 2014), which needs no state: the same whatever rows are asked.
    """
    place = rows.astype(np.uint64)[:, None] * np.uint64(columns) + np.arange(columns, dtype=np.uint64)
    z: Array = np.uint64(seed) + (place + np.uint64(1)) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    return np.asarray(((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53)
