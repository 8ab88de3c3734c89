"""WebDataset shards: plain tar files of pictures with their labels beside them, read by an index of what lies where.

    wds:shards/train-{000..011}.tar        # a range of numbers, with leading zeros as they are written
    wds:shards/*.tar                       # or a pattern of the shell

Files of a shard that share their name up to its first point are one sample: `0001.jpg` and `0001.cls` (a number), or
`0001.json` with one of `label`, `cls` and `class`. Nothing is unpacked, and names are only compared, never opened.
"""

from __future__ import annotations

import glob
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch

from stealguard.data import pictures
from stealguard.data.labels import Words
from stealguard.data.pictures import Pictures
from stealguard.data.reading import Fit
from stealguard.errors import Invalid, require

TEST = "test", "val"  # a shard whose name begins with one of these holds test samples, where others do not
LABELS = "label", "cls", "class"  # the keys of a .json, of which the first that is there is the label
LONGEST = 2**20  # bytes of a label's file
MOST = 100_000  # shards
FORM = "wds: and the shards' paths, such as `wds:train-{000..011}.tar` or `wds:shards/*.tar`"


class Member(NamedTuple):
    """A file in a shard: `size` bytes that begin at byte `start`."""

    shard: Path
    name: str
    start: int
    size: int

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The bytes as a file that can be read."""
        with self.shard.open("rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        require(len(content) == self.size, "data", "shards that stay as they were", self.shard)
        return io.BytesIO(content)

    def relative_to(self, root: Path) -> PurePosixPath:
        """The shard's name and the member's, which the hash of pictures names it by."""
        return PurePosixPath(self.shard.name, self.name)

    def __str__(self) -> str:
        return f"{self.shard}: {self.name}"


class Labeled(NamedTuple):
    """A picture and its label, None where it has none."""

    picture: Member
    label: str | int | None


class Shards(NamedTuple):
    """What shards hold: splits of pictures and labels (None where there are none), and lines to print.

    `fit` is how pictures were brought to one size, and in how many channels; None where they have one size.
    """

    splits: list[tuple[Pictures, Words | None]]
    notes: tuple[str, ...]
    fit: Fit | None


def read(pattern: str, fit: Fit | None = None) -> Shards:
    """The samples of the shards that match.

    Shards whose names begin with `test` or `val` are the test split, where others do not.

    Raises:
        Invalid: no shard matches, one is no plain tar file or truncated, or a picture or a label cannot be read.
    """
    ignored: Counter[str] = Counter()
    train, test = _split(matching(pattern))
    parts = [[sample for shard in part for sample in _samples(shard, ignored)] for part in (train, test) if part]
    require(all(parts), "data", "shards with pictures", f"none in `{pattern}`")
    members = [sample.picture for part in parts for sample in part]
    heads = pictures.survey(members, fit)
    fit, color, keep = pictures.settled(heads, fit)
    notes = [f"Ignored {what}: {count}." for what, count in sorted(ignored.items())]
    notes += pictures.changes(heads, color=color, fit=fit)
    splits: list[tuple[Pictures, Words | None]] = []
    start = 0
    for part in parts:
        mine = heads[start : start + len(part)]
        x = Pictures([one.picture for one in part], mine, root=Path(), color=color, keep=keep, fit=fit)
        splits.append((x, _words([one.label for one in part])))
        start += len(part)
    return Shards(splits, tuple(notes), fit)


def matching(pattern: str) -> list[Path]:
    """The shards that the pattern names, in order."""
    numbers = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if numbers is None:
        found = sorted(glob.glob(str(Path(pattern).expanduser())))  # noqa: PTH207 - the pattern may be absolute
        require(bool(found), "data", f"{FORM}, of which one is there", f"`{pattern}`")
        return [Path(path) for path in found]
    first, last = numbers.groups()
    require(0 <= int(last) - int(first) < MOST, "data", f"a range of at most {MOST:,} shards", f"`{pattern}`")
    names = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    paths = [pattern[: numbers.start()] + name + pattern[numbers.end() :] for name in names]
    return [path for each in paths for path in matching(each)]


def _split(shards: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The shards of the training and those of the test split; all are the first's where there are no others."""
    test = [shard for shard in shards if shard.name.casefold().startswith(TEST)]
    train = [shard for shard in shards if shard not in set(test)]
    return (train, test) if train else (test, [])


def _samples(shard: Path, ignored: Counter[str]) -> Iterator[Labeled]:
    """The samples of a shard in the order of their first files."""
    found: dict[str, dict[str, Member]] = {}
    for member in _members(shard):
        folder, _, base = member.name.rpartition("/")
        key, _, kind = base.partition(".")
        found.setdefault(f"{folder}/{key}", {})[kind.lower()] = member
    for kinds in found.values():
        picture = next((member for kind, member in kinds.items() if f".{kind}" in pictures.suffixes()), None)
        if picture is None:
            ignored["samples without a picture"] += 1
        else:
            yield Labeled(picture, _label(kinds))


def _members(shard: Path) -> Iterator[Member]:
    """The plain files of a shard.

    Raises:
        Invalid: it is no plain tar file, or ends before one of its files does.
    """
    rule = "plain tar files, not compressed"
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                if info.isreg() and info.sparse is None:
                    if info.offset_data + info.size > size:
                        raise EOFError
                    yield Member(shard, info.name, info.offset_data, info.size)
                tar.members = []  # type: ignore[attr-defined]  # else every header is kept
    except EOFError as error:
        raise Invalid("data", "whole shards", f"{shard} (truncated)") from error
    except (tarfile.TarError, OSError, ValueError) as error:
        raise Invalid("data", rule, f"{shard} ({error})") from error


def _label(kinds: dict[str, Member]) -> str | int | None:
    """The label of a sample: its .cls, or what its .json says."""
    member = kinds.get("cls") or kinds.get("json")
    if member is None:
        return None
    require(member.size <= LONGEST, "data", f"labels of at most {LONGEST:,} bytes", f"{member.size:,} in {member}")
    try:
        text = member.open().getvalue().decode()
        said: Any = text.strip() if "cls" in kinds else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid("data", "labels that can be read", f"{member} ({error})") from error
    if isinstance(said, dict):
        said = next((said[key] for key in LABELS if key in said), None)
    if isinstance(said, str) and re.fullmatch(r"-?\d{1,18}", said):
        return int(said)
    kind = isinstance(said, str | int) and not isinstance(said, bool)
    require(
        kind, "data", f"a label, a number or a word (in a .json as one of {', '.join(LABELS)})", f"none in {member}"
    )
    return said  # type: ignore[no-any-return]


def _words(labels: Sequence[str | int | None]) -> Words | None:
    """Labels as numbers or words; None where no sample has one.

    Raises:
        Invalid: only some samples have one, or some are numbers and some are words.
    """
    kinds = {type(label) for label in labels}
    if kinds == {type(None)}:
        return None
    require(len(kinds) == 1, "data", "labels that are all numbers or all words", "some of each, or samples without one")
    return torch.tensor(labels) if kinds == {int} else np.array(labels)
