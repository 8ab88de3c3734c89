"""The folder of a comparison: where victims and rows lie, what is whole, and what is set aside to be made again.

`releases/` has the victims and `cells/` the rows of each block, under names that are hashes of all they follow from.
`audit.sqlite` collects the rows, and `attempts.jsonl` says which process tried which cell, and when.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from stealguard.comparing.cells import GridCell, PlannedVictim
from stealguard.errors import StealguardError
from stealguard.files import read_text, sha256, write_text
from stealguard.releases import workplace
from stealguard.releases.release import WEIGHTS, read_recipe
from stealguard.results import Row

NO_FILE = {errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENXIO}  # what is there is no regular file


def release_folder(home: Path, victim: PlannedVictim) -> Path:
    """Where the victim's release lies, or will."""
    return home / "releases" / victim.folder


def cell_file(home: Path, key: str) -> Path:
    """Where the rows of the cell lie, or will."""
    return home / "cells" / f"{key}.json"


def made(folder: Path) -> Path:
    """The folder, made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def done(home: Path, cell: GridCell) -> bool:
    """Whether the cell need not be done again: its release is whole, or none of its rows says that it failed."""
    if cell.block is None:
        return whole(release_folder(home, cell.victim))
    return finished(cell_file(home, cell.key))


def tidy(home: Path, cell: GridCell) -> None:
    """Remove what a process left beside the files of a cell that was done when it was killed."""
    if cell.block is None:
        workplace.tidy(release_folder(home, cell.victim))
    else:
        shutil.rmtree(scratch(home, cell.key), ignore_errors=True)


def scratch(home: Path, key: str) -> Path:
    """Where the rows of a cell and the answers that they follow from are kept until the cell is done."""
    return cell_file(home, key).with_suffix("")


def whole(folder: Path) -> bool:
    """Whether a release is there, with its recipe and its weights as they were written."""
    try:
        return bool(sha256(folder / WEIGHTS) == read_recipe(folder)["weights_sha256"])
    except (OSError, StealguardError, KeyError):
        return False


def finished(path: Path) -> bool:
    """Whether a cell's file is there and none of its rows says that it failed."""
    rows = rows_in(path)
    return bool(rows) and all(row.status != "failed" for row in rows)


def rows_in(path: Path) -> list[Row]:
    """The rows of a cell's file; none if it is not there. A file that cannot be read is set aside."""
    try:
        return rows_of(read_text(path))
    except FileNotFoundError:
        return []
    except OSError as e:
        if e.errno not in NO_FILE:
            raise
        set_aside(path)
        return []
    except (ValueError, RecursionError, StealguardError):  # emptied by a power loss, or written by another version
        set_aside(path)
        return []


def rows_left(home: Path, cell: GridCell) -> list[Row]:
    """The rows that the cell has left, under the name that this grid gives to the victim."""
    return [under(cell.victim.name, row) for row in rows_in(cell_file(home, cell.key))]


def under(name: str, row: Row) -> Row:
    """The row, with its victim called `name`."""
    return replace(row, victim=replace(row.victim, name=name))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a cell's file; it appears whole or not at all."""
    write_text(path, text_of(rows))


def set_aside(path: Path) -> None:
    """Rename a damaged file or folder to `NAME.damaged`, in the place of an earlier one."""
    aside = path.with_name(f"{path.name}.damaged")
    with suppress(FileNotFoundError):  # another process was faster
        if aside.is_dir():
            shutil.rmtree(aside)
        path.replace(aside)


def rows_of(text: str) -> list[Row]:
    """Rows from the text of a cell's file.

    Raises:
        ValueError: the text is not JSON, or not the rows of a cell.
    """
    records = json.loads(text)
    if not (isinstance(records, list) and all(isinstance(record, dict) for record in records)):
        raise ValueError("not a list of rows")
    return [Row.of(record) for record in records]


def text_of(rows: Sequence[Row]) -> str:
    """The text of a cell's file."""
    return json.dumps([row.record() for row in rows], indent=1) + "\n"
