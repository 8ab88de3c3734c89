"""Small pieces of HTML that a notebook shows. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of texts, whatever signs are in them.

    >>> table(["net"], [["<b>"]])
    '<table><thead><tr><th>net</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{told}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def percent(fraction: float | None) -> str:
    """A fraction in %, to a decimal; "-" for None.

    >>> percent(0.1234), percent(None)
    ('12.3 %', '-')
    """
    return "-" if fraction is None else f"{100 * fraction:.1f} %"
