"""Labels as users have them, as numbers of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stealguard.checks import check_labels
from stealguard.data.formats import Array
from stealguard.errors import require

Words = Tensor | Array
"""Labels as they were read: integers, or words that `classes` puts in order."""

Classes = int | Sequence[Any] | None
"""How many classes there are, or which, in order, by name or by the values of their labels; None: the labels tell."""


class Numbered(NamedTuple):
    """The labels of one or more splits, each int64 in 0 .. classes - 1, and the names of the classes or none."""

    splits: list[Tensor]
    classes: int
    names: tuple[str, ...]


def numbered(splits: Sequence[tuple[str, Words, int]], classes: Classes) -> Numbered:
    """Number the labels of `splits`, each a parameter's name, its labels and the number of its inputs.

    Args:
        classes: None, where the first split's labels are 0 .. K - 1 and every class has inputs; the number of
            classes; or the classes in order, by name or by the values that stand for them in the labels.

    Raises:
        Invalid: a label is no class, or a class has no inputs and `classes` does not say that this is right.
    """
    fits = classes is None or isinstance(classes, int | list | tuple)
    require(fits, "classes", "a number, or a list of names", classes)
    named = list(classes) if isinstance(classes, list | tuple) else []
    require(len(set(map(str, named))) == len(named), "classes", "different from each other", named)
    found = [_integers(y, name, named) for name, y, _ in splits]
    for y, (name, _, n) in zip(found, splits, strict=True):
        check_labels(y, n, max(int(y.max()) + 1, 1) if y.numel() else 1, name)
    total = classes if isinstance(classes, int) else len(named) or _counted(found[0], splits[0][0])
    require(total >= 2, splits[0][0], "labels of at least 2 classes", total)
    for y, (name, _, n) in zip(found, splits, strict=True):
        check_labels(y, n, total, name)
    return Numbered([y.to(torch.int64) for y in found], total, tuple(map(str, named)))


def _integers(y: Words, parameter: str, named: list[Any]) -> Tensor:
    """The labels (N,) as integers: those that `named` lists by their value are replaced by their place in it."""
    if isinstance(y, Tensor):
        y = y.detach().cpu()
        require(not y.is_floating_point() and not y.is_complex(), parameter, "an integer tensor", y.dtype)
        y = y.numpy()
    require(y.dtype.kind in "iubUS", parameter, "integers, or words that `classes` lists", str(y.dtype))
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.dtype.kind in "US" or (named and not all(isinstance(name, str) for name in named)):
        return torch.from_numpy(_places(y.astype(str), parameter, named))
    return torch.from_numpy(y.astype(np.int64))


def _places(y: Array, parameter: str, named: list[Any]) -> Array:
    """The place of each word in `named`."""
    require(
        bool(named),
        parameter,
        "integers (or name the words in order with `classes`)",
        f"words such as {y[:1].tolist()}",
    )
    words, row = np.unique(y, return_inverse=True)
    place = {str(name): number for number, name in enumerate(named)}
    strange = [word for word in words.tolist() if word not in place]
    require(not strange, parameter, f"labels of `classes`, {', '.join(place)}", ", ".join(strange[:5]))
    return np.asarray([place[word] for word in words.tolist()], np.int64)[row.reshape(y.shape)]


def _counted(y: Tensor, parameter: str) -> int:
    """K, if the labels are 0 .. K - 1 and none is missing."""
    present = y.unique().tolist()
    rule = "0 .. K - 1, every class with inputs (say with `classes` which values there are, in order)"
    shown = ", ".join(map(str, present[:8])) + (f", ... {present[-1]}" if len(present) > 8 else "")
    require(len(present) == present[-1] + 1, parameter, rule, f"labels {shown}")
    return len(present)
