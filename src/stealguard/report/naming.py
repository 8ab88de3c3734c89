"""What things are called, and how numbers are written."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from stealguard.report.cells import Cell, Group, Line, clone_of
from stealguard.report.statistics import Spread
from stealguard.results.row import Row

T = TypeVar("T")


def named(groups: Sequence[Group]) -> list[Group]:
    """The groups with names unlike each other: of releases where those tell them apart, else of what differs.

    A group of several releases is called by its defense and by the settings in which the report's groups of that
    defense differ; then all are, so that names are of one kind. The task is added where there are several.
    """
    releases = [{victim.release for victim in group.victims} for group in groups]
    told = Counter((group.task, name) for group, names in zip(groups, releases, strict=True) for name in names)
    if all(len(names) == 1 for names in releases) and max(told.values()) == 1:
        labels = [names.pop() for names in releases]
    else:
        labels = _described(groups)
    several = [len({group.task[part] for group in groups}) > 1 for part in (0, 1)]
    full = [
        " · ".join([label, *(part for part, differs in zip(group.task, several, strict=True) if differs)])
        for group, label in zip(groups, labels, strict=True)
    ]
    clashing = {name for name, times in Counter(full).items() if times > 1}
    return [
        replace(group, label=f"{label}{mark}", name=f"{name}{mark}")
        for group, label, name in zip(groups, labels, full, strict=True)
        for mark in [f"@{(group.setting or group.victims[0].release_hash)[:8]}" if name in clashing else ""]
    ]


def _described(groups: Sequence[Group]) -> list[str]:
    by_defense: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for number, group in enumerate(groups):
        by_defense[group.defense][number] = dict(flat(json.loads(group.defense_settings)))
    told = {number: names for settings in by_defense.values() for number, names in differing(settings).items()}
    return [
        " ".join(["undefended" if group.undefended else group.defense, *told[number]])
        for number, group in enumerate(groups)
    ]


def titles(lines: Iterable[Line]) -> dict[Line, str]:
    """The attack's name a line, with those settings in which lines of the same attack differ."""
    by_attack: dict[str, dict[Line, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        settings = {"clone": line.clone} | dict(flat(json.loads(line.attack_settings)))
        settings.pop("budget", None)  # has its own column
        by_attack[line.attack][line] = settings
    found = {}
    for attack, chosen in by_attack.items():
        for line, told in differing(chosen).items():
            told += [line.answers] * bool(line.answers) + [f"owns {line.own}"] * bool(line.own)
            found[line] = f"{attack} ({', '.join(told)})" if told else attack
    return found


def differing(settings: Mapping[T, Mapping[str, Any]]) -> dict[T, list[str]]:
    """`name=value` of those settings in which they are not all alike, by name."""
    names = sorted({name for chosen in settings.values() for name in chosen})
    vary = [name for name in names if len({str(chosen.get(name)) for chosen in settings.values()}) > 1]
    return {key: [f"{name}={chosen[name]}" for name in vary if name in chosen] for key, chosen in settings.items()}


def flat(settings: dict[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Settings without nesting, by the names that the command line knows them by: `training.epochs`."""
    for name, value in settings.items():
        yield from flat(value, f"{within}{name}.") if isinstance(value, dict) else [(f"{within}{name}", value)]


def natural(name: str) -> list[tuple[bool, float, str]]:
    """A key by which `epsilon=0.5` comes before `epsilon=10`."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(number % 2 == 0, float(part) if number % 2 else 0.0, part) for number, part in enumerate(parts)]


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}\u202f%"  # a narrow space at which no line breaks


def number(spread: Spread | None) -> str:
    """In percent, without the sign: `92.6 ± 1.4`."""
    return "-" if spread is None else plain(spread, 100, 1)


def signed(spread: Spread | None) -> str:
    """A difference in points: `−12.6 ± 1.4`."""
    if spread is None:
        return "-"
    sign = "−" if spread.mean < 0 else "+"
    return sign + plain(replace(spread, mean=abs(spread.mean)), 100, 1)


def plain(spread: Spread | None, scale: float, digits: int) -> str:
    """The mean times `scale`, with half of its interval where there is one."""
    if spread is None:
        return "-"
    half = "" if spread.half is None else f" ± {scale * spread.half:.{digits}f}"
    return f"{scale * spread.mean:.{digits}f}{half}"


def cell_text(cell: Cell | None) -> str:
    """A cell's number, or why it has none."""
    if cell is None or cell.clone:
        return number(clone_of(cell))
    return " / ".join(sorted({outcome(row) for row in cell.rows}))


def samples(cell: Cell) -> str:
    """What a cell's mean and interval are over: `3 victims, 9 thieves`, or `3 thieves of one victim`."""
    clones = f"{len(cell.done)} {'thief' if len(cell.done) == 1 else 'thieves'}"
    return f"{count(cell.victims, 'victim')}, {clones}" if cell.victims > 1 else f"{clones} of one victim"


def outcome(row: Row) -> str:
    return "skipped" if row.status == "skip" else row.status


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
