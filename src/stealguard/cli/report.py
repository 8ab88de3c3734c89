"""`stealguard report`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stealguard.cli.options import Json
from stealguard.cli.printing import columns

if TYPE_CHECKING:
    from stealguard.results import Row


def report(
    sources: list[Path],
    *,
    out: Path | None = None,
    format: str | None = None,
    title: str | None = None,
    json_: Json = False,
) -> None:
    """Print a table of audit rows, and write one self-contained page.

    Parameters
    ----------
    sources
        Release folders, SQLite stores or files of JSON lines (.jsonl). Of a folder the rows of its present release
        count, and not those of one that it has replaced.
    out
        The HTML file to write.
    format
        What to print: table (unless told otherwise), markdown, latex, csv or json (the last two: one record for each
        cell).
    title
        The headline of the page that --out names; "How stealable is it?" unless told otherwise.
    json_
        Print one record for each cell as JSON: short for --format json.
    """
    from stealguard.errors import require
    from stealguard.report import render, write_html
    from stealguard.results import read

    require(not json_ or format in (None, "json"), "format", "left out with `--json`", f"`{format}`")
    require(title is None or out is not None, "title", "given with `--out`: it is the page's", f"`{title}`")
    require(out is None or not out.is_dir(), "out", "a file to write", f"the folder `{out}`")
    rows = [row for source in sources for row in _present(source, read(source))]
    print(render(rows, "json" if json_ else format or "table", width=columns()))
    if out is not None:
        titled = {} if title is None else {"title": title}
        write_html(rows, out, **titled, command=" ".join(["stealguard", *sys.argv[1:]]))
        print(f"wrote {out}", file=sys.stderr)


def _present(source: Path, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows; those of a release folder without those of releases that were there before.

    Raises:
        StealguardError: there are rows of earlier releases alone.
    """
    from stealguard.errors import StealguardError
    from stealguard.files import read_text
    from stealguard.identity import identity_of

    try:
        identity = identity_of(json.loads(read_text(source / "recipe.json")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # no release, or a damaged one: `verify` tells
        return rows
    own = [row for row in rows if row.victim.key == identity]
    older = len(rows) - len(own)
    if older and not own:
        raise StealguardError(
            f"`{source}` has no rows of its present release, but {older:,} of earlier ones: "
            f"run `stealguard audit {source}` first."
        )
    if older:
        print(f"notice: rows of earlier releases in `{source}`, which are left out: {older:,}", file=sys.stderr)
    return own
