"""The report and its drawings as objects that a notebook shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from stealguard.files import write_text
from stealguard.report.grouping import summary
from stealguard.report.page import TITLE, drawings, html
from stealguard.results import Row

CSS = Path(__file__).with_name("page.css")
FRAME = '<iframe srcdoc="{}" sandbox="allow-scripts" style="width:100%;height:{}px;border:0"></iframe>'


@dataclass(frozen=True)
class Report:
    """The report on some rows: a notebook shows it, and `write` makes the file.

    Args:
        rows: at least one.
        title: the headline.
        height: of what a notebook shows, in pixels.

    Raises:
        Invalid: there are no rows.

    >>> from stealguard.results import read
    >>> Report(read("docs/results/mnist-lenet5.jsonl"), title="InI").html.count("<h1>InI</h1>")
    1
    """

    rows: Iterable[Row] = field(repr=False)
    title: str = TITLE
    height: int = 720

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        summary(self.rows)

    @property
    def html(self) -> str:
        """The page."""
        return html(summary(self.rows), self.title, command="")

    def write(self, path: str | Path) -> None:
        """Write the page, whole or not at all."""
        write_text(Path(path), self.html)

    def _repr_html_(self) -> str:
        return FRAME.format(escape(self.html), self.height)


@dataclass(frozen=True)
class Figure:
    """A drawing of the report.

    Attributes:
        title: what is drawn.
        caption: how to read it.
        svg: the drawing; its colors are variables of the report's style sheet.
    """

    title: str
    caption: str
    svg: str = field(repr=False)

    def _repr_html_(self) -> str:
        page = (
            f"<!doctype html><style>{CSS.read_text(encoding='utf-8')}</style><figure><h2>{escape(self.title)}</h2>"
            f"<figcaption>{escape(self.caption)}</figcaption>{self.svg}</figure>"
        )
        return FRAME.format(escape(page), 560)


def figures(rows: Iterable[Row]) -> list[Figure]:
    """The drawings of the report on these rows, those that have something to show.

    Raises:
        Invalid: there are no rows.

    >>> from stealguard.results import read
    >>> [figure.title for figure in figures(read("docs/results/mnist-lenet5.jsonl"))][0]
    'Benign accuracy against clone accuracy'
    """
    return [Figure(one.title, one.caption, str(one.drawing)) for one in drawings(summary(rows))]
