"""Where a release is made: a folder that one process holds, checked before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stealguard.errors import StealguardError, require
from stealguard.releases.release import CHECKPOINT, RECIPE, WEIGHTS

LOCK = "lock"


def free(out: str | Path, overwrite: bool) -> Path:
    """The folder that a release is to be written to, with links followed.

    Raises:
        Invalid: something is there that may not be replaced: only a release is, and only with `overwrite`.
    """
    folder = Path(os.path.realpath(out))
    try:
        others = [entry.name for entry in folder.iterdir() if entry.name != _inside(folder).name]
    except FileNotFoundError:
        return folder
    except NotADirectoryError:
        require(False, "out", "a folder", f"the file `{out}`")
    if not others:
        return folder
    release = (folder / RECIPE).is_file() and (folder / WEIGHTS).is_file()
    if release:
        tidy(folder)
    remedy = " (or pass `overwrite`, `--overwrite` on the command line)" if release else "; only a release is replaced"
    require(release and overwrite, "out", f"a folder that does not exist yet{remedy}", f"`{out}`")
    return folder


def check_unfinished(folder: Path) -> None:
    """Refuse to drop the checkpoint of a run that was to write the release at `folder`.

    Raises:
        Invalid: there is one.
        StealguardError: another process is at it.
    """
    checkpoint = _beside(folder) / CHECKPOINT
    if not checkpoint.exists():
        return
    with working(folder):
        rule = "a folder without an unfinished run: `resume` (`--resume`) goes on with it, `overwrite` (`--overwrite`) "
        require(not checkpoint.exists(), "out", rule + "begins anew", f"its checkpoint, `{checkpoint}`")


def tidy(release: Path) -> None:
    """Remove what a process left in a release that was whole when it was killed."""
    for litter in (CHECKPOINT, LOCK):
        (release / litter).unlink(missing_ok=True)


@contextmanager
def working(folder: Path) -> Iterator[Path]:
    """The working folder of the release at `folder`, held by this process; empty ones are removed at the end.

    It stands beside the release's folder, or in it where nothing can be written beside it or the folder is a file
    system of its own, as a container's volume is.

    Raises:
        StealguardError: another process writes the same release, or nothing can be written there.
    """
    from filelock import FileLock, Timeout

    partial = _beside(folder)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = FileLock(partial / LOCK)
        lock.acquire(timeout=0)
    except Timeout as e:
        raise StealguardError(f"Another process is writing the release `{folder}`.") from e
    except OSError as e:
        raise StealguardError(f"The release `{folder}` cannot be written: {e.strerror} (`{e.filename}`).") from e
    try:
        yield partial
    finally:
        lock.release()
        if partial.exists() and {entry.name for entry in partial.iterdir()} <= {LOCK}:
            (partial / LOCK).unlink(missing_ok=True)
            partial.rmdir()


def _beside(folder: Path) -> Path:
    own_file_system = folder.is_dir() and (folder.is_mount() or not os.access(folder.parent, os.W_OK))
    return _inside(folder) if own_file_system else folder.with_name(folder.name + ".partial")


def _inside(folder: Path) -> Path:
    return folder / ".partial"
