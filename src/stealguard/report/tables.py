"""The comparison as text: lines down and groups across; where those are too many, groups down."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stealguard.errors import pick
from stealguard.report.cells import Group, Line
from stealguard.report.comparing import Ranking, against, baselines, rankings
from stealguard.report.facts import facts
from stealguard.report.grouping import summary
from stealguard.report.lines import lines_of, own_lines
from stealguard.report.naming import (
    ANSWERS,
    BELOW_CHANCE,
    RENAMED,
    cell_text,
    circumstances,
    number,
    plain,
    signed,
    titles,
    worst_text,
)
from stealguard.report.records import as_csv, as_json
from stealguard.report.verdicts import at_chance, learned_nothing, mixed_pools, silent, unmeasured
from stealguard.results import Row

if TYPE_CHECKING:
    from rich.table import Table

ACROSS = 6  # groups that fit beside each other
WIDE = 120  # columns of a terminal that hold a table of groups with all that is known of each
FEW = 5  # columns of such a table where the terminal is narrower: up to the difference to an undefended net


def render(rows: Iterable[Row], format: str = "table", *, width: int = 160) -> str:
    """The comparison as `table`, `markdown`, `latex`, `csv` or `json` (the last two: a record a cell, fractions).

    A `table` has lines of at most `width` characters. Raises `Invalid` for no rows and for another format.

    Example:
        >>> rows = results.read("docs/results/mnist-lenet5.jsonl")
        >>> sg.report.render(rows, "markdown").splitlines()[0]
        '| attack | pool | labels | budget | undefended | ini | official |'
    """
    chosen: Callable[[Iterable[Row]], str] = pick(FORMATS, format, "format")
    return _as_text(rows, width) if chosen is _as_text else chosen(rows)


@dataclass(frozen=True)
class Sheet:
    """Strings in percent: a head, sections of rows, how many columns stand at the left, which cells are the best."""

    head: list[str]
    sections: list[list[list[str]]]
    left: int
    best: frozenset[str]  # names of groups
    across: bool  # groups are columns
    marks: list[str]  # what the signs mean
    rankings: list[Ranking]

    def bold(self, row: Sequence[str], column: int) -> bool:
        """Whether this is the number by which a defense is best."""
        if self.across:
            return row[0] == "worst" and column >= 4 and self.head[column] in self.best
        return row[0] in self.best and self.head[column] == "worst clone"


def sheet(rows: Iterable[Row]) -> Sheet:
    """Raises `Invalid` for no rows."""
    groups = summary(rows)
    ranking = list(rankings(groups).values())
    best = frozenset(found.best.name for found in ranking if found.best)
    lines, own = lines_of(groups), own_lines(groups)
    if len(groups) <= ACROSS:
        head = ["attack", "pool", "labels", "budget", *(group.name for group in groups)]
        sections, left, across = _lines_down(groups, lines, own), 3, True
    else:
        head = [
            "defense",
            "benign",
            "worst clone",
            "by",
            "to undefended",
            "top-1 kept",
            "L1",
            "ECE",
            "time",
            "time, 64",
        ]
        sections, left, across = [_groups_down(groups)], 1, False
    marks = ["clone accuracy in %", *circumstances(groups)]
    if any(cell.below_chance for group in groups for cell in group.cells.values()):
        marks.append(f"† below chance: {BELOW_CHANCE}")
    if any(cell.needs_renaming for group in groups for cell in group.cells.values()):
        marks.append(RENAMED)
    if across and any(cell.answers is not None for group in groups for cell in group.cells.values()):
        marks.append(ANSWERS)
    if over := _over(groups):
        marks.append(f"± half a 95 % t-interval over {over}")
    if not across:
        marks.append("to undefended: paired difference in points; time: of an answer, a plain net's being 1")
    if own and across:
        marks.append("* in-family: held out of the defender's outliers, flatters")
    rows = [row for group in groups for row in group.rows]
    marks += [
        *unmeasured(rows),
        *(
            note.rstrip(".")
            for note in (*at_chance(groups), *learned_nothing(groups), *silent(rows), *mixed_pools(rows))
        ),
    ]
    if best:
        marks.append("bold: best, every paired 95 % interval excludes 0")
    return Sheet(head, sections, left, best, across, marks, ranking)


def _over(groups: Iterable[Group]) -> str:
    """What the intervals are over, "" where there are none."""
    spread = [cell for group in groups for cell in group.cells.values() if cell.clone and cell.clone.half is not None]
    victims = any(cell.victims > 1 for cell in spread)
    seeds = any(cell.victims == 1 for cell in spread)
    if victims:
        return "victims, clones averaged first" + ("; of one victim, over its clones' seeds" if seeds else "")
    return "seeds" if seeds else ""


def _lines_down(groups: Sequence[Group], lines: Sequence[Line], own: set[Line]) -> list[list[list[str]]]:
    title, blank = titles(lines), [""] * 3
    body = [
        [title[line], line.pool + ("*" if line in own else ""), line.labels, f"{line.budget:,}"]
        + [cell_text(group.cells.get(line)) for group in groups]
        for line in lines
    ]
    last = [["worst", *blank, *(worst_text(group.worst) for group in groups)]]
    if any(line.own for line in lines):
        owning = (worst_text(group.worst_owning) for group in groups)
        last.insert(0, ["worst, owning task data", *blank, *owning])
    return [[["benign accuracy", *blank, *(number(group.benign) for group in groups)]], body, last]


def _groups_down(groups: Sequence[Group]) -> list[list[str]]:
    baseline, found = baselines(groups), []
    for group in groups:
        beside, worst = baseline.get(group.name), group.worst
        known = facts(group, beside)
        by = f"{worst.line.attack}, {worst.line.pool}, {worst.line.labels}" if worst else "-"
        kept = [number(known.top_1_kept), plain(known.distortion, 1, 2), plain(known.calibration_error, 1, 3)]
        cost = [plain(known.cost_1, 1, 2), plain(known.cost_64, 1, 2)]
        change = signed(against(group, worst, beside))
        found.append([group.name, number(group.benign), worst_text(worst), by, change, *kept, *cost])
    return found


def table(rows: Iterable[Row], *, width: int = 160) -> Table:
    """What the command line prints, for a terminal of that width. Raises `Invalid` for no rows.

    Example:
        >>> rows = results.read("docs/results/mnist-lenet5.jsonl")
        >>> sg.report.table(rows).row_count
        6
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def safe(text: str, style: str = "") -> Text:
        """Neither markup nor control characters: a name must not steer the terminal."""
        return Text("".join(sign if sign.isprintable() else "?" for sign in text), style)

    made_of = sheet(rows)
    shown = len(made_of.head) if made_of.across or width >= WIDE else FEW
    more = ["a wider terminal shows more columns"] * (shown < len(made_of.head))
    caption = Text("; ".join([*made_of.marks, *more]))
    for found in made_of.rankings:
        caption += Text("\n") + safe(found.sentence)
    spaces = (0, 1) if width >= WIDE else (0, 0, 0, 1)
    made = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=spaces, pad_edge=width >= WIDE)
    for column, name in enumerate(made_of.head[:shown]):
        made.add_column(safe(name), justify="left" if column < made_of.left else "right", overflow="fold")
    for section in made_of.sections:
        for row in section:
            bold = (made_of.bold(row, column) for column in range(len(row)))
            made.add_row(*(safe(text, "bold" if best else "") for text, best in zip(row[:shown], bold, strict=False)))
        made.add_section()
    return made


def _as_text(rows: Iterable[Row], width: int = 160) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(table(rows, width=width))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().strip("\n").split("\n"))


def _as_markdown(rows: Iterable[Row]) -> str:
    made_of = sheet(rows)
    signs = str.maketrans({"|": r"\|", "\n": " ", "<": "&lt;", "*": r"\*"})

    def line(row: Sequence[str]) -> str:
        written = (text.translate(signs) for text in row)
        cells = (f"**{text}**" if made_of.bold(row, column) else text for column, text in enumerate(written))
        return f"| {' | '.join(cells)} |\n"

    rule = ["---"] * made_of.left + ["--:"] * (len(made_of.head) - made_of.left)
    body = "".join(line(row) for section in made_of.sections for row in section)
    marks = "; ".join(made_of.marks).translate(signs)
    return (
        f"| {' | '.join(text.translate(signs) for text in made_of.head)} |\n| {' | '.join(rule)} |\n{body}\n{marks}\n"
    )


_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
    | {">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "−": "$-$", "·": r"\textperiodcentered{}"}
    | {"\u202f": r"\,"}
)


def _as_latex(rows: Iterable[Row]) -> str:
    """A tabular for the package booktabs, and what its signs mean as comments."""
    made_of = sheet(rows)

    def line(row: Sequence[str], best: bool) -> str:
        written = ("".join(sign if sign.isprintable() else " " for sign in text).translate(_LATEX) for text in row)
        bold = (best and made_of.bold(row, column) for column in range(len(row)))
        cells = (rf"\textbf{{{text}}}" if carried else text for text, carried in zip(written, bold, strict=True))
        return " & ".join(cells) + " \\\\\n"

    columns = "l" * made_of.left + "r" * (len(made_of.head) - made_of.left)
    sections = ["".join(line(row, best=True) for row in section) for section in made_of.sections]
    comments = [r"needs \usepackage{booktabs}", *made_of.marks, *(found.sentence for found in made_of.rankings)]
    said = "".join(f"% {' '.join(text.split())}\n" for text in comments)
    body = "\\midrule\n".join([line(made_of.head, best=False), *sections])
    return f"{said}\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\\bottomrule\n\\end{{tabular}}\n"


FORMATS = {"table": _as_text, "markdown": _as_markdown, "latex": _as_latex, "csv": as_csv, "json": as_json}
