"""Audit rows -> a table to print and one self-contained HTML page. Importing this loads no torch and draws nothing.

    rows = stealguard.results.read("runs/ini")
    print(report.render(rows, "table"))
    report.write_html(rows, "report.html")

Rows become groups of cells (`grouping`), which are compared (`comparing`) and judged (`verdicts`); `tables`, `records`,
`pictures` and the `page` show all three.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stealguard.report.grouping import summary
    from stealguard.report.inline import Figure, Report, figures
    from stealguard.report.page import write_html
    from stealguard.report.tables import render, table

__all__ = ["Figure", "Report", "figures", "render", "summary", "table", "write_html"]

_HOMES = {
    "Figure": "inline", "Report": "inline", "figures": "inline", "render": "tables", "summary": "grouping",
    "table": "tables", "write_html": "page",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
