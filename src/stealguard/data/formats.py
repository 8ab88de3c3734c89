"""Decoders: the bytes of published files in, uint8 arrays (N, C, H, W) and int64 labels (N,) out.

A reader takes `read`, a function from a file's name to its bytes, so that folders and archives look alike.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]  # train_x, train_y, test_x, test_y; or x alone
Read = Callable[[str], bytes]
Reader = Callable[[Read], Arrays]


class Damaged(ValueError):
    """A file is not what its name promises; says which file, what was expected and what was found."""

    def __init__(self, name: str, expected: object, found: object):
        super().__init__(f"{name}: expected {expected}, found {found}")


SMALL = 2**30  # bytes that any compressed file may unpack to
RATIO = 100  # and times its own size, where that is more


def allowed(size: int) -> int:
    """How many bytes a compressed file of `size` bytes may unpack to.

    >>> allowed(2**10) == 2**30, allowed(2**30) == 100 * 2**30
    (True, True)
    """
    return max(SMALL, RATIO * size)


def idx(data: bytes, name: str = "idx data") -> Array:
    """Unsigned bytes in the idx format: 0, 0, 8, rank, the sizes as big-endian 32-bit integers, then the values."""
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise Damaged(name, "an idx header (00 00 08 rank, sizes)", data[:4].hex(" ") or "nothing")
    start = 4 + 4 * data[3]
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], ">u4"))
    if len(data) != start + math.prod(shape):
        raise Damaged(name, f"{start + math.prod(shape)} bytes", f"{len(data)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def mnist(read: Read, prefix: str = "", test: str = "t10k") -> Arrays:
    """The four idx files of MNIST and of the sets in its form."""
    arrays = {}
    for split, word in ("train", "train"), ("test", test):
        images, labels = f"{prefix}{word}-images-idx3-ubyte", f"{prefix}{word}-labels-idx1-ubyte"
        arrays[f"{split}_x"] = idx(read(images), images)[:, None]
        arrays[f"{split}_y"] = idx(read(labels), labels).astype(np.int64)
    return arrays


def emnist_letters(read: Read) -> Arrays:
    """EMNIST's letters, upright: the published images are transposed, and the labels run from 1 to 26."""
    arrays = mnist(read, "emnist-letters-", test="test")
    for split in ("train", "test"):
        arrays[f"{split}_x"] = arrays[f"{split}_x"].swapaxes(2, 3)
        arrays[f"{split}_y"] = arrays[f"{split}_y"] - 1
    return arrays


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of plain containers and numpy arrays. Every other name is refused before it is looked up,

    because a pickle may name any function of any module to be called: CIFAR's "python version" has many mirrors, and
    reading a data set must not run code from one.
    """

    _rebuild = np.empty(0).__reduce__()[0]  # lives in numpy.core or numpy._core, by the version that wrote the file
    _allowed = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _rebuild,
        ("numpy._core.multiarray", "_reconstruct"): _rebuild,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"refused `{module}.{name}`: only numpy arrays are read from pickles")
        return self._allowed[module, name]


def arrays_only(data: bytes) -> Any:
    """The object pickled in `data`; `UnpicklingError` when it needs more than containers and numpy arrays."""
    return _ArraysOnly(io.BytesIO(data), encoding="bytes").load()


def _cifar_python(read: Read, train: list[str], test: list[str], key: bytes) -> Arrays:
    arrays = {}
    for split, names in ("train", train), ("test", test):
        batches = [arrays_only(read(name)) for name in names]
        arrays[f"{split}_x"] = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
        arrays[f"{split}_y"] = np.concatenate([np.asarray(batch[key], np.int64) for batch in batches])
    return arrays


def _cifar_binary(read: Read, train: list[str], test: list[str], labels: int) -> Arrays:
    """Records of `labels` label bytes, of which the last counts, and 3 x 32 x 32 pixels."""
    arrays = {}
    for split, names in ("train", train), ("test", test):
        records = np.concatenate([_records(read(name), labels + 3072, name) for name in names])
        arrays[f"{split}_x"] = records[:, labels:].reshape(-1, 3, 32, 32)
        arrays[f"{split}_y"] = records[:, labels - 1].astype(np.int64)
    return arrays


def _records(data: bytes, size: int, name: str) -> Array:
    if not data or len(data) % size:
        raise Damaged(name, f"records of {size} bytes", f"{len(data)} bytes")
    return np.frombuffer(data, np.uint8).reshape(-1, size)


CIFAR10_TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


def cifar10_python(read: Read) -> Arrays:
    return _cifar_python(read, CIFAR10_TRAIN, ["test_batch"], b"labels")


def cifar10_binary(read: Read) -> Arrays:
    return _cifar_binary(read, [f"{name}.bin" for name in CIFAR10_TRAIN], ["test_batch.bin"], labels=1)


def cifar100_python(read: Read) -> Arrays:
    return _cifar_python(read, ["train"], ["test"], b"fine_labels")


def cifar100_binary(read: Read) -> Arrays:
    return _cifar_binary(read, ["train.bin"], ["test.bin"], labels=2)


def cifar10_sheets(read: Read) -> Arrays:
    """PNG sheets with one image a row: 1024 pixels are 32 x 32. The label files' names are misspelt where published."""
    arrays = {}
    for split, names in ("train", CIFAR10_TRAIN), ("test", ["test_batch"]):
        sheets = [_sheet(read(f"{name}.png"), f"{name}.png") for name in names]
        arrays[f"{split}_x"] = np.concatenate(sheets).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
        arrays[f"{split}_y"] = np.asarray(json.loads(read(f"{split}_lables.json")), np.int64)
    return arrays


def _sheet(data: bytes, name: str) -> Array:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        if image.width != 1024 or image.mode != "RGB":
            raise Damaged(name, "1024 RGB pixels a row", f"{image.width} pixels, {image.mode}")
        return np.asarray(image)


def svhn(read: Read) -> Arrays:
    """SVHN's cropped digits: MATLAB files with pixels (32, 32, 3, N) and labels 1..10, where 10 is the digit 0."""
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
    except ImportError:
        raise OSError("reading .mat files needs scipy: pip install scipy") from None

    arrays = {}
    for split in ("train", "test"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # scipy warns of bytes that it cannot read rightly
            content = loadmat(io.BytesIO(read(f"{split}_32x32.mat")))
        arrays[f"{split}_x"] = content["X"].transpose(3, 2, 0, 1)
        arrays[f"{split}_y"] = content["y"].ravel().astype(np.int64) % 10
    return arrays
