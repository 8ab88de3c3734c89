"""What a report is made of.

A *line* is one way to attack (attack, settings, clone, pool, label mode, treatment, budget, accounts); a *cell* is a
line against one group, as a mean over its victims and their clones; a *group* is the victims of one setting; and the
*worst* cell, the one of whose clones attackers make most, stands for its group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from stealguard.report.statistics import Spread, mean
from stealguard.results import UNDEFENDED, Row
from stealguard.results.honest import audited_at_chance

UNKNOWN = "unknown"  # the defense of a model that stealguard did not train
FEW = 0.9  # of a budget: fewer answers than that are told beside it
WELL_BELOW = 0.8  # of chance: an accuracy lower than that is no accident of guessing


class Problem(NamedTuple):
    """What is compared with one another: a task and a net, with hashes of their content where they are known."""

    data: str
    net: str
    data_hash: str = ""
    net_hash: str = ""


class Trained(NamedTuple):
    """One trained classifier."""

    name: str
    key: str
    seed: int


class Line(NamedTuple):
    """One way to attack."""

    attack: str
    attack_settings: str  # JSON
    clone: str
    pool: str
    labels: str
    treatment: str  # what the attacker does with the answers
    own: int  # labeled task samples that the attacker owns
    budget: int
    accounts: int
    clone_hash: str = ""


@dataclass(frozen=True)
class Cell:
    """A line against a group: its rows, one a victim and seed, and what they come to (None where none is ok)."""

    line: Line
    rows: list[Row]
    clone: Spread | None  # over victims where there are two or more, else over the seeds of the one victim's clones
    stolen: Spread | None  # what attackers make of the clones, `Row.stolen_accuracy`
    renamed: Spread | None  # clone accuracy after the best renaming of classes; None where no row has it
    agreement: float | None  # share of the test set on which the clone says what the victim says, a mean
    no_theft: float | None  # what the attacker's own samples give without any query, a mean
    chance: float | None  # the accuracy of guessing

    @property
    def reached(self) -> float:
        """The mean of what attackers make of the clones, a fraction; below every other where there is none."""
        return self.stolen.mean if self.stolen else -1.0

    @property
    def needs_renaming(self) -> bool:
        """Whether attackers make more of the clones by renaming their classes."""
        return self.clone is not None and self.reached > self.clone.mean

    @property
    def usable(self) -> Spread | None:
        """What the attacker can make of the clone at most: its accuracy, or that after the best renaming."""
        spreads = [spread for spread in (self.clone, self.renamed) if spread]
        return max(spreads, key=lambda spread: spread.mean, default=None)

    @property
    def below_chance(self) -> bool:
        """Whether the clone is right less often than guessing is: its classes have other names than the task's."""
        return self.clone is not None and self.chance is not None and self.clone.mean < WELL_BELOW * self.chance

    @property
    def done(self) -> list[Row]:
        return [row for row in self.rows if row.status == "ok"]

    @property
    def faults(self) -> list[Row]:
        return [row for row in self.rows if row.status != "ok"]

    @property
    def answers(self) -> float | None:
        """How many answers attackers had, a mean, where these are clearly fewer than the budget; else None."""
        had = mean(row.queries for row in self.done)
        return had if had is not None and had < FEW * self.line.budget else None

    @property
    def victims(self) -> int:
        """How many victims were attacked."""
        return len({row.victim.seed for row in self.done})

    @property
    def in_family(self) -> bool:
        return any(row.in_family for row in self.rows)


@dataclass(frozen=True)
class Group:
    """The victims of one setting, and all of their cells in reading order."""

    name: str  # unlike every other in the report
    label: str  # the name without the task
    task: Problem
    defense: str
    defense_settings: str  # JSON
    setting: str  # what the victims share; "" in old rows
    victims: tuple[Trained, ...]
    benign: Spread | None  # over victims
    chance: float | None  # the accuracy of guessing
    cells: dict[Line, Cell]
    superseded: int  # rows left out because a newer one measures the same cell, victim seed and seed

    @property
    def undefended(self) -> bool:
        return self.defense == UNDEFENDED

    @property
    def unknown(self) -> bool:
        """Whether nothing is known of how the victim was made."""
        return self.defense == UNKNOWN

    @cached_property
    def test_inputs(self) -> float:
        """How many the accuracies are measured on, the fewest of its rows; infinite where none tells."""
        return min((row.victim.metrics.get("test_inputs", math.inf) for row in self.rows), default=math.inf)

    @property
    def at_chance(self) -> str:
        """What must be told where the victim itself is no better than chance; else ""."""
        if self.benign is None or self.chance is None:
            return ""
        return audited_at_chance(self.benign.mean, self.chance, self.test_inputs)

    @cached_property
    def worst(self) -> Cell | None:
        """Of the attackers who own no task data: no useful answer stops one who does, so those are told apart."""
        return worst_of(cell for cell in self.cells.values() if not cell.line.own)

    @cached_property
    def worst_owning(self) -> Cell | None:
        """Of the attackers who own some."""
        return worst_of(cell for cell in self.cells.values() if cell.line.own)

    @cached_property
    def rows(self) -> list[Row]:
        return [row for cell in self.cells.values() for row in cell.rows]


def worst_of(cells: Iterable[Cell]) -> Cell | None:
    """The cell of whose clones attackers make most, on average; of equals the first; None where no row is ok."""
    return max((cell for cell in cells if cell.clone), key=lambda cell: cell.reached, default=None)


def stolen_of(cell: Cell | None) -> Spread | None:
    return cell.stolen if cell else None
