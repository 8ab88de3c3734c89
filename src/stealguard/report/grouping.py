"""Rows -> groups of cells: which rows are samples of one thing, and what they come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

from stealguard.errors import require
from stealguard.report.cells import UNKNOWN, Cell, Group, Line, Problem, Trained
from stealguard.report.lines import order
from stealguard.report.naming import named, natural
from stealguard.report.statistics import Spread, mean, pooled
from stealguard.results import Row, VictimFacts

Sample = tuple[Line, int, int]  # the line, the victim's seed, the attacker's seed


def summary(rows: Iterable[Row]) -> list[Group]:
    """A group a setting, task by task and undefended ones first, whatever the order of `rows`.

    Victims that differ in nothing but the seed are samples of one setting; rows that do not say their setting are
    grouped by victim. Victims of other data or of another net are never in one group, even where the names are equal.
    Where several rows measure the same cell, victim seed and seed (another version, another machine) the newest one
    counts: the same seed twice is no second sample. Releases of other names and weights with one seed, as those that
    began with other trained weights, are no samples of one setting: then each victim has a group of its own.

    Raises:
        Invalid: there are no rows.

    Example:
        >>> rows = results.read("docs/results/mnist-lenet5.jsonl")
        >>> [group.name for group in sg.report.summary(rows)]
        ['undefended', 'ini', 'official']
    """
    by_setting: dict[object, list[Row]] = defaultdict(list)
    for row in _completed(list(rows)):
        by_setting[_identity(row.victim), row.victim.data_hash, row.victim.net_hash].append(row)
    require(bool(by_setting), "rows", "at least one audit row", "none")
    groups = named([_group(found) for rows_of in by_setting.values() for found in _apart(rows_of)])
    return sorted(groups, key=lambda group: (group.task, not group.undefended, group.defense, natural(group.name)))


def _apart(rows: list[Row]) -> list[list[Row]]:
    """The rows of one setting together; by victim where two releases have the same seed."""
    known: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    by_victim: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        known[row.victim.seed][row.victim.key].add(row.victim.name)
        by_victim[row.victim.key].append(row)
    pairs = (pair for victims in known.values() for pair in combinations(victims.values(), 2))
    return list(by_victim.values()) if any(one.isdisjoint(other) for one, other in pairs) else [rows]


def _identity(victim: VictimFacts) -> tuple[str, ...]:
    """What victims that are samples of one setting have in common."""
    made = (victim.setting,) if victim.setting else (victim.name, victim.key)
    return (victim.data, victim.net, *made)


def _completed(rows: list[Row]) -> list[Row]:
    """Rows with the facts that other rows of their victim have: its setting, and the hashes of data and nets."""
    settings = {row.victim.key: row.victim for row in rows if row.victim.setting and row.victim.key}
    rows = [_with_setting(row, settings.get(row.victim.key)) for row in rows]
    data = _only((_identity(row.victim), row.victim.data_hash) for row in rows)
    nets = _only((key, row.victim.net_hash) for row in rows for key in _of_net(row.victim))
    clones = _only((row.clone, row.clone_hash) for row in rows)
    return [_with_hashes(row, data, nets, clones) for row in rows]


def _of_net(victim: VictimFacts) -> tuple[tuple[str, ...], ...]:
    """By what a row that does not say its net's structure finds it: its setting, and else the names of data and net."""
    identity = _identity(victim)
    return (identity,) if ":" in victim.net else (identity, identity[:2])


def _with_setting(row: Row, newer: VictimFacts | None) -> Row:
    if row.victim.setting or newer is None:
        return row
    return replace(row, victim=replace(row.victim, setting=newer.setting, seed=newer.seed))


def _with_hashes(row: Row, data: dict[object, str], nets: dict[object, str], clones: dict[object, str]) -> Row:
    victim, identity = row.victim, _identity(row.victim)
    hashes = (
        victim.data_hash or data.get(identity, ""),
        victim.net_hash or next((nets[key] for key in _of_net(victim) if key in nets), ""),
        row.clone_hash or clones.get(row.clone, ""),
    )
    if hashes == (victim.data_hash, victim.net_hash, row.clone_hash):
        return row
    return replace(row, victim=replace(victim, data_hash=hashes[0], net_hash=hashes[1]), clone_hash=hashes[2])


def _only(values: Iterable[tuple[object, str]]) -> dict[object, str]:
    """By key the hash that all its values share; not those of several, nor of none."""
    found: dict[object, set[str]] = defaultdict(set)
    for key, value in values:
        if value:
            found[key].add(value)
    return {key: min(hashes) for key, hashes in found.items() if len(hashes) == 1}


def _group(rows: list[Row]) -> Group:
    newest: dict[Sample, Row] = {}
    for row in sorted(rows, key=lambda row: (row.when, row.key)):
        newest[_line(row), row.victim.seed, row.seed] = row
    by_line: dict[Line, list[Row]] = defaultdict(list)
    for sample in sorted(newest, key=lambda sample: (order(sample[0]), *sample[1:])):
        by_line[sample[0]].append(newest[sample])
    victims = [row.victim for row in newest.values()]
    first = min(victims, key=lambda victim: (victim.seed, victim.name, victim.key))
    task = Problem(first.data or "unknown data", first.net or "unknown net", first.data_hash, first.net_hash)
    return Group(
        name="", label="", task=task, defense=first.defense or UNKNOWN,
        defense_settings=first.defense_settings, setting=first.setting,
        victims=tuple(sorted({Trained(victim.name, victim.key, victim.seed) for victim in victims},
                             key=lambda victim: (victim.seed, victim))),
        benign=over_victims((row.victim.seed, row.benign_accuracy) for row in _of_users(list(newest.values()))),
        chance=_chance(list(newest.values())),
        cells={line: _cell(line, found) for line, found in by_line.items()},
        superseded=len(rows) - len(newest),
    )  # fmt: skip


def _of_users(rows: list[Row]) -> list[Row]:
    """The rows without those of a victim from before audits told how many inputs each user asks, if it has others."""
    told = {row.victim.seed for row in rows if "user_queries" in row.victim.metrics}
    return [row for row in rows if "user_queries" in row.victim.metrics or row.victim.seed not in told]


def _line(row: Row) -> Line:
    return Line(
        row.attack, row.attack_settings, row.clone, row.pool, row.labels, row.treatment, row.own, row.budget,
        row.accounts, row.clone_hash,
    )  # fmt: skip


def _cell(line: Line, rows: list[Row]) -> Cell:
    done = [row for row in rows if row.status == "ok"]
    return Cell(
        line, rows,
        clone=Spread.of(pooled((row.victim.seed, row.clone_accuracy) for row in done)),
        stolen=Spread.of(pooled((row.victim.seed, row.stolen_accuracy) for row in done)),
        renamed=Spread.of(pooled((row.victim.seed, row.renamed_accuracy) for row in done)),
        agreement=mean(pooled((row.victim.seed, row.agreement) for row in done)),
        no_theft=mean(pooled((row.victim.seed, row.no_theft) for row in done)),
        chance=_chance(rows),
    )  # fmt: skip


def _chance(rows: Sequence[Row]) -> float | None:
    """The accuracy of guessing; the highest where rows differ, as rows of earlier versions hold 1 / K."""
    found = [row.chance for row in rows if row.status == "ok"] or [row.chance for row in rows]
    return max((value for value in found if value is not None), default=None)


def over_victims(values: Iterable[tuple[int, float | None]]) -> Spread | None:
    """The spread of a victim's own quantity: measured over and over on one victim, it is still one sample."""
    by_victim: dict[int, list[float | None]] = defaultdict(list)
    for victim, value in values:
        by_victim[victim].append(value)
    means = [mean(found) for found in by_victim.values()]
    return Spread.of([value for value in means if value is not None])
