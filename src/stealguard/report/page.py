"""The report as one HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stealguard.errors import counted
from stealguard.files import write_text
from stealguard.report import naming, pictures
from stealguard.report.cells import Cell, Group, Line, Problem, stolen_of
from stealguard.report.comparing import RANKING, against, baselines, rankings
from stealguard.report.drawing import FEW, Shown, shown
from stealguard.report.facts import Facts, facts
from stealguard.report.gaps import not_audited
from stealguard.report.grouping import summary
from stealguard.report.honest import honest_users
from stealguard.report.lines import lines_of, own_lines
from stealguard.report.naming import circumstances, task_names
from stealguard.report.runs import commands, duration, facts_of_runs
from stealguard.report.statistics import Difference
from stealguard.report.verdicts import (
    OPEN,
    RULE,
    UNDECIDED,
    Verdict,
    below_chance,
    claim,
    explain,
    headline,
    notes,
    overall,
    verdicts,
)
from stealguard.results import Row

TITLE = "How stealable is it?"
TONES = {"holds": "good", "holds in part": "mixed", UNDECIDED: "mixed", "does not hold": "bad", OPEN: "bad"}
MAX_FAULTS = 300
COLUMNS = [  # a fact, its heading, its unit and its digits
    ("top_1_kept", "Top-1 kept", 100, 1), ("distortion", "L1", 1, 2), ("calibration_error", "ECE", 1, 3),
    ("cost_1", "Time, batch 1", 1, 2), ("cost_64", "Batch 64", 1, 2), ("training", "Training", 1, 1),
]  # fmt: skip


def write_html(rows: Iterable[Row], path: str | Path, title: str = TITLE, command: str = "") -> None:
    """Write the report as one HTML file, whole or not at all.

    `command` is shown as what made the rows. Raises `Invalid` where there are no rows.

    Example:
        >>> rows = results.read("docs/results/mnist-lenet5.jsonl")
        >>> sg.report.write_html(rows, "report.html", title="InI on MNIST")
    """
    write_text(Path(path), html(summary(rows), title, command))


def html(groups: Sequence[Group], title: str, command: str) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tools = (
        naming.percent,
        naming.number,
        naming.signed,
        naming.plain,
        naming.cell_text,
        naming.beside,
        stolen_of,
        csp_hash,
    )
    environment.filters |= {tool.__name__: tool for tool in tools}
    baseline, lines = baselines(groups), lines_of(groups)
    known = {group.name: facts(group, baseline.get(group.name)) for group in groups}
    best = {found.best.name for found in rankings(groups).values() if found.best}
    cards = [_card(one, baseline.get(one.group.name), known[one.group.name], best) for one in shown(groups)]
    rows = [row for group in groups for row in group.rows]
    faults = _faults(groups)
    return environment.get_template("page.html.j2").render(
        title=title,
        command=command,
        about=_about(groups),
        circumstances=_sentence(circumstances(groups)),
        cards=cards,
        honest=honest_users(groups),
        legend=list({card.shown.kind: card.shown for card in cards}.values()),
        few=len(groups) <= FEW + 1,
        filters=_filters(groups, lines),
        rankings=[found.sentence for found in rankings(groups).values()],
        ranking_rule=RANKING,
        notes=notes(groups),
        figures=_figures([card.shown for card in cards], known),
        columns=[column for column in COLUMNS if any(getattr(card.facts, column[0]) for card in cards)],
        lines=lines,
        titles=naming.titles(lines),
        own=own_lines(groups),
        tip=_tip,
        rule=RULE,
        faults=faults[:MAX_FAULTS],
        more_faults=max(0, len(faults) - MAX_FAULTS),
        commands=commands(rows),
        facts=facts_of_runs(groups),
    )


def drawings(groups: Sequence[Group]) -> list[Picture]:
    """Every drawing of the page."""
    baseline = baselines(groups)
    return _figures(shown(groups), {group.name: facts(group, baseline.get(group.name)) for group in groups})


class Card(NamedTuple):
    """What the page says of a group, in short."""

    shown: Shown
    group: Group
    baseline: Group | None
    facts: Facts
    verdicts: list[Verdict]
    word: str
    tone: str
    headline: str
    explanation: str
    gaps: str  # what was not audited; "" where nothing is judged
    warning: str  # of clones below chance
    best: bool
    difference: Difference | None  # of the worst cell to its line on the baseline


def _card(one: Shown, baseline: Group | None, known: Facts, best: set[str]) -> Card:
    group = one.group
    found = verdicts(group, baseline)
    word = "undefended" if group.undefended else overall(found)
    if group.unknown and word == "does not hold":  # no defense is known that could hold
        word = OPEN
    tone, change = TONES.get(word, "plain"), against(group, group.worst, baseline)
    said = headline(group, baseline), explain(found), not_audited(group) if found else "", below_chance(group)
    return Card(one, group, baseline, known, found, claim(word), tone, *said, group.name in best, change)


class Picture(NamedTuple):
    """A drawing of one task, and what to know to read it."""

    task: Problem
    title: str
    caption: str
    kinds: set[str]  # what the legend names
    drawing: Markup


def _figures(groups: Sequence[Shown], known: dict[str, Facts]) -> list[Picture]:
    """Every drawing that has something to show, kind by kind and task by task."""
    by_task: dict[Problem, list[Shown]] = defaultdict(list)
    for one in groups:
        by_task[one.group.task].append(one)
    several = [len({task[part] for task in by_task}) > 1 for part in (0, 1)]
    found = []
    for title, caption, draw in (
        (FRONTIER, "Lower is harder to steal, and further right is more useful, so the lower right corner is best. "
         "Bars are 95 % intervals. A line joins the settings of one defense.", pictures.frontier),
        ("Clone accuracy against the budget", "The thick line is the worst clone with that budget or less. Thin "
         "lines are the single attacks; they are drawn where there are few defenses.", pictures.curves),
        ("Time of an answer", "Further left is faster, and lower is harder to steal. A thin line leads to the same "
         "ratio at batch 1.", lambda shown, where: pictures.answering(shown, known, where)),
        ("Time of training", "Further left is faster, and lower is harder to steal.",
         lambda shown, where: pictures.training(shown, known, where)),
        ("Clone accuracy by attack", "On the test set, after 20 labeled samples renamed the clone's classes where that "
         "is more. A bar through a mark is its 95 % interval.", _strips),
    ):  # fmt: skip
        for task, some in by_task.items():
            where = " on " + ", ".join(part for part, differs in zip(task[:2], several, strict=True) if differs)
            where *= any(several)
            drawing = draw(some, where)
            told = caption + _left_out(some) * (draw is _strips)
            found.append(Picture(task, title + where, told, {one.kind for one in some}, Markup(drawing)))
    return [picture for picture in found if picture.drawing]


FRONTIER = "Benign accuracy against clone accuracy"


def _strips(groups: Sequence[Shown], where: str) -> str:
    """Only where few marks lie on each strip: else the matrix shows the same."""
    return pictures.strips(groups, where) if len(groups) <= FEW + 1 else ""


def _left_out(groups: Sequence[Shown]) -> str:
    lines = {line for one in groups for line, cell in one.group.cells.items() if cell.clone}
    more = len(lines) - pictures.MAX_STRIPS
    return f" These are the attacks with the highest clone accuracy; {more} more are in the table." if more > 0 else ""


def _filters(groups: Sequence[Group], lines: Sequence[Line]) -> Mapping[str, list[str]]:
    """The values that can be chosen, by name, where there is a choice; nothing where all is seen at a glance."""
    if len(groups) + len(lines) <= 10:
        return {}
    choices = {
        "data": {group.task.data for group in groups},
        "defense": {group.defense for group in groups},
        "attack": {line.attack for line in lines},
        "labels": {line.labels for line in lines},
    }
    return {name: sorted(values) for name, values in choices.items()}


def _about(groups: Sequence[Group]) -> str:
    """What was audited, in one line."""
    sets = sorted(task_names(group.task for group in groups).values())
    victims = sum(len(group.victims) for group in groups)
    rows = sum(len(group.rows) for group in groups)
    kinds = [counted(len(groups), "setting")] if len(groups) != victims else []
    return " · ".join([", ".join(sets), *kinds, counted(victims, "victim"), counted(rows, "row")])


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _tip(cell: Cell, group: Group, baseline: Group | None) -> str:
    """What the matrix tells of a cell when pointed at."""
    asked = f"{counted(max(row.queries for row in cell.rows), 'answer')} on {counted(cell.line.accounts, 'account')}"
    told = [naming.samples(cell), asked, duration(cell.rows)]
    if cell.clone:
        told.insert(0, f"agrees {100 * (cell.agreement or 0):.1f}")
        if cell.clone.half is not None:
            over = "victims" if cell.victims > 1 else "seeds"
            told.insert(0, f"95 % interval over {over} {100 * cell.clone.low:.1f} to {100 * cell.clone.high:.1f}")
        if change := against(group, cell, baseline):
            told.append(f"{naming.signed(change)} points to undefended ({counted(change.n, 'pair')})")
        told += naming.beside(cell) + [f"below chance: {naming.BELOW_CHANCE}"] * cell.below_chance
        told += [] if cell.chance is None else [f"chance {100 * cell.chance:.1f}"]
    told += [f"seed {row.seed} {naming.outcome(row)}: {row.reason}" for row in cell.faults]
    return "; ".join(told)


def _faults(groups: Sequence[Group]) -> list[tuple[int, Line, str, str, list[int]]]:
    """The group's number, line, outcome, reason, and the seeds whose rows ended so."""
    found: dict[tuple[int, Line, str, str], list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        for line, cell in group.cells.items():
            for row in cell.faults:
                found[number, line, naming.outcome(row), row.reason].append(row.seed)
    return [(*what, seeds) for what, seeds in found.items()]


def csp_hash(script: str) -> str:
    """The hash of the page's own script: the browser runs no other, even if one passed the escaping."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
