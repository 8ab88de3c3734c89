"""What a report is made of.

A *line* is one way to steal (attack, settings, thief, pool, label mode, budget); a *cell* is a line against one
group, as a mean over its victims and their thieves; a *group* is the victims of one setting; and the *worst* cell,
the one with the highest clone accuracy, stands for its group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from stealguard.report.statistics import Spread
from stealguard.results.row import Row

UNDEFENDED = "none"


class Task(NamedTuple):
    """What is compared with one another."""

    data: str
    net: str


class Victim(NamedTuple):
    """One trained classifier."""

    release: str
    release_hash: str
    seed: int


class Line(NamedTuple):
    """One way to steal."""

    attack: str
    attack_settings: str  # JSON
    clone: str
    pool: str
    labels: str
    answers: str  # what the thief does with them
    own: int  # labelled task samples it owns
    budget: int


@dataclass(frozen=True)
class Cell:
    """A line against a group: its rows, one a victim and seed, and what they come to (None where none is ok)."""

    line: Line
    rows: list[Row]
    clone: Spread | None  # over victims where there are two or more, else over the seeds of the one victim's thieves
    agreement: float | None  # share of the test set on which the clone says what the victim says, a mean
    no_theft: float | None  # what the thief's own samples give without any theft, a mean

    @property
    def reached(self) -> float:
        """Mean clone accuracy, a fraction; below every other where there is none."""
        return self.clone.mean if self.clone else -1.0

    @property
    def done(self) -> list[Row]:
        return [row for row in self.rows if row.status == "ok"]

    @property
    def faults(self) -> list[Row]:
        return [row for row in self.rows if row.status != "ok"]

    @property
    def victims(self) -> int:
        """How many victims were stolen from."""
        return len({row.victim_seed for row in self.done})

    @property
    def in_family(self) -> bool:
        return any(row.in_family for row in self.rows)


@dataclass(frozen=True)
class Group:
    """The victims of one setting, and all of their cells in reading order."""

    name: str  # unlike every other in the report
    label: str  # the name without the task
    task: Task
    defense: str
    defense_settings: str  # JSON
    setting: str  # what the victims share; "" in old rows
    victims: tuple[Victim, ...]
    benign: Spread | None  # over victims
    cells: dict[Line, Cell]
    superseded: int  # rows left out because a newer one measures the same cell, victim seed and seed

    @property
    def undefended(self) -> bool:
        return self.defense == UNDEFENDED

    @cached_property
    def worst(self) -> Cell | None:
        """Of the thieves who own no task data: no useful answer stops one who does, so those are told apart."""
        return worst_of(cell for cell in self.cells.values() if not cell.line.own)

    @cached_property
    def worst_owning(self) -> Cell | None:
        """Of the thieves who own some."""
        return worst_of(cell for cell in self.cells.values() if cell.line.own)

    @cached_property
    def rows(self) -> list[Row]:
        return [row for cell in self.cells.values() for row in cell.rows]


def worst_of(cells: Iterable[Cell]) -> Cell | None:
    """The cell with the highest mean clone accuracy; of equals the first; None where no row is ok."""
    return max((cell for cell in cells if cell.clone), key=lambda cell: cell.reached, default=None)


def clone_of(cell: Cell | None) -> Spread | None:
    return cell.clone if cell else None
