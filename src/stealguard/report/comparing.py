"""Groups against each other: the undefended baseline, paired differences, and which defense is best, if any."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stealguard.errors import counted
from stealguard.report.cells import Cell, Group, Problem, stolen_of
from stealguard.report.naming import number, task_names
from stealguard.report.statistics import Difference, pooled


def baselines(groups: Iterable[Group]) -> dict[str, Group]:
    """By the name of each defended group, the undefended one of its task that shares most lines with it.

    Of those that share as many, the one that was trained as it was.
    """
    undefended, found = defaultdict(list), {}
    for group in groups:
        if group.undefended:
            undefended[group.task].append(group)
    for group in groups:
        if not (group.undefended or group.unknown) and (fitting := undefended[group.task]):
            found[group.name] = max(fitting, key=lambda other: _likeness(other, group))
    return found


def _likeness(a: Group, b: Group) -> tuple[int, bool]:
    return len(a.cells.keys() & b.cells.keys()), a.rows[0].victim.training == b.rows[0].victim.training


def paired(cell: Cell | None, other: Cell | None) -> Difference | None:
    """What attackers make of the clones of `cell` minus that of `other`, of the same victim's and attacker's seeds.

    Averaged within a victim's seed first where there are two or more, like the cells' own means.
    """
    if cell is None or other is None:
        return None
    theirs = {(row.victim.seed, row.seed): row.stolen_accuracy for row in other.done}
    differences = [
        (row.victim.seed, row.stolen_accuracy - before)
        for row in cell.done
        if row.stolen_accuracy is not None and (before := theirs.get((row.victim.seed, row.seed))) is not None
    ]
    return Difference.of(pooled(differences))


def against(group: Group, cell: Cell | None, baseline: Group | None) -> Difference | None:
    """What the defense changes in a cell of `group`: the paired difference to the same line of its baseline."""
    return paired(cell, baseline.cells.get(cell.line)) if cell and baseline else None


class Ranking(NamedTuple):
    """Which defense of a task has the lowest worst clone, if the intervals carry one, in words."""

    best: Group | None
    sentence: str


RANKING = (
    "A defense is called best where its worst clone accuracy is lowest, where the 95 % interval of the paired "
    "difference (same victim seed and attacker's seed) to the worst clone of every other defense of the task excludes "
    "0, and where every attack that another defense was tested with was tried on it too."
)


def rankings(groups: Iterable[Group]) -> dict[Problem, Ranking]:
    """A ranking for each task on which two defenses or more have a number."""
    groups = list(groups)
    where = task_names(group.task for group in groups)
    by_task: dict[Problem, list[Group]] = defaultdict(list)
    for group in groups:
        if not (group.undefended or group.unknown) and group.worst:
            by_task[group.task].append(group)
    return {task: _ranking(where[task], found) for task, found in by_task.items() if len(found) > 1}


def _ranking(where: str, groups: Sequence[Group]) -> Ranking:
    lowest = min(groups, key=lambda group: group.worst.reached if group.worst else 1.0)
    others = [group for group in groups if group is not lowest]
    spared = [group for group in others if _finished(group) - _finished(lowest)]
    if spared:
        ways = len(set().union(*map(_finished, spared)) - _finished(lowest))
        why = (
            f"{lowest.label} is lowest, but was not tested with {counted(ways, 'attack')} that others were tested with"
        )
        return Ranking(None, f"{where}: no best: {why}.")
    if lowest.at_chance:
        return Ranking(None, f"{where}: no best: {lowest.label} is lowest, but is itself no better than chance.")
    if lowest.worst and lowest.worst.below_chance and not lowest.worst.renamed:
        why = f"{lowest.label} is lowest, but its clones are below chance, and no renaming was measured"
        return Ranking(None, f"{where}: no best: {why}.")
    found = {group.label: paired(lowest.worst, group.worst) for group in others}
    unknown = [name for name, difference in found.items() if difference is None or difference.half is None]
    if unknown:
        why = f"{lowest.label} is lowest, but it and {_list(unknown)} have fewer than two seeds in common"
        advice = "so that this may be an accident: audit them with the same seeds, two or more (`--seeds 0 1 2`)"
        return Ranking(None, f"{where}: no best: {why}, {advice}.")
    if tied := [name for name, d in found.items() if d and (d.mean >= 0 or not d.excludes_zero)]:
        return Ranking(None, f"{where}: no best: intervals overlap ({lowest.label} is lowest, beside {_list(tied)}).")
    clone, benign = number(stolen_of(lowest.worst)), number(lowest.benign)
    told = f"the worst clone reaches {clone} %, at a benign accuracy of {benign} %"
    return Ranking(lowest, f"{where}: best is {lowest.label}: {told}.")


def _finished(group: Group) -> set[object]:
    return {line for line, cell in group.cells.items() if cell.clone and not line.own}


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
