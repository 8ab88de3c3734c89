"""One way to show how far long work has come: a bar on stderr or in Jupyter, lines in a log. Torch-free."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Protocol


class Tick(Protocol):
    """Takes how much is done, and a short note about it."""

    def __call__(self, done: float, note: str = "", /) -> None: ...


def silent(done: float, note: str = "", /) -> None:
    """The tick of a bar that is not shown."""


@contextmanager
def bar(
    title: str, total: float | None, *, show: bool = True, size: bool = False, lines: float = math.inf
) -> Iterator[Tick]:
    """A progress bar of `total` steps, or bytes where `size`, on stderr; yields its tick. Silent unless `show`.

    In Jupyter the bar is below the cell. A `total` of None is unknown: the bar then only pulses. Where stderr is no
    terminal, one line with the seconds that the work took comes at the end, and before it one every `lines` seconds,
    with an estimate of the seconds left.
    Titles and notes are shown as they are: brackets in them mean nothing.
    """
    if not show:
        yield silent
        return
    if in_jupyter():
        with _below_the_cell(title, total) as tick:
            yield tick
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    amount = DownloadColumn() if size else MofNCompleteColumn()
    label = TextColumn("{task.description}", markup=False)
    note = TextColumn("{task.fields[note]}", style="dim", markup=False)
    started = said = time.monotonic()
    columns = (label, BarColumn(), amount, TimeRemainingColumn(), note)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        row = progress.add_task(title, total=total, note="")

        def tick(done: float, word: str = "", /) -> None:
            nonlocal said
            now = time.monotonic()
            if not console.is_terminal and total and now - said >= lines:
                left = f", about {(now - started) * (total - done) / done:.0f} s left" if done else ""
                console.print(f"{title}: {done:g} of {total:g} done, {word}{left}")
                said = now
            progress.update(row, completed=done, note=word or progress.tasks[row].fields["note"])

        yield tick
        progress.update(row, total=total or 1, completed=total or 1)
    if not console.is_terminal:
        console.print(f"{title}: {time.monotonic() - started:.0f} s  {progress.tasks[row].fields['note']}")


def in_jupyter() -> bool:
    """Whether this process is the kernel of a notebook, Colab's included."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", bool)()
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


REDRAWN = 0.2  # seconds between two drawings of a bar in Jupyter, at least


@contextmanager
def _below_the_cell(title: str, total: float | None) -> Iterator[Tick]:
    """A bar that is drawn again in the output of the cell."""
    from IPython.display import HTML, display

    started = time.monotonic()
    drawn, said = started, ""
    handle = display(HTML(_drawn(title, 0, total, "")), display_id=True)

    def tick(done: float, note: str = "", /) -> None:
        nonlocal drawn, said
        said = note or said
        if time.monotonic() - drawn >= REDRAWN:
            drawn = time.monotonic()
            handle.update(HTML(_drawn(title, done, total, said)))

    yield tick
    handle.update(HTML(_drawn(title, total or 1, total or 1, f"{time.monotonic() - started:.0f} s  {said}")))


def _drawn(title: str, done: float, total: float | None, note: str) -> str:
    """A bar in HTML; one without a value, which pulses, where the total is not known."""
    value = f' value="{done:g}" max="{total:g}"' if total else ""
    return f"{escape(title)} <progress{value}></progress> {escape(note)}"
