"""From what a user names or hands over to inputs and labels that keep the rules."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stealguard.checks import check_range
from stealguard.data import SETS, Split, Task, archives, datasets, folders, get, shards, store, tables
from stealguard.data.archives import KEYS, Content
from stealguard.data.arrays import described, stored, tensor
from stealguard.data.formats import Array
from stealguard.data.inputs import ByRow, Inputs, Stored, Subset, bounds, chunks, row_hashes
from stealguard.data.labels import Classes, Words, numbered
from stealguard.data.reading import Columns, Fit, Reading
from stealguard.data.scaling import Scaling
from stealguard.errors import Invalid, StealguardError, listed, pick, require
from stealguard.seeds import derive

T = TypeVar("T")

PICTURES = "folder", "wds"  # the kinds whose pictures may be brought to a size
COMPARED = 2**28  # numbers of training inputs, at most, that test inputs are looked for in
LOOKED_FOR = 100_000  # of the test inputs, at most
BEGIN = 24  # bits of a hash
SAMPLED = 4096  # rows by which a column's scale is judged
HELD = 5  # one of so many inputs of a class is for testing, where there is no test split
FORMS = (
    "a name, folder:PATH, wds:PATTERN.tar, csv:PATH, parquet:PATH, npz:PATH, a Task, arrays or tensors (x, y) or "
    "(train_x, train_y, test_x, test_y), or one or two Datasets of (x, y)"
)


class Read(NamedTuple):
    """A labeled set as it was read, in its own units: one split of inputs and labels, or training and test splits."""

    name: str
    splits: Sequence[tuple[Inputs, Words]]
    classes: Classes = None
    notes: tuple[str, ...] = ()
    reading: Reading | None = None


class NotAName(Invalid):
    """A path stands where the name of a set belongs; the message says how files and folders are named."""

    def __init__(self, given: str):
        StealguardError.__init__(
            self,
            f"`{given}` is not the name of a set. For a file, write `npz:{given}` (an .npz archive of arrays "
            f"{', '.join(KEYS)}, or x alone), `csv:{given}` or `parquet:{given}`; for a folder of pictures, "
            f"`folder:{given}`.",
        )


def task(
    data: Any, classes: Classes, seed: int, scaling: Scaling | None, root: Path | None, reading: Reading | None = None
) -> Task:
    if scaling is None and isinstance(data, Task):
        scaling = data.scaling
    check_reading(data, reading)
    whole = _settled(_labeled(data, classes, seed, root, reading), scaling)
    # Sets with a name are what they are, and folders tell of their files.
    own = _kind(data) in ("npz", *tables.KINDS) if isinstance(data, str) else not isinstance(data, Task)
    return whole._replace(notes=(*whole.notes, *_seen(whole))) if own else whole


def check_reading(data: Any, reading: Reading | None) -> None:
    """Raise `Invalid` unless the data are of the kind that is read so: pictures, or a table."""
    kind, found = (_kind(data), f"`{data}`") if isinstance(data, str) else ("", described(data))
    if isinstance(data, str) and reading is not None and kind not in (*PICTURES, *tables.KINDS, "npz"):
        _check_name(data)
    if isinstance(reading, Fit):
        rule = "left out where the data are no folder or shards of pictures"
        require(kind in PICTURES, "size", rule, f"{reading.size} for {found}")
    if isinstance(reading, Columns):
        require(kind in tables.KINDS, "reading", "left out where the data are no table", f"columns for {found}")


def unlabeled(data: Any, seed: int, root: Path | None, reading: Reading | None = None) -> Inputs:
    """The inputs that `data` stands for, in their own units; the training inputs, where there is a test split.

    Pictures and tables are read in the way of `reading`, if it is one of their kind.
    """
    if isinstance(data, str) and data.startswith("folder:"):
        fit = reading if isinstance(reading, Fit) else None
        return _opened(data, lambda path: folders.read(path, labels=False, fit=fit)).train[0]
    if isinstance(data, str) and _kind(data) == "wds":
        return shards.read(_split_kind(data)[1], reading if isinstance(reading, Fit) else None).splits[0][0]
    if isinstance(data, str) and _kind(data) in tables.KINDS:
        columns = reading if isinstance(reading, Columns) else None
        return stored(tables.read(*_split_kind(data), columns, labels=False).x, "x")
    if isinstance(data, str):
        arrays = _arrays(data, root)
        x = arrays["x" if "x" in arrays else "train_x"]
        if isinstance(x, ByRow):
            return x
        return Stored(torch.from_numpy(x)) if data in SETS else stored(x, "x")
    if isinstance(data, ByRow):
        return data
    if isinstance(data, Tensor | np.ndarray):
        return stored(data, "x")
    if isinstance(data, Dataset):
        return stored(datasets.read(data, "data")[0], "x")
    if is_labeled(data):
        return _labeled(data, None, seed, root).train.x
    raise Invalid(
        "data",
        "a name, folder:PATH, csv:PATH, parquet:PATH, npz:PATH, an array, a tensor, a Dataset or a Task",
        described(data),
    )


def in_unit(x: Inputs, parameter: str, scaling: Scaling | None = None) -> Inputs:
    """Inputs whose rows are in [0, 1]: scaled where there is a scaling, else checked.

    Raises:
        Invalid: there are NaN or infinite values, or values off [0, 1] and no scaling.
    """
    scaled = x if scaling is None else x.scaled(scaling)
    if not x.unit:
        found = bounds(x, parameter)
        check_range(min(found.low), max(found.high), parameter, unit=scaling is None)
    return scaled


def is_labeled(data: Any) -> bool:
    """Whether `data` is one labeled set, not several pools: a Task, (x, y), four arrays, or a pair of Datasets."""
    if isinstance(data, Task):
        return True
    parts = _parts(data)
    pair = len(parts) == 2 and of_datasets(parts)
    return pair or (len(parts) in (2, 4) and _of_arrays(parts) and len(parts[1].shape) == 1)


def label(data: Any) -> str:
    if isinstance(data, Task):
        return data.name
    parts: list[Any] = [data] if _of_arrays([data]) or of_datasets([data]) else _parts(data)
    if parts and of_datasets(parts):
        return f"dataset-{_digest([part for one in parts for part in datasets.read(one, 'data')])}"
    require(bool(parts) and _of_arrays(parts), "data", "a name, arrays, tensors, Datasets or a Task", described(data))
    return f"tensors-{_digest(parts)}"


def _digest(parts: Iterable[Any]) -> str:
    """Eight hexadecimal digits that stand for the values, so that other data get another name."""

    def array(part: Any) -> Array:
        if isinstance(part, ByRow):
            return np.array(part.hash)
        words = isinstance(part, np.ndarray) and part.dtype.kind in "US"
        return part if words else np.asarray(tensor(part, "data"))

    return store.digest({f"{number:03}": array(part) for number, part in enumerate(parts) if part is not None})[:8]


def _parts(data: Any) -> list[Any]:
    """The elements of a tuple or list; ((x, y), (x, y)) is taken as (x, y, x, y)."""
    parts = list(data) if isinstance(data, tuple | list) and not isinstance(data, Task) else []
    nested = len(parts) == 2 and all(isinstance(part, tuple | list) and len(part) == 2 for part in parts)
    return [*parts[0], *parts[1]] if nested else parts


def _of_arrays(parts: Sequence[Any]) -> bool:
    """Whether each is a tensor or an array, or inputs that were made from one."""
    return all(isinstance(part, Tensor | np.ndarray | ByRow) for part in parts)


def of_datasets(parts: Sequence[Any]) -> bool:
    return all(isinstance(part, Dataset) for part in parts)


# --- reading -------------------------------------------------------------------------------------------------------


def _read(data: Any, root: Path | None, reading: Reading | None) -> Read:
    if isinstance(data, Task):
        splits = _stored([(x, y) for x, y in (data.train, data.test)])
        return Read(data.name, splits, data.names or data.classes, data.notes, data.reading)
    if isinstance(data, str):
        return _named(data, root, reading)
    parts: list[Any] = [data] if isinstance(data, Dataset) else _parts(data)
    if len(parts) in (1, 2) and of_datasets(parts):
        pairs = [datasets.read(part, name) for part, name in zip(parts, ("train", "test"), strict=False)]
        labeled = [(x, y) for x, y in pairs if y is not None]
        require(len(labeled) == len(pairs), "data", "Datasets of (x, y)", "items without y")
        return Read(label(data), _stored(labeled))
    if len(parts) in (2, 4) and _of_arrays(parts):
        return Read(label(data), _stored(list(zip(parts[::2], parts[1::2], strict=True))))
    raise Invalid("data", FORMS, described(data))


def _stored(pairs: Sequence[tuple[Any, Words]]) -> list[tuple[Inputs, Words]]:
    """The splits with their inputs read by row; the test's are read as the training's are."""
    found: list[tuple[Inputs, Words]] = []
    for (x, y), name in zip(pairs, _names(pairs), strict=True):
        if isinstance(x, Tensor | np.ndarray):
            first = found[0][0] if found else None
            x = stored(x, f"{name}x", like=first if isinstance(first, Stored) else None)
        found.append((x, y))
    return found


def _names(splits: Sequence[Any]) -> tuple[str, ...]:
    """How errors call the splits' arrays, but for x and y."""
    return ("",) if len(splits) == 1 else ("train_", "test_")


def _kind(data: str) -> str:
    return data.partition(":")[0]


def _split_kind(data: str) -> tuple[str, str]:
    kind, _, word = data.partition(":")
    return kind, word


def _named(data: str, root: Path | None, reading: Reading | None) -> Read:
    """A labeled set with a name, in a folder, in a table or in an archive."""
    rule = f"a labeled set (with {', '.join(KEYS)})"
    if data.startswith("folder:"):
        fit = reading if isinstance(reading, Fit) else None
        found = _opened(data, lambda path: folders.read(path, fit=fit))
        require(found.test is not None, "data", rule, f"`{data}`")
        return Read(
            data,
            [part for part in (found.train, found.test) if part is not None],
            sorted(set(found.train[1].tolist())),
            found.notes,
            found.fit,
        )
    if _kind(data) == "wds":
        shown = shards.read(_split_kind(data)[1], reading if isinstance(reading, Fit) else None)
        labeled = [(x, y) for x, y in shown.splits if y is not None]
        require(len(labeled) == len(shown.splits), "data", "shards with labels (.cls or .json)", f"none in `{data}`")
        words = labeled[0][1]
        classes = sorted(set(words.tolist())) if isinstance(words, np.ndarray) else None
        return Read(data, labeled, classes, shown.notes, shown.fit)
    if _kind(data) in tables.KINDS:
        table = tables.read(*_split_kind(data), reading if isinstance(reading, Columns) else None)
        labels = np.array([]) if table.y is None else table.y
        return Read(data, [(stored(table.x, "x"), labels)], table.classes, table.notes, table.columns)
    arrays = _arrays(data, root)
    require(all(key in arrays for key in KEYS), "data", rule, f"`{data}`")
    pairs: list[tuple[Any, Any]] = [(arrays[f"{split}_x"], arrays[f"{split}_y"]) for split in ("train", "test")]
    if data in SETS:
        return Read(data, [(Stored(torch.from_numpy(x)), y) for x, y in pairs], SETS[data].classes)
    return Read(data, _stored(pairs))


def _arrays(data: str, root: Path | None) -> Content:
    """The arrays of an archive or of a set with a name."""
    if data.startswith("npz:"):
        return _opened(data, archives.read)
    _check_name(data)
    return store.read(get(data, root=root))


def _check_name(data: str) -> None:
    """Raise `Invalid` unless `data` is the name of a set."""
    if data not in SETS and (any(sign in data for sign in "/\\.") or os.path.exists(data)):  # noqa: PTH110 - any string
        raise NotAName(data)
    pick(SETS, data, "data")


def _opened(data: str, read: Callable[[Path], T]) -> T:
    """What `read` finds at the path of `kind:PATH`."""
    kind, _, path = data.partition(":")
    require(bool(path), "data", f"`{kind}:` and a path", f"`{data}`")
    try:
        return read(Path(path).expanduser())
    except StealguardError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise Invalid("data", f"`{kind}:` and a path that can be read", f"{path} ({error})") from error


# --- the rules -----------------------------------------------------------------------------------------------------


def _labeled(data: Any, classes: Classes, seed: int, root: Path | None, reading: Reading | None = None) -> Task:
    """A training and a test split of numbered labels, whose inputs are in their own units."""
    read = _read(data, root, reading)
    names = _names(read.splits)
    labels = [(f"{name}y", y, len(x)) for name, (x, y) in zip(names, read.splits, strict=True)]
    y, total, words = numbered(labels, read.classes if classes is None else classes)
    x = [inputs for inputs, _ in read.splits]
    notes = list(read.notes)
    if len(x) == 1:
        rows = _halves(y[0], total, seed)
        notes.append(f"The test set is {len(rows[1])} of {len(x[0])} inputs, one in five of each class (seed {seed}).")
        x, y = [Subset(x[0], part) for part in rows], [y[0][part] for part in rows]
    rule = f"of the shape of `train_x`'s inputs, {x[0].shape[1:]}"
    require(x[0].shape[1:] == x[1].shape[1:], "test_x", rule, x[1].shape[1:])
    empty = total - len(y[0].unique())
    if empty:
        notes.append(f"Classes without training inputs: {empty} of {total}.")
    return Task(read.name, Split(x[0], y[0]), Split(x[1], y[1]), total, words, notes=tuple(notes), reading=read.reading)


def _halves(y: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train with and rows to test with, 4 to 1 within each class, in their order.

    A class with one input has it for training.
    """
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(derive(seed, "split")))
    order = order[y[order].argsort(stable=True)]
    sizes = y.bincount(minlength=classes)
    place = torch.arange(len(y)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    held = torch.where(sizes > 1, (sizes / HELD).round().clamp_min(1), 0).repeat_interleave(sizes)
    require(bool(held.any()), "y", "labels of which at least one occurs twice", f"{len(y)} different ones")
    return order[place >= held].sort().values, order[place < held].sort().values


def _settled(whole: Task, scaling: Scaling | None) -> Task:
    """The task with inputs in [0, 1]: as they are there, or by a scaling given or fitted on the training split."""
    splits = {"train_x": whole.train.x, "test_x": whole.test.x}
    found = {name: bounds(x, name) for name, x in splits.items() if not x.unit}
    notes = list(whole.notes)
    if scaling is None and "train_x" in found and any(min(one.low) < 0 or max(one.high) > 1 for one in found.values()):
        scaling = found["train_x"]
        require("test_x" in found, "test_x", "numbers in the units of `train_x`", "pixels (uint8)")
        notes.append("The inputs are scaled to [0, 1] by the bounds of the training split.")
        names = whole.reading.names if isinstance(whole.reading, Columns) else ()
        squeezed = [names[i] if names else str(i) for i in _squeezed(whole.train.x, scaling)]
        if squeezed:
            told = "98 of 100 values lie in less than a hundredth of the range"
            notes.append(f"Few values set the bounds of {listed(squeezed)}: {told}.")
    if scaling is None:
        for name, one in found.items():
            check_range(min(one.low), max(one.high), name, unit=True)
        return whole
    for name, x in splits.items():
        beyond = _beyond(x, scaling, name)
        if beyond:
            notes.append(f"Values of {name} beyond the bounds of the scaling, which are clamped to them: {beyond}.")
    train, test = (split._replace(x=split.x.scaled(scaling)) for split in (whole.train, whole.test))
    return whole._replace(train=train, test=test, scaling=scaling, notes=tuple(dict.fromkeys(notes)))


def _seen(whole: Task) -> list[str]:
    """What to say where test inputs are training inputs, too; inputs that are not in memory are not compared."""
    train, test = whole.train.x, whole.test.x
    if not (train.held and test.held) or math.prod(train.shape) > COMPARED:
        return []
    some = torch.linspace(0, len(test) - 1, min(len(test), LOOKED_FOR), dtype=torch.float64).long()
    both = int(_occurring(row_hashes(Subset(test, some)), row_hashes(train)).sum())
    found = f"{both:,} test inputs" if len(some) == len(test) else f"{both:,} of {len(some):,} test inputs compared"
    return [f"{found} are training inputs, too: they tell nothing about new ones."] if both else []


def _occurring(few: Array, many: Array) -> Array:
    """Which of `few` hashes are among `many`, of which those that begin otherwise are not sorted."""
    begins = np.zeros(2**BEGIN, bool)
    begins[few >> np.uint64(64 - BEGIN)] = True
    return np.isin(few, many[begins[many >> np.uint64(64 - BEGIN)]])


def _squeezed(x: Inputs, scaling: Scaling) -> list[int]:
    """The columns of a table in which one value in fifty or fewer takes nearly all of the scale."""
    if len(x.shape) != 2:
        return []
    rows = torch.linspace(0, len(x) - 1, min(len(x), SAMPLED), dtype=torch.float64).long()
    low, high = np.quantile(x.numbers(rows).double().numpy(force=True), (0.01, 0.99), axis=0)
    width = 0.01 * (np.array(scaling.high) - np.array(scaling.low))
    return [int(i) for i in np.flatnonzero((low < high) & (high - low < width))]


def _beyond(x: Inputs, scaling: Scaling, parameter: str) -> int:
    """The number of values that a scaling clamps: none of pixels, and no more than half of others."""
    if x.scaled(scaling) is x:
        return 0
    beyond = sum(int(scaling.outside(x.numbers(rows)).sum()) for rows in chunks(x))
    rule = f"in [0, 1], or in the units of the training split: from {min(scaling.low):g} to {max(scaling.high):g}"
    if 2 * beyond > math.prod(x.shape):
        found = bounds(x, parameter)
        raise Invalid(parameter, rule, f"values from {min(found.low):g} to {max(found.high):g}")
    return beyond
