"""Questions about lines across groups: which there are, where clones reach most, what a larger budget gives."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

from stealguard.report.cells import Cell, Group, Line


def order(line: Line) -> tuple[object, ...]:
    """Lines in reading order: soft answers, which tell an attacker more, before hard ones."""
    how = (line.labels != "soft", line.treatment, line.budget, line.accounts, line.attack_settings)
    return (line.own, line.attack, line.pool, *how, line.clone, line.clone_hash)


def lines_of(groups: Iterable[Group]) -> list[Line]:
    """Every line that some group has, in reading order."""
    return sorted({line for group in groups for line in group.cells}, key=order)


def most_stealable(groups: Sequence[Group], limit: int) -> list[Line]:
    """The `limit` lines where some clone reaches most, in reading order; lines without a number left out."""
    reached: dict[Line, float] = {}
    for cell in (cell for group in groups for cell in group.cells.values() if cell.clone):
        reached[cell.line] = max(cell.reached, reached.get(cell.line, 0.0))
    most = sorted(sorted(reached, key=order), key=lambda line: -reached[line])
    return sorted(most[:limit], key=order)


def ways(group: Group) -> list[list[Cell]]:
    """The cells with a number that differ in nothing but the budget, by budget; none of attackers with task data."""
    found: dict[Line, list[Cell]] = defaultdict(list)
    for line, cell in group.cells.items():
        if cell.clone and not line.own:
            found[line._replace(attack_settings=_without_budget(line.attack_settings), budget=0)].append(cell)
    return [sorted(cells, key=lambda cell: cell.line.budget) for cells in found.values()]


@cache
def _without_budget(settings: str) -> str:
    return json.dumps({name: value for name, value in json.loads(settings).items() if name != "budget"})


def worst_line(group: Group) -> list[tuple[int, float]]:
    """Budgets, rising, and the most that a clone reaches with that budget or less, without task data."""
    most: dict[int, float] = {}
    reached = 0.0
    for cell in sorted(itertools.chain(*ways(group)), key=lambda cell: cell.line.budget):
        most[cell.line.budget] = reached = max(cell.reached, reached)
    return list(most.items())


def own_lines(groups: Iterable[Group]) -> set[Line]:
    """The lines whose pool is in-family for some victim: a held-out part of its own outliers."""
    return {line for group in groups for line, cell in group.cells.items() if cell.in_family}
