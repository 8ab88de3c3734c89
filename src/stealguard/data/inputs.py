"""Inputs by row: what is asked for is decoded and converted, and nothing else is held as floating-point numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from stealguard.identity import fingerprint, tensor_hash

Index = Tensor | slice


class Inputs(Protocol):
    """N inputs that can be read by row, as a tensor can: `len`, `shape` (N, ...) and indexing give the same."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape of one input)."""
        ...

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of what the inputs are made from."""
        ...

    def __len__(self) -> int: ...

    def rows(self, index: Tensor, /) -> Tensor:
        """The inputs of these rows, (n, *shape), float32 in [0, 1]."""
        ...

    def __getitem__(self, index: Index, /) -> Tensor:
        """`rows` by a tensor of rows, a mask or a slice."""
        ...


class _ByRow:
    """What all kinds of inputs have in common: everything follows from `rows`, `shape` and `hash`."""

    shape: tuple[int, ...]

    def rows(self, index: Tensor, /) -> Tensor:
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index, /) -> Tensor:
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        elif index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        return self.rows(index)


class Stored(_ByRow):
    """Inputs in memory, as they were stored: float32 in [0, 1], or uint8, of which 255 stands for 1."""

    def __init__(self, x: Tensor):
        self._x, self.shape = x, tuple(x.shape)

    def rows(self, index: Tensor, /) -> Tensor:
        part = self._x[index.to(self._x.device)]
        return part.to(torch.float32) / 255 if part.dtype == torch.uint8 else part

    @cached_property
    def hash(self) -> str:
        return tensor_hash(self._x)


class Subset(_ByRow):
    """Some rows of other inputs, in an order of their own."""

    def __init__(self, whole: Inputs, index: Tensor):
        self._whole, self._index = whole, index
        self.shape = (len(index), *whole.shape[1:])

    def rows(self, index: Tensor, /) -> Tensor:
        return self._whole.rows(self._index[index.to(self._index.device)])

    @cached_property
    def hash(self) -> str:
        return fingerprint([self._whole.hash, tensor_hash(self._index)])


class Joined(_ByRow):
    """Inputs of several kinds, one after the other."""

    def __init__(self, parts: Sequence[Inputs]):
        self._parts = list(parts)
        self._starts = [0, *accumulate(len(part) for part in parts)]
        self.shape = (self._starts[-1], *parts[0].shape[1:])

    def rows(self, index: Tensor, /) -> Tensor:
        found = torch.empty(len(index), *self.shape[1:])
        for start, part in zip(self._starts, self._parts, strict=False):
            here = (index >= start) & (index < start + len(part))
            if here.any():
                found[here] = part.rows(index[here] - start)
        return found

    @cached_property
    def hash(self) -> str:
        return fingerprint([part.hash for part in self._parts])


def as_inputs(x: Tensor | Inputs) -> Inputs:
    """A tensor (N, *shape) as inputs; inputs as they are."""
    return Stored(x) if isinstance(x, Tensor) else x
