"""Data by name, or the user's own, as inputs in [0, 1] by row. Importing this loads no torch, so a listing is quick.

task("mnist").train.x[:2]       # (2, 1, 28, 28) float32; `train.x` itself is read by row
images("letters")               # 60,000 inputs of shape (1, 28, 28), no labels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stealguard.data import store
from stealguard.data.formats import Arrays
from stealguard.data.reading import Columns, Fit, Reading
from stealguard.data.sets import SETS, SetSpec
from stealguard.data.sources import Site, first_line
from stealguard.errors import FetchError, pick, require

if TYPE_CHECKING:
    from torch import Tensor

    from stealguard.data.inputs import Inputs
    from stealguard.data.scaling import Scaling

__all__ = [
    "SETS",
    "Columns",
    "Fit",
    "SetSpec",
    "Split",
    "Status",
    "Task",
    "files",
    "get",
    "images",
    "label",
    "listing",
    "task",
    "verify",
]


OF_FILES = "folder", "wds", "csv", "parquet", "npz"
"""The kinds of data that are named `kind:PATH`."""


def files(source: str) -> list[Path] | None:
    """The files that `kind:PATH` stands for, in order; None where `source` is no such name.

    Raises:
        Invalid: there is none.

    >>> files("mnist") is None
    True
    """
    kind, _, path = source.partition(":")
    if kind not in OF_FILES or not path:
        return None
    if kind == "wds":
        from stealguard.data.shards import matching

        return matching(path)
    there = Path(path).expanduser()
    found = [there] if there.is_file() else sorted(file for file in there.rglob("*") if file.is_file())
    rule = "a folder with files" if kind == "folder" else "a file that is there"
    require(bool(found) and there.is_dir() == (kind == "folder"), "data", rule, f"`{source}`")
    return found


class Split(NamedTuple):
    """Inputs `x` (N, *shape), whose rows are float32 in [0, 1], and labels `y` (N,), int64 in 0..K-1."""

    x: Inputs
    y: Tensor

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the inputs as they were read (see `Inputs.hash`) and of the labels."""
        from stealguard.identity import fingerprint, tensor_hash

        return fingerprint([self.x.hash, tensor_hash(self.y)])


class Task(NamedTuple):
    """A classification task with K `classes`.

    `names` are the classes' names in order, or empty; `scaling` maps the users' units to [0, 1], and is None where the
    data are in [0, 1] as they are; `notes` are lines to print: what was split, ignored and converted, with counts;
    `reading` says to which size pictures were brought, or which columns a table has.
    """

    name: str
    train: Split
    test: Split
    classes: int
    names: tuple[str, ...] = ()
    scaling: Scaling | None = None
    notes: tuple[str, ...] = ()
    reading: Reading | None = None

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the training and the test split as they were read, and of the classes' names."""
        from stealguard.identity import fingerprint

        return fingerprint([self.train.hash, self.test.hash, self.classes, list(self.names)])


MADE = "made when it is asked for"


class Status(NamedTuple):
    """A set as the store has it; `state` is verified, recorded (not verified), absent or damaged (and how), or `MADE`.

    `pinned` says whether this program knows the SHA-256 that the set should have. Without it, the first fetch is
    trusted: its hash is recorded, and later reads are compared with that.
    """

    name: str
    state: str
    source: str
    path: Path
    pinned: bool

    @property
    def ok(self) -> bool:
        return not self.state.startswith("damaged")


def task(
    data: Any,
    *,
    classes: int | Sequence[Any] | None = None,
    seed: int = 0,
    scaling: Scaling | None = None,
    reading: Reading | None = None,
    root: Path | None = None,
) -> Task:
    """The labeled set `data` stands for.

    Args:
        data: a name of a labeled set in `SETS`; "folder:PATH" (class folders, with or without a test folder);
            "csv:PATH" or "parquet:PATH" (a table whose last column holds the classes, or the column that a further
            `:COLUMN` names); "npz:PATH" (train_x, train_y, test_x, test_y); a `Task`; arrays or tensors (x, y),
            (train_x, train_y, test_x, test_y) or ((train_x, train_y), (test_x, test_y)); a torch Dataset of (x, y), or
            a pair of them.
            Inputs may have any shape: floats, bool, or uint8, of which 255 stands for 1 (unless all are below 32:
            those are flags or grades). Other integers are refused.
        classes: the classes in order, by name or by the values of their labels, or their number. Without it, labels
            are 0 .. K - 1 and every class has inputs.
        seed: what data without a test split are split by, 4 to 1 within each class. (Folders are split by content.)
        scaling: from the data's units to [0, 1]. Without one, it is fitted on the training split (by column for tables,
            inputs of one dimension) if values leave [0, 1].
        reading: `Fit(224)` brings the pictures of a folder to one size; `Columns` read a table as an earlier one was.
        root: the folder of the store of named sets.

    Raises:
        Invalid: `data` is none of these or breaks a rule.
        FetchError: a named set cannot be had.

    Example:
        >>> task = sg.data.task((torch.rand(60, 4), torch.arange(60) % 3))
        >>> len(task.train.x), len(task.test.x), task.classes
        (48, 12, 3)
    """
    from stealguard.data import own

    return own.task(data, classes, seed, scaling, root, reading)


def images(data: Any, *, seed: int = 0, reading: Reading | None = None, root: Path | None = None) -> Inputs:
    """The inputs `data` stands for, without labels: N inputs of any shape whose rows are float32 in [0, 1].

    Of a labeled set that is split for training and testing, these are the training inputs alone, so that a query pool
    never holds test inputs; `seed` and `reading` are those of `task`.

    Args:
        data: whatever `task` takes; a name of an unlabeled set; an array or a tensor; a torch Dataset of x or (x, y),
            of which all inputs are taken; "npz:PATH" with an array x; "folder:PATH" of pictures alone.

    Raises:
        Invalid, FetchError: as `task` does, and for values off [0, 1].

    Example:
        >>> sg.data.images(torch.rand(60, 4))[:2].shape
        torch.Size([2, 4])
    """
    from stealguard.data import own

    own.check_reading(data, reading)
    return own.in_unit(own.unlabeled(data, seed, root, reading), "x")


def label(data: Any) -> str:
    """The word for `data` in recipes and rows: its name, or the kind and the first hash digits of what has no name.

    Example:
        >>> sg.data.label("mnist")
        'mnist'
    """
    if isinstance(data, str):
        return data
    from stealguard.data import own

    return own.label(data)


def get(name: str, *, root: Path | None = None, progress: bool = True) -> Path:
    """The stored file of the set, fetched or made first if need be.

    Raises:
        FetchError: it cannot be had; says all that was tried.
        Invalid: there is no such set, or it has no shape of its own and is made from a task's training inputs.

    Example:
        >>> path = sg.data.get("mnist")  # doctest: +SKIP
    """
    spec: SetSpec = pick(SETS, name, "data")
    rule = "a set with inputs of its own"
    require(bool(spec.sources), "data", rule, f"`{name}`, which is made for a task as outliers or as a pool")
    return _stored(name, root, progress, lambda site: obtain(name, spec, site))


def photographs(name: str, size: int, *, root: Path | None = None, progress: bool = True) -> Path:
    """The stored file of the pictures, (H, W, 4) each, that crops of `size` pixels are cut from for the set `name`.

    Raises:
        FetchError: they cannot be had; says why.
    """
    from stealguard.data.generated import cropped

    kind = cropped.PHOTOGRAPHS[name]
    working = kind.working_at(size)
    spec = replace(SETS[name], shape=(), sizes=(), sources=(cropped.pictures(kind, working),), sha256=None)
    return _stored(f"{name}-pictures-{working}", root, progress, lambda site: obtain(name, spec, site))


def _stored(name: str, root: Path | None, progress: bool, read: Callable[[Site], tuple[Arrays, store.Note]]) -> Path:
    """The store's file of this name, made by `read` if it is not there."""
    home = store.home(root)
    path = store.place(name, home)
    if store.note(path) is None:
        with store.workplace(name, home) as work:
            if store.note(path) is None:  # no other process made it while this one waited for the lock
                arrays, note = read(Site(home, work, progress, load(home, progress)))
                store.write(path, arrays, note, work)
    return path


def load(root: Path, progress: bool) -> Any:
    return lambda name: store.read(get(name, root=root, progress=progress))


def obtain(name: str, spec: SetSpec, site: Site) -> tuple[Arrays, store.Note]:
    """The arrays from the first source that gives the right ones."""
    tried = []
    for source in spec.sources:
        try:
            arrays = source.read(site)
        except Exception as error:  # whatever clients, archives and decoders of foreign bytes raise
            tried.append(f"{source.name}: {first_line(error)}")
            continue
        found = store.digest(arrays)
        wrong = spec.wrong(arrays)
        if not wrong and spec.sha256 not in (None, found):
            wrong = f"expected SHA-256 {spec.sha256}, found {found}"
        if not wrong:
            return arrays, store.Note(found, source.name, spec.sha256 or "")
        tried.append(f"{source.name}: {wrong}")
    advice = f"{spec.put} in {site.root} (or a folder of $STEALGUARD_LOCAL), or " if spec.put else ""
    raise FetchError(
        f"Set `{name}` could be had from none of its sources: {'; '.join(tried)}. "
        f"What to do: {advice}connect to the network, and run `stealguard data get {name}` again."
    )


def listing(root: Path | None = None) -> list[Status]:
    """Every set with its state as recorded, without reading the data again.

    Example:
        >>> "mnist" in {status.name for status in sg.data.listing()}
        True
    """
    home = store.home(root)
    return [status(name, store.note(store.place(name, home)), home) for name in SETS]


def status(name: str, note: store.Note | None, home: Path) -> Status:
    path, pinned = store.place(name, home), SETS[name].sha256 is not None
    if not SETS[name].sources:
        return Status(name, MADE, "", path, False)
    if note is None and path.exists():
        return Status(name, "damaged: expected a whole file, found a truncated or foreign one", "", path, pinned)
    return Status(name, note.state if note else "absent", note.source if note else "", path, pinned)


def verify(root: Path | None = None) -> list[Status]:
    """Every set that the store has, hashed again and compared with the hash that is known, or was recorded.

    Example:
        >>> sg.data.verify(Path("an-empty-store"))
        []
    """
    home = store.home(root)
    return [check(row) for row in listing(home) if row.state not in ("absent", MADE)]


def check(row: Status) -> Status:
    note = store.note(row.path)
    if note is None:
        return row
    expected = SETS[row.name].sha256 or note.sha256
    found = store.digest(store.read(row.path))
    return row if found == expected else row._replace(state=f"damaged: expected SHA-256 {expected}, found {found}")
