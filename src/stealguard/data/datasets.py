"""Torch Datasets, each read once: what a random one gives the first time is what it is from then on."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from stealguard.data.arrays import described, tensor
from stealguard.data.labels import Words
from stealguard.errors import Invalid, require
from stealguard.seeds import seeded

Items = tuple[Tensor, Words | None]

_READ: dict[int, Items] = {}  # by the object's id, for as long as it lives


def read(data: Dataset[Any], parameter: str) -> Items:
    """All inputs (N, *shape) of a Dataset of x or (x, y), and their labels or None.

    An object is read once in a process, under a fixed seed of torch, and its rows are kept as long as it lives: changes
    that are made to it later are not seen.

    Raises:
        Invalid: the items are no inputs, or not of one shape and type, or only some have labels.
    """
    if id(data) not in _READ:
        with seeded(0):
            _READ[id(data)] = _stacked(data, parameter)
        weakref.finalize(data, _READ.pop, id(data), None)
    return _READ[id(data)]


def _stacked(data: Dataset[Any], parameter: str) -> Items:
    require(hasattr(data, "__len__"), parameter, "a Dataset with a length", type(data).__name__)
    n = len(data)  # type: ignore[arg-type]
    require(n > 0, parameter, "not empty", "a Dataset of 0 items")
    pairs = (_pair(item, parameter) for item in _items(data, n))
    whole = torch.empty(0)
    labels: list[tuple[Any, ...]] = []
    for x, label in pairs:
        if not labels:
            whole = x.new_empty(n, *x.shape)
        require(not labels or len(label) == len(labels[0]), parameter, "of items all with labels or none", "both")
        if x.shape != whole.shape[1:] or x.dtype != whole.dtype:
            found = " and ".join(f"{tuple(one.shape)} {one.dtype}" for one in (whole[0], x))
            raise Invalid(parameter, "a Dataset of items of one shape and type", found)
        whole[len(labels)] = x
        labels.append(label)
    require(len(labels) == n, parameter, f"a Dataset of {n} items, as its length says", len(labels))
    return whole, _words([label for (label,) in labels], parameter) if labels[0] else None


def _items(data: Dataset[Any], n: int) -> Iterator[Any]:
    return islice(iter(data), n) if isinstance(data, IterableDataset) else (data[i] for i in range(n))


def _pair(item: Any, parameter: str) -> tuple[Tensor, tuple[Any, ...]]:
    """The input of an item, and its label if it has one."""
    pair = item if isinstance(item, tuple | list) else (item,)
    rule = "a Dataset of tensors x or of (x, y) (give it a transform that makes tensors)"
    fits = len(pair) in (1, 2) and isinstance(pair[0], Tensor | np.ndarray)
    require(fits, parameter, rule, f"items of {described(item)}")
    return tensor(pair[0], parameter), tuple(pair[1:])


def _words(labels: list[Any], parameter: str) -> Words:
    """Integer labels as a tensor, words as an array."""
    if all(isinstance(label, str) for label in labels):
        return np.array(labels)
    try:
        return torch.tensor([operator.index(label) for label in labels])
    except (TypeError, ValueError, RuntimeError) as error:
        raise Invalid(parameter, "a Dataset with integer labels", f"labels such as {labels[0]!r:.40}") from error
