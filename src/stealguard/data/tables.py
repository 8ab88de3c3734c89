"""Tables from CSV and Parquet files: columns of numbers and of categories, and a column of classes.

A cell is a number, or words; nothing in it is evaluated.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stealguard.data.formats import Array
from stealguard.data.reading import Columns
from stealguard.errors import Invalid, StealguardError, counted, listed, require

MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}  # in any case
INFINITE = {"inf", "+inf", "-inf", "infinity", "-infinity"}
CATEGORIES = 256  # of a column at most
CLASSES = 1000
CODE = re.compile(r"\d+")
WHOLE = re.compile(r"[+-]?\d+(\.0+)?")
KINDS = ("csv", "parquet")

Table = Mapping[str, Sequence[Any]]  # the cells of each column, by its name and in order


class Encoded(NamedTuple):
    """What a table holds: inputs (N, D), the class of each or None, the classes in order, and lines to print."""

    x: Array
    y: Array | None
    classes: tuple[str, ...]
    columns: Columns
    notes: tuple[str, ...]


def read(kind: str, word: str, known: Columns | None = None, *, labels: bool = True) -> Encoded:
    """The table in a file.

    A column whose cells are all numbers is one of numbers; any other has categories, in the order of the alphabet, and
    becomes one number of 0 or 1 for each. So does a column of whole numbers of which some begin with a zero, as codes
    do. The classes are the different cells of the target column: in the order of their values if they are whole
    numbers, else of the alphabet.

    Args:
        kind: `csv` or `parquet`.
        word: the file's path, or the path, a colon and the name of the target column; the last column is the target
            where none is named.
        known: the columns and categories to read; columns beside these are left out.
        labels: whether the target column is needed.

    Raises:
        Invalid: the file is no such table; a value is missing, or no number or category that is known: names the row,
            counted from 1 for the first below the header, and the column.
        StealguardError: the file needs a package that is not installed.
    """
    path, target = _parts(kind, word)
    table = {"csv": _csv, "parquet": _parquet}[kind](path)
    names = list(table)
    require(len(names) >= 2, "data", "a table of at least 2 columns", f"{len(names)} in {path}")
    require(len(table[names[0]]) >= 1, "data", "a table with rows below its header", f"none in {path}")
    chosen = target or (names[-1] if known is None else known.target)
    if labels or target:
        require(chosen in table, "data", f"a table with the target column `{chosen}`", listed(names))
    columns = known or Columns(
        tuple((name, _categories(name, table[name])) for name in names if name != chosen), chosen
    )
    x = encoded(table, columns)
    notes = [_about(columns)]
    unused = [name for name in names if name not in {chosen, *(name for name, _ in columns.columns)}]
    if unused:
        notes.append(f"Columns that are not used: {listed(unused)}.")
    codes = [name for name, words in columns.columns if words and _are_codes(table[name])]
    if codes:
        notes.append(f"Whole numbers of which some begin with 0 are taken for categories: {listed(codes)}.")
    if chosen not in table:
        return Encoded(x, None, (), columns, tuple(notes))
    y = np.array(_words(chosen, table[chosen]))
    classes = _ordered(set(y.tolist()))
    rule = f"a target column of at most {CLASSES} classes (name another with `{kind}:{path}:COLUMN`)"
    require(len(classes) <= CLASSES, "data", rule, f"{len(classes):,} different values in `{chosen}`")
    place = "" if target else ", the last one" if known is None else ""
    notes.insert(0, f"The target is the column `{chosen}`{place}: {len(classes)} classes, {listed(classes)}.")
    return Encoded(x, y, classes, columns, tuple(notes))


def encoded(table: Table, columns: Columns) -> Array:
    """The rows of a table as inputs (N, D), float64, in the users' units: what a release of such data is asked with.

    >>> encoded({"age": [31, 40], "job": ["pilot", "cook"]}, Columns((("age", ()), ("job", ("cook", "pilot"))), "pay"))
    array([[31.,  0.,  1.],
           [40.,  1.,  0.]])

    Raises:
        Invalid: a column is not there or of another length, or a cell is missing, or no number or category that is
            known.
    """
    absent = [name for name, _ in columns.columns if name not in table]
    require(not absent, "data", f"a table with the columns {listed([n for n, _ in columns.columns])}", listed(table))
    cells = {name: table[name] for name, _ in columns.columns}
    alone = next((cell for cell in cells.values() if isinstance(cell, str) or not isinstance(cell, Sized)), None)
    require(alone is None, "data", "a list of cells for each column", f"`{alone!s:.40}`")
    lengths = sorted({len(column) for column in cells.values()})
    require(len(lengths) == 1, "data", "as many cells in one column as in another", ", ".join(map(str, lengths)))
    blocks = [
        _one_hot(name, table[name], words) if words else _numbers(name, table[name])[:, None]
        for name, words in columns.columns
    ]
    return np.concatenate(blocks, axis=1)


def _numbers(name: str, cells: Sequence[Any]) -> Array:
    values = _floats(cells)
    if values is not None:
        return values
    row, cell = next((row, cell) for row, cell in enumerate(cells, 1) if _floats([_present(cell, row, name)]) is None)
    raise Invalid("data", f"numbers in the column `{name}`", f"`{cell!s:.40}` in row {row}")


def _one_hot(name: str, cells: Sequence[Any], categories: Sequence[str]) -> Array:
    place, words = {word: number for number, word in enumerate(categories)}, _words(name, cells)
    strange = next((row for row, word in enumerate(words) if word not in place), None)
    if strange is not None:
        rule = f"a known category in the column `{name}` ({listed(categories)})"
        raise Invalid("data", rule, f"`{words[strange]:.40}` in row {strange + 1}")
    block = np.zeros((len(cells), len(categories)))
    block[np.arange(len(cells)), [place[word] for word in words]] = 1
    return block


def _categories(name: str, cells: Sequence[Any]) -> tuple[str, ...]:
    """The categories of a column in order; none where all of its cells are numbers."""
    codes = _are_codes(cells)
    if _floats(cells) is not None and not codes:
        return ()
    words = set(_words(name, cells))
    rule = f"columns of numbers, or of at most {CATEGORIES} categories (leave this one out of the file)"
    found = f"{len(words):,} different {'numbers, some of which begin with 0,' if codes else 'words'} in `{name}`"
    require(len(words) <= CATEGORIES, "data", rule, found)
    return tuple(sorted(words))


def _are_codes(cells: Sequence[Any]) -> bool:
    """Whether cells are whole numbers whose digits count, of which some begin with a zero: postal codes, for example.

    >>> _are_codes(["01234", "56789"]), _are_codes(["0", "10"])
    (True, False)
    """
    words = [cell.strip() for cell in cells if isinstance(cell, str)]
    whole = len(words) == len(cells) and all(map(CODE.fullmatch, words))
    return whole and any(len(word) > 1 and word.startswith("0") for word in words)


def _floats(cells: Sequence[Any]) -> Array | None:
    """The cells as finite numbers, (N,), or None where one of them is none."""
    try:
        values = np.array(cells, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    plain = values.ndim == 1 and bool(np.isfinite(values).all())
    spelled = any(isinstance(cell, str) and "_" in cell for cell in cells)  # 1_000 is a word here
    return values if plain and not spelled else None


def _words(name: str, cells: Sequence[Any]) -> list[str]:
    """The cells of a column as categories."""
    known: dict[Any, str] = {}
    for row, cell in enumerate(cells, 1):
        if not isinstance(cell, Hashable) or cell not in known:
            word = _word(cell, row, name)  # refuses what has no hash
            known[cell] = word
    return [known[cell] for cell in cells]


def _present(cell: Any, row: int, name: str) -> Any:
    """The cell. Raises `Invalid` where its value is missing or infinite."""
    text = "" if cell is None else str(cell).strip()
    said = f"`{text}`" if text else "nothing"
    where = f"{said} in row {row} of the column `{name}`"
    rule = "a table without missing values (fill them, or drop the row)"
    require(text.casefold() not in MISSING, "data", rule, where)
    require(text.casefold() not in INFINITE, "data", "a table of finite numbers", where)
    return cell


def _word(cell: Any, row: int, name: str) -> str:
    """The cell as a category; whole numbers are written alike in files of both kinds."""
    cell = _present(cell, row, name)
    rule = "a table whose cells are numbers or words"
    require(
        isinstance(cell, str | int | float | np.number | np.bool_), "data", rule, f"{type(cell).__name__} in `{name}`"
    )
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _ordered(words: Iterable[str]) -> tuple[str, ...]:
    words = list(words)
    whole = all(WHOLE.fullmatch(word) for word in words)
    return tuple(sorted(words, key=(lambda word: (float(word), word)) if whole else None))


def _about(columns: Columns) -> str:
    several = [f"{name} ({len(words)})" for name, words in columns.columns if words]
    numbers = [name for name, words in columns.columns if not words]
    named = f" ({listed(numbers)})" if numbers else ""
    told = f", and of categories {listed(several)}" if several else ""
    return f"Columns: {len(numbers)} of numbers{named}{told}; an input has {counted(columns.width, 'number')}."


# Files ------------------------------------------------------------------------------------------------------


def _parts(kind: str, word: str) -> tuple[Path, str]:
    """The path and the name of the target column, which may be empty."""
    require(bool(word), "data", f"`{kind}:` and a path", f"`{kind}:{word}`")
    path = Path(word).expanduser()
    if not path.is_file() and ":" in word:
        first, _, target = word.rpartition(":")
        if Path(first).expanduser().is_file():
            return Path(first).expanduser(), target
    require(path.is_file(), "data", f"`{kind}:` and the path of a file", path)
    return path, ""


def _csv(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.read(2**16)
            file.seek(0)
            rows = csv.reader(file, delimiter=_delimiter(head), strict=True)
            names = [name.strip() for name in next(rows, [])]
            _check_named(names, path)
            columns: list[list[str]] = [[] for _ in names]
            for number, cells in enumerate(filter(None, rows), 1):
                rule = f"a table with {len(names)} cells in every row"
                require(len(cells) == len(names), "data", rule, f"{len(cells)} in row {number} of {path}")
                for column, cell in zip(columns, cells, strict=True):
                    column.append(cell)
            _check_header(names, columns, path)
            _check_unlike(names, path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise Invalid("data", "a CSV file in UTF-8", f"{path} ({error})") from error
    return dict(zip(names, columns, strict=True))


def _delimiter(head: str) -> str:
    """What separates the cells: of these the most frequent one in the first line."""
    first = head.lstrip("\ufeff").partition("\n")[0]
    return max(",;\t|", key=first.count)


def _check_named(names: Sequence[str], path: Path) -> None:
    require(
        bool(names) and all(names), "data", "a table with a header that names each column", f"{list(names)} in {path}"
    )


def _check_unlike(names: Sequence[str], path: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, "data", "a table whose columns have different names", f"{listed(twice)} twice in {path}")


def _check_header(names: Sequence[str], columns: Iterable[Iterable[str]], path: Path) -> None:
    """Raise `Invalid` where the first line is a row: each of its cells is like those below it.

    That is a number, whatever is below it, or one of the words of its column.
    """
    rule = "a table whose first line names the columns (add such a line at the top)"
    found = f"{listed(names)} in the first line of {path}, which are values like those below them"
    require(not all(map(_is_value, names, columns)), "data", rule, found)


def _is_value(name: str, column: Iterable[str]) -> bool:
    return _floats([name]) is not None or name.casefold() in MISSING or name in map(str.strip, column)


def _parquet(path: Path) -> Table:
    try:
        from pyarrow import parquet
    except (ImportError, RuntimeError) as error:
        raise StealguardError(f"`{path}` needs PyArrow: pip install 'stealguard[parquet]' ({error}).") from error
    try:
        table = parquet.read_table(path)
    except Exception as error:  # pyarrow has no common base of its errors
        raise Invalid("data", "a Parquet file", f"{path} ({(str(error).splitlines() or [''])[0]})") from error
    index = (table.schema.pandas_metadata or {}).get("index_columns", [])  # pandas stores it last, and reads it as none
    names = [name for name in table.column_names if name not in index]
    _check_named(names, path)
    _check_unlike(names, path)
    return {name: table.column(name).to_pylist() for name in names}
