"""What no row of a group looked at: its report claims nothing beyond the attacks that were made."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from stealguard.errors import counted
from stealguard.report.cells import Cell, Group


class Counter(NamedTuple):
    """Something that an attacker does who knows the defense, and the cells with a number in which one does it."""

    meaning: str
    cells: list[Cell]


def counters(group: Group | None, defense: str) -> list[Counter] | None:
    """What `Defense.countered_by` names, each with the cells of the group; None for a defense of somebody's own."""
    from stealguard.defenses import DEFENSES  # loads torch

    if defense not in DEFENSES:
        return None
    done = [cell for cell in group.cells.values() if cell.clone] if group else []
    known = map(_does, DEFENSES[defense].countered_by)
    return [Counter(meaning, [cell for cell in done if does(cell)]) for does, meaning in known]


def _does(counter: str) -> tuple[Callable[[Cell], bool], str]:
    """Whether a line does what `Defense.countered_by` names, and that in words."""
    kind, _, what = counter.partition(":")
    if counter == "labels":
        return lambda cell: cell.line.labels == "hard", "trains on the most probable class alone"
    if counter == "accounts":
        return lambda cell: cell.line.accounts > 1, "divides the queries over many accounts"
    if kind == "treatment":
        return lambda cell: what in cell.line.treatment.split("+"), f"treats the answers: {what}"
    return lambda cell: cell.line.attack == counter, f"the attack {counter}"


def gaps(group: Group) -> list[str]:
    """What no row says, in a sentence each."""
    cells = [cell for cell in group.cells.values() if cell.clone]
    lines = [cell.line for cell in cells]
    budgets, accounts = [line.budget for line in lines], [line.accounts for line in lines]
    checks = [
        (not lines, "Any attack: none finished."),
        (bool(lines), f"Budgets above {counted(max(budgets, default=0), 'query', 'queries')}."),
        (bool(lines), f"Attackers with more than {counted(max(accounts, default=0), 'account')}."),
        ("soft" not in {line.labels for line in lines}, "Attackers who read whole answers."),
        ("hard" not in {line.labels for line in lines}, "Attackers who read the most probable class alone."),
        (not any(line.own for line in lines), "Attackers who own labeled task data."),
        (all(cell.in_family for cell in cells), "Queries from outside of the defender's own outlier families."),
        (all(cell.clone and cell.clone.n == 1 for cell in cells), "More than one clone of each line."),
        (len(group.victims) == 1, "The same recipe trained from another seed."),
        (any(cell.faults for cell in group.cells.values()), "What failed or was skipped: the audit's rows tell."),
    ]  # fmt: skip
    return [text for applies, text in checks if applies]


def not_audited(group: Group) -> str:
    """The same of a defended group in one paragraph, with what attackers do who know the defense and none did."""
    unmet = [counter.meaning for counter in counters(group, group.defense) or [] if not counter.cells]
    knowing = [f"Attackers who know the defense: {'; '.join(unmet)}."] if unmet else []
    return " ".join(["Only the attacks that were made are judged. Not audited:", *knowing, *gaps(group)])
