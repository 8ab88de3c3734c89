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
    format: str | None = None,
    title: str | None = None,
    json_: Json = False,
) -> None:
    """Print a table of audit rows, and write one self-contained page.

    Parameters
    ----------
    sources
        Release folders, SQLite stores or files of JSON lines (.jsonl).
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
    rows = [row for source in sources for row in read(source)]
    print(render(rows, "json" if json_ else format or "table", width=columns()))
    if out is not None:
        titled = {} if title is None else {"title": title}
        write_html(rows, out, **titled, command=" ".join(["stealguard", *sys.argv[1:]]))
        print(f"wrote {out}", file=sys.stderr)
