"""The drawings of one task: the frontier, the budget curves, what protection costs, and every clone accuracy."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from stealguard.report.cells import Line, stolen_of
from stealguard.report.drawing import FEW, PAPER, RULE_COLOR, STYLE, Shown, bar, blank, draw_chance, mark, svg
from stealguard.report.facts import Facts
from stealguard.report.lines import lines_of, most_stealable, own_lines, ways, worst_line
from stealguard.report.naming import number, percent, plain, titles
from stealguard.report.statistics import Spread
from stealguard.report.verdicts import named

MAX_STRIPS = 40


@matplotlib.rc_context(STYLE)
def frontier(groups: Sequence[Shown], where: str = "") -> str:
    """SVG: benign accuracy against the worst clone accuracy; empty without points."""
    figure, axes = blank()
    points = [(one, one.group.benign, worst) for one in groups if (worst := stolen_of(one.group.worst))]
    found = [(one, benign, worst) for one, benign, worst in points if benign]
    if not found:
        return ""
    size = 8 if len(found) <= 12 else 5.5
    _join(axes, ((one, 100 * benign.mean, 100 * worst.mean) for one, benign, worst in found))
    for one, benign, worst in found:
        x, y = 100 * benign.mean, 100 * worst.mean
        if worst.half is not None:
            bar(axes, [x, x], [100 * worst.low, 100 * worst.high], one, 1)
        if benign.half is not None:
            bar(axes, [100 * benign.low, 100 * benign.high], [y, y], one, 1)
        mark(axes, x, y, one, f"{one.group.name}: benign {number(benign)} %, worst clone {number(worst)} %", size)
    ends = [100 * end for _, benign, _ in found for end in (benign.low, benign.high)]
    room = max(0.5, 0.08 * (max(ends) - min(ends))) if len(found) > 1 else 2
    axes.set(xlim=(max(0, min(ends) - room), min(100.6, max(ends) + room)), ylim=(-2, 104))
    axes.set(xlabel="benign accuracy, %  (more is better)", ylabel="worst clone accuracy, %  (less is better)")
    axes.grid(True)
    draw_chance(axes, groups)
    return svg(figure, f"Benign accuracy against worst clone accuracy{where}, a point a defense")


def _join(axes: Axes, points: Iterable[tuple[Shown, float, float]]) -> None:
    """A thin line through the settings of one defense, from left to right."""
    by_kind: dict[str, list[tuple[float, float, Shown]]] = defaultdict(list)
    for one, x, y in points:
        by_kind[one.kind].append((x, y, one))
    for found in by_kind.values():
        found.sort(key=lambda point: point[:2])
        for (x, y, one), (to_x, to_y, _) in itertools.pairwise(found if found[0][2].color else []):
            bar(axes, [x, to_x], [y, to_y], one, 0.8)


@matplotlib.rc_context(STYLE)
def curves(groups: Sequence[Shown], where: str = "") -> str:
    """SVG: clone accuracy against the budget, a thin line an attack, a thick one for the worst; or empty.

    There is nothing to draw where all attackers have the same budget. Of many groups only the worst is drawn.
    """
    worst = [worst_line(one.group) for one in groups]
    if len({budget for line in worst for budget, _ in line}) < 2:
        return ""
    few = len(groups) <= FEW + 1
    figure, axes = blank()
    axes.set(xscale="log", ylim=(-2, 104))
    axes.set(xlabel="budget, queries", ylabel="clone accuracy, %  (less is better)")
    axes.grid(True)
    for one, line in zip(groups, worst, strict=True):
        for cells in ways(one.group) if few else []:
            bar(axes, [cell.line.budget for cell in cells], [100 * cell.reached for cell in cells], one, 0.5)
        bar(axes, [x for x, _ in line], [100 * y for _, y in line], one, 2.2 if few else 1.1)
        for x, y in line:
            tip = f"{one.group.name}: {percent(y)} with a budget of {x:,} queries or less"
            mark(axes, x, 100 * y, one, tip, 6.5 if few else 4.5)
    draw_chance(axes, groups)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    asked = [budget for line in worst for budget, _ in line]
    narrow = max(asked) < 100 * min(asked)  # then powers of ten are too few numbers to read an axis by
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:,.0f}" if narrow and f"{value:.0e}"[0] in "25" else "")
    return svg(figure, f"Clone accuracy against budget{where}, a thick line a defense for the worst clone")


def answering(groups: Sequence[Shown], known: dict[str, Facts], where: str = "") -> str:
    """SVG: the time of an answer at batch 64, a plain net's being 1 (a thin line: to batch 1), against the worst."""
    costs = [(one, known[one.group.name].cost_64, known[one.group.name].cost_1) for one in groups]
    return _costs(groups, costs, "time of an answer, batch 64, plain net = 1", f"Answering time{where}")


def training(groups: Sequence[Shown], known: dict[str, Facts], where: str = "") -> str:
    """SVG: the time that training the victim took, the undefended one's being 1, against the worst clone."""
    costs = [(one, known[one.group.name].training, None) for one in groups]
    return _costs(groups, costs, "time of training, undefended = 1", f"Training time{where}")


@matplotlib.rc_context(STYLE)
def _costs(
    groups: Sequence[Shown], costs: Sequence[tuple[Shown, Spread | None, Spread | None]], label: str, what: str
) -> str:
    """Costs against the worst clone accuracy, a thin line leading to a second cost; empty where none is known."""
    drawn = [
        (one, cost, other, worst) for one, cost, other in costs if cost and (worst := stolen_of(one.group.worst))
    ]  # fmt: skip
    if not any(not one.group.undefended for one, *_ in drawn):
        return ""
    figure, axes = blank()
    for one, cost, other, worst in drawn:
        y = 100 * worst.mean
        tip = f"{one.group.name}: {plain(cost, 1, 2)} times"
        if other:
            bar(axes, [cost.mean, other.mean], [y, y], one, 0.9)
            axes.plot([other.mean], [y], "|", color=RULE_COLOR, markersize=7, zorder=1)
            tip += f" at batch 64, {plain(other, 1, 2)} at batch 1"
        if worst.half is not None:
            bar(axes, [cost.mean] * 2, [100 * worst.low, 100 * worst.high], one, 1)
        mark(axes, cost.mean, y, one, f"{tip}, worst clone {number(worst)} %", 8 if len(drawn) <= 12 else 5.5)
    if axes.get_xlim()[1] > 4:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    axes.set(xlabel=f"{label}  (less is better)", ylabel="worst clone accuracy, %  (less is better)", ylim=(-2, 104))
    axes.grid(True)
    draw_chance(axes, groups)
    return svg(figure, f"{what} against worst clone accuracy, a point a defense")


@matplotlib.rc_context(STYLE)
def strips(groups: Sequence[Shown], where: str = "") -> str:
    """SVG: clone accuracy, a strip a line and a mark a group; the most stealable lines where there are too many."""
    found = [one.group for one in groups]
    lines = most_stealable(found, MAX_STRIPS)
    if not lines:
        return ""
    figure, axes = blank(height=0.75 + 0.42 * len(lines), left=0.12)
    axes.set(xlim=(-1.5, 101.5), ylim=(len(lines) - 0.4, -0.65), yticks=[])
    axes.set_xlabel("clone accuracy, %  (less is better)")
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    draw_chance(axes, groups, upright=True)
    title, own = titles(lines_of(found)), own_lines(found)
    budgets = len({line.budget for line in lines}) > 1
    for height, line in enumerate(lines):
        parts = [title[line], named(line.pool, line in own), line.labels] + [f"{line.budget:,}"] * budgets
        behind: Any = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}
        axes.text(0, height - 0.3, " · ".join(parts), fontsize=8.5, va="center", bbox=behind)
        _strip(axes, height + 0.12, line, groups)
    return svg(figure, f"Clone accuracy by attack, pool and labels{where}, a mark a defense")


def _strip(axes: Axes, height: float, line: Line, groups: Sequence[Shown]) -> None:
    axes.hlines(height, 0, 100, color=RULE_COLOR, linewidth=2.5)
    for one in groups:
        if clone := stolen_of(one.group.cells.get(line)):
            if clone.half is not None:
                bar(axes, [100 * clone.low, 100 * clone.high], [height] * 2, one, 1.6)
            mark(axes, 100 * clone.mean, height, one, f"{one.group.name}: {number(clone)} %", 6.5)
