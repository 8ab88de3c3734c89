"""Rows -> groups of cells: which rows are samples of one thing, and what they come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from stealguard.errors import require
from stealguard.report.cells import Cell, Group, Line, Task, Victim
from stealguard.report.lines import order
from stealguard.report.naming import named, natural
from stealguard.report.statistics import Spread, mean, pooled
from stealguard.results.row import Row

Sample = tuple[Line, int, int]  # the line, the victim's seed, the thief's seed


def summary(rows: Iterable[Row]) -> list[Group]:
    """A group a setting, task by task and undefended ones first, whatever the order of `rows`.

    Victims that differ in nothing but the seed are samples of one setting; rows that do not say their setting are
    grouped by release. Where several rows measure the same cell, victim seed and seed (another version, another
    machine) the newest one counts: twice the same seed is no second sample.

    Raises:
        Invalid: there are no rows.
    """
    by_setting: dict[object, list[Row]] = defaultdict(list)
    for row in _completed(list(rows)):
        by_setting[row.data, row.net, row.setting or (row.release, row.release_hash)].append(row)
    require(bool(by_setting), "rows", "at least one audit row", "none")
    groups = named([_group(found) for found in by_setting.values()])
    return sorted(groups, key=lambda group: (group.task, not group.undefended, group.defense, natural(group.name)))


def _completed(rows: list[Row]) -> list[Row]:
    """Old rows of a release whose newer rows say its setting get it from those."""
    known = {row.release_hash: row for row in rows if row.setting}
    return [
        replace(row, setting=newer.setting, victim_seed=newer.victim_seed)
        if not row.setting and (newer := known.get(row.release_hash))
        else row
        for row in rows
    ]


def _group(rows: list[Row]) -> Group:
    newest: dict[Sample, Row] = {}
    for row in sorted(rows, key=lambda row: (row.when, row.key)):
        newest[_line(row), row.victim_seed, row.seed] = row
    by_line: dict[Line, list[Row]] = defaultdict(list)
    for sample in sorted(newest, key=lambda sample: (order(sample[0]), *sample[1:])):
        by_line[sample[0]].append(newest[sample])
    first = min(newest.values(), key=lambda row: (row.victim_seed, row.release, row.release_hash))
    return Group(
        name="", label="", task=Task(first.data, first.net), defense=first.defense,
        defense_settings=first.defense_settings, setting=first.setting,
        victims=tuple(sorted({Victim(row.release, row.release_hash, row.victim_seed) for row in newest.values()},
                             key=lambda victim: (victim.seed, victim))),
        benign=over_victims((row.victim_seed, row.benign_accuracy) for row in newest.values()),
        cells={line: _cell(line, found) for line, found in by_line.items()},
        superseded=len(rows) - len(newest),
    )  # fmt: skip


def _line(row: Row) -> Line:
    return Line(
        row.attack, row.attack_settings, row.clone, row.pool, row.labels, row.answers, row.own, row.budget
    )  # fmt: skip


def _cell(line: Line, rows: list[Row]) -> Cell:
    done = [row for row in rows if row.status == "ok"]
    clone = Spread.of(pooled((row.victim_seed, row.clone_accuracy) for row in done))
    agreement = mean(pooled((row.victim_seed, row.agreement) for row in done))
    return Cell(line, rows, clone, agreement, mean(pooled((row.victim_seed, row.no_theft) for row in done)))


def over_victims(values: Iterable[tuple[int, float | None]]) -> Spread | None:
    """The spread of a victim's own quantity: measured over and over on one victim, it is still one sample."""
    by_victim: dict[int, list[float | None]] = defaultdict(list)
    for victim, value in values:
        by_victim[victim].append(value)
    means = [mean(found) for found in by_victim.values()]
    return Spread.of([value for value in means if value is not None])
