"""Files that are either whole or not there, also after a power loss. Importing this loads no torch."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader, FileIO
from pathlib import Path

from stealguard.errors import disk_error


def opened(path: Path) -> BufferedReader:
    """A regular file, opened to read. Pipes and devices, which may never end, are refused and not waited for.

    Raises:
        OSError: there is no such file, no permission, or it is no regular file.
    """
    return os.fdopen(_regular(path, os.O_RDONLY), "rb")


def appending(path: Path) -> FileIO:
    """A regular file, opened to append to without a buffer, and made if there is none; raises as `opened` does."""
    return os.fdopen(_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab", buffering=0)


def _regular(path: Path, how: int) -> int:
    handle = os.open(path, how | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        _check_regular(os.fstat(handle).st_mode, path)
    except OSError:
        os.close(handle)
        raise
    return handle


def real(path: Path) -> Path:
    """The absolute path with links followed; a loop of links is told by whatever opens it."""
    return Path(os.path.realpath(path))


def check_regular(path: Path) -> None:
    """Raise `OSError` unless a regular file is at `path`: for readers that open it themselves."""
    _check_regular(path.stat().st_mode, path)


def _check_regular(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8."""
    with opened(path) as file:
        return str(file.read(), "utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not.

    File and folder are on the disk when the block has ended: a power loss leaves the old file or the new one. What
    processes of this machine left beside `path` when they were killed is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = f".{path.name}.{_machine()}-"
    _sweep(path.parent, mine)
    with _told(path, mine):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{mine}{os.getpid()}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _told(path: Path, prefix: str) -> Iterator[None]:
    """Let the system's errors name the file at `path`: not its draft, which has that prefix, nor nothing."""
    try:
        yield
    except Exception as e:
        failed = e if isinstance(e, OSError) and e.filename is not None else disk_error(e)
        if failed is not None and (failed.filename is None or Path(str(failed.filename)).name.startswith(prefix)):
            failed.filename = str(path)
        raise


def runs(process: int) -> bool:
    """Whether there is a process of that number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is somebody else's, or there is no such number
        return True
    return True


def _sweep(folder: Path, prefix: str) -> None:
    """Remove the drafts in a folder whose names have the prefix and the number of a process that has ended."""
    with suppress(OSError):  # a folder that cannot be listed can still be written to
        for name in os.listdir(folder):  # noqa: PTH208 - a folder may have many thousands
            number = name.removeprefix(prefix).partition(".")[0]
            if name.startswith(prefix) and number.isdecimal() and len(number) < 20 and not runs(int(number)):
                (folder / name).unlink()


@cache
def _machine() -> str:
    """Eight digits that stand for this machine: others may write to the same folder."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def sync(path: Path) -> None:
    """Have the system write a file's content, or a folder's entries, to the disk.

    File systems that cannot do so for a folder are left alone.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as e:
        if not (path.is_dir() and e.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `*.damaged`, over an older one, so that another can be written; its new path."""
    damaged = path.with_name(f"{path.name}.damaged")
    path.replace(damaged)
    return damaged


def durable_move(source: Path, target: Path) -> None:
    """Rename a file or a folder in one step; when this returns, the new name is on the disk."""
    source.replace(target)
    for folder in {source.parent, target.parent}:
        sync(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is whole or not there."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with opened(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
