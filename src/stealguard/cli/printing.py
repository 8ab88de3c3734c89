"""What commands print: rows and small tables."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from stealguard.errors import printable

if TYPE_CHECKING:
    from stealguard.results.row import Row


class RowsFailed(SystemExit):
    """The end of a command that did its work, some of which failed."""


def print_rows(rows: Iterable[Row], *, as_json: bool) -> None:
    """Rows as a table that fits the terminal, or as JSON lines."""
    from stealguard.report import render

    print("\n".join(json.dumps(row.record()) for row in rows) if as_json else render(rows, width=columns()))


def columns() -> int:
    """The width of the terminal in characters, or what COLUMNS says; 80 where output goes elsewhere."""
    return shutil.get_terminal_size((80, 24)).columns


def exit_if_failed(rows: Sequence[Row]) -> None:
    """Print to stderr why rows were skipped or failed, and what others tell; end with status 1 if any failed."""
    _tell_reasons("notice", [row for row in rows if row.status == "ok" and row.reason])
    _tell_reasons("skipped", [row for row in rows if row.status == "skip"])
    failed = [row for row in rows if row.status == "failed"]
    _tell_reasons("failed", failed)
    if failed:
        print(f"{len(failed)} of {len(rows)} thefts failed; the same command tries them again", file=sys.stderr)
        raise RowsFailed(1)


def _tell_reasons(word: str, rows: Iterable[Row]) -> None:
    """Each reason once, on stderr."""
    reasons = (f"{row.victim.name} on {row.victim.data}, {row.attack}: {row.reason}" for row in rows)
    for reason in dict.fromkeys(reasons):
        print(f"{word}: {reason}", file=sys.stderr)


def one_line_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a warning to stderr in one line, without the line of code that it came from: a `warnings.showwarning`."""
    print(f"warning: {printable(str(message))}", file=sys.stderr)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows of texts under headings; brackets in them mean nothing, nor do signs that a terminal would obey."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(Text(printable(text)) for text in row))
    Console().print(table)
