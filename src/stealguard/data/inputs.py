"""Inputs by row: what is asked for is decoded and converted, and nothing else is held as floating-point numbers."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stealguard.checks import check_range
from stealguard.data.scaling import Scaling
from stealguard.errors import require
from stealguard.identity import fingerprint, tensor_hash

T = TypeVar("T")
S = TypeVar("S")

Index = Tensor | slice | int | Sequence[int]

CHUNK = 64 * 2**20  # bytes of float32 that a pass over all rows holds at once
LUMA = 0.299, 0.587, 0.114  # of red, green and blue, in gray


class Inputs(Protocol):
    """N inputs that can be read by row, as a tensor can: `len`, `shape` (N, ...) and indexing give the same."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape of one input)."""
        ...

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of what the inputs are made from, as it was read: no scaling is part of it."""
        ...

    @property
    def unit(self) -> bool:
        """Whether rows are in [0, 1] for certain: pixels are, and numbers that have been scaled."""
        ...

    @property
    def made(self) -> bool:
        """Whether this program draws the inputs, so that none can be one of a task's."""
        ...

    @property
    def held(self) -> bool:
        """Whether rows are in memory, so that nothing is gained by reading them ahead."""
        ...

    def __len__(self) -> int: ...

    def rows(self, index: Tensor, /) -> Tensor:
        """The inputs of these rows, (n, *shape), float32 in [0, 1]."""
        ...

    def numbers(self, index: Tensor, /) -> Tensor:
        """The inputs of these rows, (n, *shape), as `rows` gives them but in the users' units, float32 or float64."""
        ...

    def scaled(self, scaling: Scaling, /) -> Inputs:
        """The same inputs, whose rows are `scaling.to01` of their numbers. Pixels are returned as they are."""
        ...

    def __getitem__(self, index: Index, /) -> Tensor:
        """`rows` by a tensor of rows, a mask, a slice or a list; one input, (*shape), by its number."""
        ...


class ByRow:
    """What all kinds of inputs have in common: everything follows from `rows`, `shape` and `hash`."""

    shape: tuple[int, ...]
    unit: bool = True
    made: bool = False
    held: bool = False

    @property
    def hash(self) -> str:
        raise NotImplementedError

    def rows(self, index: Tensor, /) -> Tensor:
        raise NotImplementedError

    def numbers(self, index: Tensor, /) -> Tensor:
        return self.rows(index)

    def scaled(self, scaling: Scaling, /) -> Inputs:
        return self

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index, /) -> Tensor:
        if isinstance(index, slice):
            return self.rows(torch.arange(*index.indices(len(self))))
        rows = torch.as_tensor(index)
        if rows.dtype == torch.bool:
            return self.rows(rows.nonzero().squeeze(1))
        if rows.numel() and not (-len(self) <= int(rows.min()) and int(rows.max()) < len(self)):
            raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} of {len(self)}")
        rows = torch.where(rows < 0, rows + len(self), rows).long()
        return self.rows(rows) if rows.dim() else self.rows(rows[None])[0]


class Stored(ByRow):
    """Inputs in memory, as they were stored.

    Args:
        x: floating numbers, or uint8 or bool, (N, *shape). It is not copied.
        pixels: whether uint8 are pixels, of which 255 stands for 1, and not numbers (flags, grades).
        scaling: from the numbers to [0, 1]; without one they must be there already.
    """

    held = True

    def __init__(self, x: Tensor, *, pixels: bool | None = None, scaling: Scaling | None = None):
        self._x, self.shape, self.dtype, self._scaling = x, tuple(x.shape), x.dtype, scaling
        self.pixels = x.dtype == torch.uint8 if pixels is None else pixels
        self.unit = self.pixels or scaling is not None

    def numbers(self, index: Tensor, /) -> Tensor:
        part = self._taken(index)
        if self.pixels:
            return part.to(torch.float32).div_(255)
        return part if part.dtype == torch.float64 else part.to(torch.float32)

    def rows(self, index: Tensor, /) -> Tensor:
        part = self.numbers(index)
        return part.to(torch.float32) if self._scaling is None else self._scaling.to01(part)

    def scaled(self, scaling: Scaling, /) -> Inputs:
        if self.pixels:
            return self
        other = copy.copy(self)
        other._scaling, other.unit = scaling, True
        return other

    def _taken(self, index: Tensor) -> Tensor:
        """These rows as they were stored, in memory of their own."""
        return self._x[index.to(self._x.device)]

    @cached_property
    def hash(self) -> str:
        return tensor_hash(self._x)


class Filed(Stored):
    """Inputs in a file, one after the other, which are read when they are asked for. They hash as those in memory do.

    Args:
        path: the file, which is not changed meanwhile.
        start: the byte at which the first row begins.
        shape: (N, *shape).
        kind: NumPy's type of the numbers: floating, uint8 or bool.
        pixels: whether uint8 are pixels.
    """

    held = False

    def __init__(self, path: Path, start: int, shape: tuple[int, ...], kind: np.dtype[Any], *, pixels: bool = False):
        self._path, self._start, self._kind = path, start, kind
        self.shape, self.pixels, self.unit, self._scaling = shape, pixels, pixels, None
        self.dtype = torch.from_numpy(np.empty(0, kind.newbyteorder("="))).dtype

    def _taken(self, index: Tensor) -> Tensor:
        part = np.empty((len(index), *self.shape[1:]), self._kind)
        size = part[:1].nbytes
        with self._path.open("rb", buffering=0) as file:
            for row, number in zip(part.reshape(len(index), -1).view(np.uint8), index.tolist(), strict=True):
                file.seek(self._start + number * size)
                short = file.readinto(row.data) != size
                require(not short, "data", "a file that stays as long as it was", self._path)
        return torch.from_numpy(part.astype(self._kind.newbyteorder("="), copy=False))

    @cached_property
    def hash(self) -> str:
        digest = hashlib.sha256(f"{self.shape} {self.dtype}".encode())
        for rows in chunks(self):
            digest.update(self._taken(rows).numpy().data)
        return digest.hexdigest()


class Subset(ByRow):
    """Some rows of other inputs, in an order of their own."""

    def __init__(self, whole: Inputs, index: Tensor):
        self._whole, self._index = whole, index
        self.shape, self.unit = (len(index), *whole.shape[1:]), whole.unit
        self.made, self.held = whole.made, whole.held

    def rows(self, index: Tensor, /) -> Tensor:
        return self._whole.rows(self._index[index.to(self._index.device)])

    def numbers(self, index: Tensor, /) -> Tensor:
        return self._whole.numbers(self._index[index.to(self._index.device)])

    def scaled(self, scaling: Scaling, /) -> Inputs:
        whole = self._whole.scaled(scaling)
        return self if whole is self._whole else Subset(whole, self._index)

    @cached_property
    def hash(self) -> str:
        return fingerprint([self._whole.hash, tensor_hash(self._index)])


class Joined(ByRow):
    """Inputs of several kinds, one after the other."""

    def __init__(self, parts: Sequence[Inputs]):
        self._parts = list(parts)
        self._starts = [0, *accumulate(len(part) for part in parts)]
        self.shape = (self._starts[-1], *parts[0].shape[1:])
        self.unit = all(part.unit for part in parts)
        self.made, self.held = all(part.made for part in parts), all(part.held for part in parts)

    def rows(self, index: Tensor, /) -> Tensor:
        found = torch.empty(len(index), *self.shape[1:])
        for start, part in zip(self._starts, self._parts, strict=False):
            here = (index >= start) & (index < start + len(part))
            if here.any():
                found[here] = part.rows(index[here] - start)
        return found

    def scaled(self, scaling: Scaling, /) -> Inputs:
        return Joined([part.scaled(scaling) for part in self._parts])

    @cached_property
    def hash(self) -> str:
        return fingerprint([part.hash for part in self._parts])


class Resized(ByRow):
    """Images (N, C, H, W) of other inputs with the channels and the size of `shape`: gray by luma, then bilinear."""

    def __init__(self, whole: Inputs, shape: tuple[int, ...]):
        self._whole = whole
        self.shape, self.unit = (len(whole), *shape), whole.unit

    def rows(self, index: Tensor, /) -> Tensor:
        channels, *size = self.shape[1:]
        x = self._whole.rows(index)
        if x.shape[1] != channels:
            gray = (x * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True) if x.shape[1] == 3 else x
            x = gray.expand(-1, channels, -1, -1)
        return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)

    def scaled(self, scaling: Scaling, /) -> Inputs:
        return Resized(self._whole.scaled(scaling), self.shape[1:])

    @cached_property
    def hash(self) -> str:
        return fingerprint([self._whole.hash, list(self.shape[1:])])


THREADS = min(8, os.cpu_count() or 1)
AHEAD = 256  # of what is given, that the threads may be ahead of what takes the results


def parallel(work: Callable[[S], T], given: Sequence[S]) -> Iterator[T]:
    """`work` of each, in order, by a few threads: decoders, for one, run beside each other."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(given), AHEAD):
            yield from pool.map(work, given[start : start + AHEAD])


WAITING = 2  # batches, at most, that are read while the present one is used


def ahead(work: Callable[[S], T], given: Iterable[S]) -> Iterator[T]:
    """`work` of each, in order; a thread does the next ones meanwhile, a few at most."""
    with ThreadPoolExecutor(1) as reader:
        waiting: deque[Future[T]] = deque()
        try:
            for one in given:
                waiting.append(reader.submit(work, one))
                if len(waiting) > WAITING:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            reader.shutdown(wait=False, cancel_futures=True)


def as_inputs(x: Tensor | Inputs) -> Inputs:
    """A tensor (N, *shape) as inputs; inputs as they are."""
    return Stored(x) if isinstance(x, Tensor) else x


def chunks(x: Inputs, most: int | None = None) -> Iterator[Tensor]:
    """The numbers of all rows in order, as many at a time as make `CHUNK` bytes, or `most` of them."""
    size = max(1, CHUNK // (4 * math.prod(x.shape[1:])))
    size = size if most is None else min(size, most)
    return (torch.arange(start, min(start + size, len(x))) for start in range(0, len(x), size))


def bounds(x: Inputs, parameter: str) -> Scaling:
    """The least and the greatest of the numbers: of each column of a table (N, D), and of all values of other inputs.

    Raises:
        Invalid: `parameter` has NaN or infinite values.
    """
    by_column = len(x.shape) == 2
    found = []
    for rows in chunks(x):
        part = x.numbers(rows)
        found.append(torch.stack(torch.aminmax(part, dim=0) if by_column else torch.aminmax(part)).double())
    low, high = torch.stack([part[0] for part in found]).amin(0), torch.stack([part[1] for part in found]).amax(0)
    if low.isnan().any():
        missing = sum(int(x.numbers(rows).isnan().sum()) for rows in chunks(x))
        require(False, parameter, "free of NaN", f"{missing} NaN")
    check_range(low.min().item(), high.max().item(), parameter, unit=False)
    return Scaling(tuple(low.reshape(-1).tolist()), tuple(high.reshape(-1).tolist()))


def row_hashes(x: Inputs) -> NDArray[np.uint64]:
    """A 64-bit hash of each row's float32 values in [0, 1], (N,): equal inputs have equal hashes, however stored.

    For example `np.isin(row_hashes(pool), row_hashes(task.test.x))` are the rows of a pool that are test inputs. It
    reads every row once. Each half is the upper half of a sum of the values' bits times random odd numbers, so that two
    different rows have equal hashes with a probability of 2^-64. The lower halves are weaker.
    """
    words, hashes = math.prod(x.shape[1:]), np.empty(len(x), np.uint64)
    factors = np.random.default_rng(0).integers(0, 2**64, (2, words), dtype=np.uint64) | np.uint64(1)
    for rows in chunks(x):
        part = (x.rows(rows) + 0.0).cpu().contiguous().numpy()  # -0 + 0 is 0
        bits = part.reshape(len(rows), words).view(np.uint32)
        upper, lower = (np.einsum("ij,j->i", bits, of) >> np.uint64(32) for of in factors)
        hashes[rows[0] : rows[-1] + 1] = upper << np.uint64(32) | lower
    return hashes
