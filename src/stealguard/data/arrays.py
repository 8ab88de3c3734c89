"""Tensors and NumPy arrays of numbers, as tensors on the processor that share their memory where they can."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from stealguard.data.formats import Array
from stealguard.data.inputs import Stored
from stealguard.errors import require

DARK = 32  # uint8 values that are all below it are hardly those of pictures
RULE = "floats, uint8 or bool (integer tokens are not supported; make measurements floats, for example with `.float()`)"


def tensor(x: Tensor | Array, parameter: str) -> Tensor:
    """The values as a dense tensor on the processor, copied only from a GPU and where torch cannot read their memory.

    Raises:
        Invalid: the values are no numbers, or have more than 64 bits.
    """
    if isinstance(x, Tensor):
        require(x.layout == torch.strided, parameter, "a dense tensor", x.layout)
        x = x.detach().cpu()
        return x.to(torch.float32) if x.dtype == torch.bfloat16 else x  # which NumPy and hashes do not know
    require(not isinstance(x, np.ma.MaskedArray), parameter, "an array without masked values", "a masked array")
    require(x.dtype.kind in "fiub", parameter, "an array of numbers", str(x.dtype))
    require(x.dtype.itemsize <= 8, parameter, "an array of numbers of at most 64 bits", str(x.dtype))
    x = x.astype(x.dtype.newbyteorder("="), copy=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an array that cannot be written is not written
        try:
            return torch.from_numpy(x)
        except ValueError:  # strides that torch cannot follow
            return torch.from_numpy(x.copy())


def stored(x: Tensor | Array, parameter: str, *, like: Stored | None = None) -> Stored:
    """Values (N, *shape) as inputs: floating values and bool are numbers, uint8 are pixels or numbers.

    uint8 are pixels, of which 255 stands for 1, if the greatest is at least 32: smaller ones are flags or grades, and 0
    and 1 stand for themselves, not for 0 and 1/255. Those of a test split are what those of `like`, the training split,
    are. Other integers are refused: tokens are no numbers.

    Raises:
        Invalid: the values are not such numbers, or there are none.
    """
    x = tensor(x, parameter)
    small = x.dtype in (torch.uint8, torch.bool)
    require(x.is_floating_point() or small, parameter, RULE, x.dtype)
    require(x.dim() > 1, parameter, "of shape (N, ...) with at least one row", tuple(x.shape))
    require(x.numel() > 0, parameter, "not empty", tuple(x.shape))
    if like is not None and like.dtype == x.dtype:
        return Stored(x, pixels=like.pixels)
    return Stored(x, pixels=x.dtype == torch.uint8 and int(x.max()) >= DARK)


def described(data: object) -> str:
    """The type of what was given, and of its parts."""
    parts = f" of {', '.join(type(part).__name__ for part in data)}" if isinstance(data, tuple | list) else ""
    return f"{type(data).__name__}{parts}"
