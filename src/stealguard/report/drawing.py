"""Matplotlib figures -> SVG that follows the page's light or dark colors, with marks that tell their numbers."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stealguard.report.cells import Group

# Matplotlib knows no CSS. It draws in these marker colors, and `svg` replaces them with the page's variables.
INK, MUTED, RULE_COLOR, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0505{number:02x}" for number in range(7))  # 0: undefended
CSS = {INK: "currentColor", MUTED: "var(--muted)", RULE_COLOR: "var(--rule)", PAPER: "var(--paper)"} | {
    color: f"var(--series-{number})" for number, color in enumerate(SERIES)
}
SHAPES = "osD^vP"  # never by color alone
SIGNS = "●■◆▲▼✚"  # the same shapes, for the page's text
FEW = 6  # groups of different labels that can have a color each

STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), MUTED),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), RULE_COLOR),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.axisbelow": True,
    "font.size": 9,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "text.parse_math": False,
}


class Shown(NamedTuple):
    """A group as the page shows it: its number there, and what it shares color and shape with."""

    number: int
    group: Group
    kind: str  # its label; where those are too many, its defense
    color: int  # 0 where undefended, else 1 to 6
    shape: int

    @property
    def sign(self) -> str:
        return SIGNS[self.shape] if self.color else "○"


def shown(groups: Sequence[Group]) -> list[Shown]:
    """A color and a shape for each label while there are few, else for each defense; the same on every task."""
    few = len({group.label for group in groups if not group.undefended}) <= FEW
    turns: dict[str, int] = {}
    found = []
    for number, group in enumerate(groups):
        kind = group.label if few else group.defense
        if group.undefended:
            found.append(Shown(number, group, group.label if few else "undefended", 0, 0))
        else:
            turn = turns.setdefault(kind, len(turns))
            found.append(Shown(number, group, kind, 1 + turn % 6, (turn + turn // 6) % 6))
    return found


def chance(groups: Sequence[Shown]) -> float | None:
    """The accuracy of guessing in percent, where it is known and the same for every group."""
    found = {one.group.chance for one in groups}
    only = found.pop() if len(found) == 1 else None
    return 100 * only if only else None


def draw_chance(axes: Axes, groups: Sequence[Shown], *, upright: bool = False, told: bool = True) -> None:
    """A dashed line at the accuracy of guessing, where that is known."""
    if not (guess := chance(groups)):
        return
    style: Any = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3))}
    (axes.axvline if upright else axes.axhline)(guess, **style)
    if told:
        at: Any = {"xy": (guess, 1), "xycoords": ("data", "axes fraction"), "xytext": (3, 0), "va": "bottom"}
        flat: Any = {"xy": (0, guess), "xycoords": ("axes fraction", "data"), "xytext": (3, 3)}
        axes.annotate("chance", color=MUTED, fontsize=8, textcoords="offset points", **(at if upright else flat))


def mark(axes: Axes, x: float, y: float, one: Shown, tip: str, size: float) -> None:
    """A mark that tells `tip` when pointed at: `svg` makes a tooltip of its id."""
    face = PAPER if one.color == 0 else SERIES[one.color]  # hollow where undefended
    style: Any = {"markeredgecolor": SERIES[one.color], "markeredgewidth": 1.6, "markerfacecolor": face}
    name = f"tip:{one.number}:{tip}"
    axes.plot([x], [y], SHAPES[one.shape], markersize=size, gid=name, clip_on=False, zorder=5, **style)


def bar(axes: Axes, xs: Sequence[float], ys: Sequence[float], one: Shown, width: float) -> None:
    """A line that belongs to a group, and is hidden with it."""
    axes.plot(xs, ys, color=SERIES[one.color], linewidth=width, gid=f"bar:{one.number}", solid_capstyle="butt")


def blank(width: float = 4.6, height: float = 3.6, left: float = 0.62) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` inches with a margin of `left` inches, and its axes."""
    top, bottom, right = 0.22, 0.48, 0.12
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes(box)


def svg(figure: Figure, label: str) -> str:
    """The figure as an `<svg>` to put into a page: colors from the page's CSS, tooltips, no ids that clash."""
    file = io.StringIO()
    matplotlib.rcParams["svg.hashsalt"] = label  # ids that are the same each time, and differ by figure
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser will have it
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"(?<=: )#0[1-5]0[1-5]0[0-9]", lambda found: CSS.get(found[0], found[0]), text)
    text = re.sub(r'<g id="tip:(\d+):([^"]*)">', r'<g class="tip" data-g="\1"><title>\2</title>', text)
    text = re.sub(r'<g id="bar:(\d+)">', r'<g data-g="\1">', text)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    head = f'<svg {box and box[0]} role="img" aria-label="{escape(label)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + text[text.index(">") + 1 :].strip()
