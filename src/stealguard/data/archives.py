"""NumPy archives (.npz) from anywhere: nothing is unpickled, and no more is unpacked than the file's size warrants."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

from numpy.lib import format as npy

from stealguard.data.formats import Array, Arrays, allowed
from stealguard.errors import Invalid, require

KEYS = ("train_x", "train_y", "test_x", "test_y")


def read(path: Path) -> Arrays:
    """The arrays of an archive, of those that have a meaning here.

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


def _arrays(path: Path) -> tuple[Arrays, list[str]]:
    """The arrays that have a meaning here, and the names of all."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
        wanted = [key for key in (*KEYS, "x") if key in found]
        unpacked = sum(_declared(archive, key) for key in wanted)
        if unpacked > allowed(size):
            raise ValueError(f"{unpacked:,} bytes of arrays in {size:,} bytes of file")
        return {key: _array(archive, key) for key in wanted}, found


def _declared(archive: zipfile.ZipFile, key: str) -> int:
    """The bytes of an array as its header and the archive's directory declare them, which must agree."""
    with archive.open(f"{key}.npy") as file:
        version = npy.read_magic(file)
        shape, _, dtype = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version](file)
        header = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{key} holds pickled Python objects")
    declared = math.prod(shape) * dtype.itemsize
    if header + declared != archive.getinfo(f"{key}.npy").file_size:
        raise ValueError(f"{key} has another size than its header says")
    return declared


def _array(archive: zipfile.ZipFile, key: str) -> Array:
    with archive.open(f"{key}.npy") as file:
        return npy.read_array(file, allow_pickle=False)
