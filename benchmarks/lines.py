"""Rows of benchmarks as JSON lines of a file, and as a table in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def add(rows: Iterable[dict[str, Any]], out: Path | None) -> None:
    """Add a line for each row to the file, once all are there; print them if there is none."""
    lines = [json.dumps(row) for row in rows]
    if out is None:
        print("\n".join(lines), flush=True)
    else:
        with out.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)


def markdown(table: Iterable[Sequence[str]]) -> str:
    """The table of these lines: the head, the alignment of columns, and what stands below."""
    return "\n".join(f"| {' | '.join(line)} |" for line in table)
