"""Folders of pictures, one folder a class, as people have them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stealguard.data import pictures
from stealguard.data.formats import Array
from stealguard.data.pictures import Head, Pictures, settled, survey
from stealguard.data.reading import Fit
from stealguard.errors import counted, require
from stealguard.files import real

TRAIN = "train", "training"
TEST = "test", "testing", "val", "valid", "validation"  # the first of these that is there is the test set
JUNK = {"__macosx", "thumbs.db", "desktop.ini"}  # and every name that begins with a dot
TEST_SHARE = 1 / 6  # of the pictures of a class, where there is no test folder


class Entry(NamedTuple):
    """One picture and the name of its class, which is empty where there are no classes."""

    path: Path
    word: str


class Found(NamedTuple):
    """What a folder holds: a training split and perhaps a test split, the class of each picture, and lines to print.

    `fit` is how the pictures were brought to one size, and in how many channels; None where they have one size.
    """

    train: tuple[Pictures, Array]
    test: tuple[Pictures, Array] | None
    notes: tuple[str, ...]
    fit: Fit | None = None


def read(path: Path, *, labels: bool = True, fit: Fit | None = None) -> Found:
    """The pictures below `path`.

    A folder may hold a folder `train` or `training` beside one of `test`, `testing`, `val`, `valid` and `validation`
    (in any case), each with class folders; class folders alone; or pictures alone. A class's pictures may lie in
    folders below its own. Without a test folder, about one picture in six is for testing: those whose content hashes
    low, so that no picture changes sides when others are added. Pictures must be of one size, or are brought to that of
    `fit`. They are read as color if any is in color, upright, and over white where they are transparent. The notes tell
    what was ignored and converted.

    Args:
        labels: whether the classes and the test split are wanted; without them, one class folder is enough.
        fit: the size that pictures are brought to, and how.

    Raises:
        Invalid: the folder has no such form, or a picture cannot be read; names the folder or the file.
    """
    require(path.is_dir(), "data", "`folder:` and a folder", f"{path}")
    ignored: Counter[str] = Counter()
    train, other, notes = _layout(path)
    if _folders(train):
        least = 2 if labels else 1
        parts = [_of_classes(folder, least, ignored) for folder in (train, other) if folder is not None]
    else:
        parts = [[Entry(picture, "") for picture in _pictures(train, ignored)]]
        rule = "a folder of class folders or of pictures (.png, .jpg and others that Pillow decodes)"
        require(bool(parts[0]), "data", rule, train)
    heads = survey([entry.path for part in parts for entry in part], fit)
    if len(parts) == 1 and parts[0][0].word:
        parts, heads = _split(parts[0], heads, least=least)
        notes.append(f"The test set is {len(parts[1])} of {len(heads)} pictures, about one in six of each class.")
    strange = sorted({entry.word for entry in parts[-1]} - {entry.word for entry in parts[0]})
    require(not strange, "data", "test classes that are also in train", ", ".join(strange))

    fit, color, keep = settled(heads, fit)
    notes += [f"Ignored {what}: {count}." for what, count in sorted(ignored.items())]
    notes += pictures.changes(heads, color=color, fit=fit)

    def made(part: list[Entry], heads: list[Head]) -> tuple[Pictures, Array]:
        paths = [entry.path for entry in part]
        words = np.array([entry.word for entry in part])
        return Pictures(paths, heads, root=path, color=color, keep=keep, fit=fit), words

    n = len(parts[0])
    known = {head.sha256 for head in heads[:n]}
    both = sum(head.sha256 in known for head in heads[n:])
    if labels and both:
        notes.append(f"{both} test pictures are training pictures, too: they tell nothing about new ones.")
    second = made(parts[1], heads[n:]) if labels and len(parts) == 2 else None
    return Found(made(parts[0], heads[:n]), second, tuple(notes), fit)


def _layout(path: Path) -> tuple[Path, Path | None, list[str]]:
    """Where the training and the test pictures are, and what to say of it."""
    folders = _folders(path)
    if len(folders) == 1 and len(_folders(folders[0])) >= 2 and not _pictures(path, Counter(), deep=False):
        return _layout(folders[0])
    named = {folder: folder.name.casefold() for folder in folders}
    train = next((folder for folder in folders if named[folder] in TRAIN), None)
    tests = [folder for name in TEST for folder in folders if named[folder] == name]
    if train is None or not tests:
        return path, None, []
    other = next((folder for folder in tests if _folders(folder)), None)
    unused = [folder for folder in folders if folder not in (train, other)]
    return train, other, [f"The folder `{folder.name}` is not used." for folder in unused]


def _of_classes(path: Path, least: int, ignored: Counter[str]) -> list[Entry]:
    """Each class folder's pictures, both in the order of their names."""
    classes = {folder.name: _pictures(folder, ignored) for folder in _folders(path)}
    rule = f"a folder with at least {counted(least, 'class folder')}"
    require(len(classes) >= least, "data", rule, f"{len(classes)} in {path}")
    empty = next((name for name, found in classes.items() if not found), None)
    require(empty is None, "data", "class folders with pictures", f"none in {path / str(empty)}")
    beside = len(_pictures(path, ignored, deep=False))
    if beside:
        ignored["pictures beside the class folders"] += beside
    return [Entry(picture, name) for name, found in classes.items() for picture in found]


def _split(entries: list[Entry], heads: list[Head], *, least: int) -> tuple[list[list[Entry]], list[Head]]:
    """A training and a test part, each with pictures of every class, and the heads in the same order."""
    held: set[int] = set()
    for word in dict.fromkeys(entry.word for entry in entries):
        mine = [i for i, entry in enumerate(entries) if entry.word == word]
        rule = "at least 2 pictures a class, to train and to test with"
        require(len(mine) >= least, "data", rule, f"{len(mine)} of `{word}`")
        mine.sort(key=lambda i: heads[i].sha256)
        low = sum(_share(heads[i]) < TEST_SHARE for i in mine)
        held.update(mine[: min(max(low, 1), len(mine) - 1)])
    order = [[i for i in range(len(entries)) if (i in held) == test] for test in (False, True)]
    return [[entries[i] for i in part] for part in order], [heads[i] for part in order for i in part]


def _share(head: Head) -> float:
    """A number in [0, 1) that follows from the picture's content."""
    return int.from_bytes(head.sha256[:6], "big") / 2**48


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not _junk(entry))


def _pictures(path: Path, ignored: Counter[str], *, deep: bool = True) -> list[Path]:
    """The pictures in a folder and, if `deep`, in those below it, ordered by path; counts what is none."""
    found = []
    for entry in sorted(path.iterdir()):
        if _junk(entry):
            ignored["hidden and system files"] += 1
        elif entry.is_dir():
            looped = entry.is_symlink() and real(path).is_relative_to(real(entry))
            found += _pictures(entry, ignored) if deep and not looped else []
        elif entry.is_file() and entry.suffix.lower() in pictures.suffixes():
            found.append(entry)
        else:
            ignored["files that are no pictures"] += 1
    return found


def _junk(path: Path) -> bool:
    return path.name.startswith(".") or path.name.casefold() in JUNK
