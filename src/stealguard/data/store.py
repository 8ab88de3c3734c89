"""The store: one safetensors file a set, uint8 arrays with the hash and the source of them in its header.

Files appear in one step (written aside, then renamed) under a lock for each set, so that whatever is there is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stealguard.data.formats import Arrays
from stealguard.errors import FetchError
from stealguard.files import check_regular

RECORDED = "recorded, not verified (no hash is known beforehand: the first fetch is trusted)"


class Note(NamedTuple):
    """What is written about a stored set: SHA-256 of its arrays, where they came from, and the hash asked for or ''."""

    sha256: str
    source: str
    expected: str

    @property
    def state(self) -> str:
        return "verified" if self.sha256 == self.expected else RECORDED


def home(root: Path | str | None = None) -> Path:
    """The store's folder: `root`, else `$STEALGUARD_DATA`, else the user's cache folder."""
    if root is None:
        root = os.environ.get("STEALGUARD_DATA") or None
    if root is None:
        from platformdirs import user_cache_path

        root = user_cache_path("stealguard", appauthor=False)
    return Path(root).expanduser()


def place(name: str, root: Path) -> Path:
    return root / f"{name}.safetensors"


def digest(arrays: Arrays) -> str:
    """SHA-256 over each array's name, type, shape and values, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.data)
    return total.hexdigest()


def note(path: Path) -> Note | None:
    """What the header of a stored set says; None when the file is absent, truncated or no such file."""
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path)
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
        return Note(header["sha256"], header["source"], header["expected"])
    except (OSError, SafetensorError, KeyError):
        return None


def read(path: Path) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        check_regular(path)
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise FetchError(f"{path} cannot be read ({error}); delete it and fetch the set again") from error


def write(path: Path, arrays: Arrays, note: Note, work: Path) -> None:
    """Put the arrays at `path` in one step; `work` is a folder on the same file system."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    part = work / path.name
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, part, metadata=note._asdict())
    except SafetensorError as error:  # how it calls a full disk
        raise OSError(str(error)) from error
    part.chmod(0o644)  # a store may be shared
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


@contextmanager
def workplace(name: str, root: Path) -> Iterator[Path]:
    """A fresh folder inside the store for the making of one set, held by one process at a time and removed at the end.

    What a killed process left behind is removed by the next one.
    """
    from filelock import FileLock

    corner = root / ".work"
    try:
        corner.mkdir(parents=True, exist_ok=True)
        with FileLock(corner / f"{name}.lock"):
            mine = corner / name
            shutil.rmtree(mine, ignore_errors=True)
            mine.mkdir(exist_ok=True)
            try:
                yield Path(tempfile.mkdtemp(dir=mine))
            finally:
                shutil.rmtree(mine, ignore_errors=True)
    except OSError as error:
        raise FetchError(f"Set `{name}` cannot be stored in {root}: {error}") from error
