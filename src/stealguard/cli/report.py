"""`stealguard report`."""

from __future__ import annotations

import sys
from pathlib import Path

from stealguard.cli.options import Json
from stealguard.cli.printing import columns


def report(
    sources: list[Path],
    *,
    out: Path | None = None,
    format: str = "table",
    title: str = "How stealable is it?",
    json_: Json = False,
) -> None:
    """Print a table of audit rows, and write one self-contained page.

    Parameters
    ----------
    sources
        Release folders, SQLite stores or JSON-lines files.
    out
        The HTML file to write.
    format
        What to print: table, markdown, latex, csv or json (the last two: one record for each cell).
    title
        The page's headline.
    json_
        Print one record for each cell as JSON: short for --format json.
    """
    from stealguard.report import render, write_html
    from stealguard.results import read

    rows = [row for source in sources for row in read(source)]
    print(render(rows, "json" if json_ else format, width=columns()))
    if out is not None:
        write_html(rows, out, title=title, command=" ".join(["stealguard", *sys.argv[1:]]))
        print(f"wrote {out}", file=sys.stderr)
