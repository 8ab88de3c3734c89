"""NumPy archives (.npz) from anywhere: nothing is unpickled, and no more is unpacked than the file's size warrants.

Large inputs of archives that are not compressed (`numpy.savez`) stay in the file and are read by row.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from stealguard.data.arrays import DARK
from stealguard.data.formats import Array, allowed
from stealguard.data.inputs import Filed, chunks
from stealguard.errors import Invalid, require

KEYS = ("train_x", "train_y", "test_x", "test_y")
HELD = 512 * 2**20  # bytes of inputs that are read into memory; what is larger stays in the file, where it can

Content = Mapping[str, Array | Filed]


class _Header(NamedTuple):
    """What an array's header says, and the bytes that it takes."""

    shape: tuple[int, ...]
    fortran: bool
    kind: np.dtype[Any]
    size: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.kind.itemsize


def read(path: Path) -> Content:
    """The arrays of an archive, of those that have a meaning here; large inputs by row, where they are not compressed.

    Raises:
        Invalid: the file is no such archive, is damaged, holds Python objects, or would unpack to more than 1 GiB and a
            hundred times its size.
    """
    rule = f"an .npz file of arrays {', '.join(KEYS)}, or x alone"
    require(path.is_file(), "data", rule, f"{path} ({'no regular file' if path.exists() else 'no such file'})")
    try:
        arrays, found = _arrays(path)
    except Exception as error:  # whatever zip, its decoders and NumPy raise for bytes that are wrong
        said = str(error).splitlines() or [type(error).__name__]
        raise Invalid("data", rule, f"{path} ({said[0]})") from error
    whole = "x" in arrays or all(key in arrays for key in KEYS)
    require(whole, "data", rule, f"{', '.join(found) or 'none'} in {path}")
    shapes = {str(arrays[key].shape[1:]) for key in ("train_x", "test_x") if key in arrays}
    require(len(shapes) < 2, "data", "inputs of one shape", " and ".join(sorted(shapes)))
    return arrays


def _arrays(path: Path) -> tuple[dict[str, Array | Filed], list[str]]:
    """The arrays that have a meaning here, and the names of all."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
        headers = {key: _header(archive, key) for key in (*KEYS, "x") if key in found}
        filed = {key for key, header in headers.items() if _stays(archive, key, header)}
        unpacked = sum(header.bytes for key, header in headers.items() if key not in filed)
        if unpacked > allowed(size):
            raise ValueError(f"{unpacked:,} bytes of arrays in {size:,} bytes of file")
        arrays: dict[str, Array | Filed] = {}
        for key, header in headers.items():
            arrays[key] = _filed(path, archive, key, header, arrays) if key in filed else _array(archive, key)
        return arrays, found


def _header(archive: zipfile.ZipFile, key: str) -> _Header:
    """An array's header, which must agree with the archive's directory about the array's size."""
    with archive.open(f"{key}.npy") as file:
        version = npy.read_magic(file)
        shape, fortran, kind = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version](file)
        header = _Header(shape, fortran, kind, file.tell())
    if kind.hasobject:
        raise ValueError(f"{key} holds pickled Python objects")
    if header.size + header.bytes != archive.getinfo(f"{key}.npy").file_size:
        raise ValueError(f"{key} has another size than its header says")
    return header


def _stays(archive: zipfile.ZipFile, key: str, header: _Header) -> bool:
    """Whether an array is read by row: inputs that are large and lie in the file as they are in memory."""
    known = archive.getinfo(f"{key}.npy")
    plain = known.compress_type == zipfile.ZIP_STORED and not known.flag_bits & 1 and not header.fortran
    numbers = (header.kind.kind == "f" and header.kind.itemsize <= 8) or header.kind in (np.uint8, np.bool_)
    return key.endswith("x") and plain and numbers and len(header.shape) > 1 and header.bytes > HELD


def _filed(path: Path, archive: zipfile.ZipFile, key: str, header: _Header, others: Content) -> Filed:
    """The array by row. uint8 are pixels or numbers by the rule of `arrays.stored`: of a test split as of its training
    split."""
    place = archive.getinfo(f"{key}.npy").header_offset
    with path.open("rb") as file:
        file.seek(place)
        fixed = file.read(30)  # the member's own header, which ends with the lengths of its name and of its extra field
    start = place + 30 + int.from_bytes(fixed[26:28], "little") + int.from_bytes(fixed[28:30], "little") + header.size
    if start + header.bytes > path.stat().st_size:
        raise ValueError(f"{key} is truncated")
    x = Filed(path, start, header.shape, header.kind)
    first = others.get("train_x")
    if header.kind != np.uint8:
        return x
    dark = not first.pixels if isinstance(first, Filed) and first.dtype == x.dtype else _dark(x)
    return x if dark else Filed(path, start, header.shape, header.kind, pixels=True)


def _dark(x: Filed) -> bool:
    """Whether all numbers are below `DARK`."""
    return all(bool((x.numbers(rows) < DARK).all()) for rows in chunks(x))


def _array(archive: zipfile.ZipFile, key: str) -> Array:
    with archive.open(f"{key}.npy") as file:
        return npy.read_array(file, allow_pickle=False)
