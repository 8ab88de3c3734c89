"""What things are called, and how numbers are written."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from stealguard.errors import counted
from stealguard.identity import fingerprint
from stealguard.report.cells import Cell, Group, Line, Problem, stolen_of
from stealguard.report.statistics import Spread
from stealguard.results import Row
from stealguard.results.honest import POINT

T = TypeVar("T")


def named(groups: Sequence[Group]) -> list[Group]:
    """The groups with names unlike each other: of their victims where those tell them apart, else of what differs.

    A group of several victims is called by its defense and by the settings in which the report's groups of that
    defense differ; then all are, so that names are of one kind. The task is added where there are several.
    """
    releases = [{victim.name for victim in group.victims} for group in groups]
    told = Counter((group.task[:2], name) for group, names in zip(groups, releases, strict=True) for name in names)
    if all(len(names) == 1 for names in releases) and max(told.values()) == 1:
        labels = [names.pop() for names in releases]
    else:
        labels = _described(groups)
    several = [len({group.task[part] for group in groups}) > 1 for part in (0, 1)]
    full = [
        " · ".join([label, *(part for part, differs in zip(group.task[:2], several, strict=True) if differs)])
        for group, label in zip(groups, labels, strict=True)
    ]
    marks = _marks(groups, full)
    return [
        replace(group, label=f"{label}{mark}", name=f"{name}{mark}")
        for group, label, name, mark in zip(groups, labels, full, marks, strict=True)
    ]


def _marks(groups: Sequence[Group], names: Sequence[str]) -> list[str]:
    """The start of a hash for each group whose name others have too: of the first hash that tells those apart."""
    same: dict[str, list[Group]] = defaultdict(list)
    for group, name in zip(groups, names, strict=True):
        same[name].append(group)
    marks = []
    for group, name in zip(groups, names, strict=True):
        others = zip(*map(_hashes, same[name]), strict=True)
        apart = (mine for mine, all_ in zip(_hashes(group), others, strict=True) if len(set(all_)) == len(all_))
        marks.append(_part(next(apart, "")) if len(same[name]) > 1 else "")
    return marks


def _hashes(group: Group) -> tuple[str, ...]:
    """What makes a group another than those of the same name."""
    hashes = (group.setting, group.victims[0].key, group.task.data_hash, group.task.net_hash)
    return (*(digest[:8] for digest in hashes), fingerprint(hashes)[:8])


def task_names(tasks: Iterable[Problem]) -> dict[Problem, str]:
    """`net on data` a task, with parts of the hashes where two tasks have the same names."""
    found = list(dict.fromkeys(tasks))
    same = Counter(task[:2] for task in found)
    return {
        task: f"{task.net}{_part(task.net_hash)} on {task.data}{_part(task.data_hash)}"
        if same[task[:2]] > 1
        else f"{task.net} on {task.data}"
        for task in found
    }


def _part(digest: str) -> str:
    return f"@{digest[:8]}" if digest else ""


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
    lines = list(lines)
    nets = Counter(name for name, _ in {(line.clone, line.clone_hash) for line in lines})
    by_attack: dict[str, dict[Line, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        clone = line.clone + (_part(line.clone_hash) if nets[line.clone] > 1 else "")
        settings = {"clone": clone} | dict(flat(json.loads(line.attack_settings)))
        settings.pop("budget", None)  # has its own column
        by_attack[line.attack][line] = settings
    found = {}
    for attack, chosen in by_attack.items():
        for line, told in differing(chosen).items():
            told += [line.treatment] * bool(line.treatment) + [f"owns {line.own}"] * bool(line.own)
            told += [counted(line.accounts, "account")] * (line.accounts > 1)
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


ANSWERS = "answers: had by the attacker where fewer than the budget, as an account is refused or no more was asked"
RENAMED = (
    "renamed: after 20 labeled samples renamed the clone's classes, or by the best names where that was not measured"
)
BELOW_CHANCE = "answers may be inverted, and renaming classes tells"


def cell_text(cell: Cell | None) -> str:
    """A cell's number, marked where it is below chance, with what stands beside it; or why it has none."""
    if cell is None or cell.clone is None:
        return "-" if cell is None else " / ".join(sorted({outcome(row) for row in cell.rows}))
    told = f" ({', '.join(beside(cell))})" if beside(cell) else ""
    return f"{number(cell.clone)}{'†' * cell.below_chance}{told}"


def worst_text(cell: Cell | None) -> str:
    """What attackers make of the worst clone, and whether it is by renaming its classes."""
    return f"{number(stolen_of(cell))}{' renamed' * (cell is not None and cell.needs_renaming)}"


def beside(cell: Cell) -> list[str]:
    """What a clone accuracy is to be read with: that after renaming where that counts, the no-theft line, few answers.

    The answers had are told where they are clearly fewer than the budget.
    """
    told = []
    if cell.needs_renaming:
        told.append(f"{number(cell.stolen)} renamed")
    if cell.no_theft is not None:
        told.append(f"no theft {100 * cell.no_theft:.1f}")
    if cell.answers is not None:
        told.append(counted(round(cell.answers), "answer"))
    return told


def circumstances(groups: Sequence[Group]) -> list[str]:
    """What every number is to be read beside: chance, where it is known, and the accounts of users and attackers."""
    known = {group.task.data: group.chance for group in groups if group.chance is not None}
    told = [f"chance {percent(value)}" for value in dict.fromkeys(known.values())]
    if len(told) > 1:
        told = [f"chance on {data} {percent(value)}" for data, value in sorted(known.items())]
    told += [f"benign accuracy: {'; '.join(asked)}"] if (asked := users(groups)) else []
    *fewer, most = (f"{number:,}" for number in sorted({line.accounts for group in groups for line in group.cells}))
    if not fewer and most == "1":
        return [*told, "attackers use 1 account"]
    return [*told, f"attackers use {' or '.join(filter(None, [', '.join(fewer), most]))} accounts"]


def users(groups: Iterable[Group]) -> list[str]:
    """On how many inputs benign accuracy was measured, where rows tell it, and how users asked, where it may matter.

    Also what one account gets, if that is clearly less.
    """
    metrics = [row.victim.metrics for group in groups for row in group.rows]
    told = [f"measured on {tested} test inputs"] if (tested := _each(metrics, "test_inputs")) else []
    if not (sizes := _each(metrics, "user_queries")):
        return told
    told.append(f"users ask {sizes} queries an account")
    alone = [of["one_account_accuracy"] for of in metrics if _less_alone(of)]
    return [*told, f"one account that asks the whole test set gets {percent(min(alone))}"] if alone else told


def _each(metrics: Iterable[Mapping[str, float]], name: str) -> str:
    """The different values of a metric that is a number of things: `60 or 10,000`."""
    return " or ".join(f"{value:,}" for value in sorted({int(of[name]) for of in metrics if name in of}))


def _less_alone(metrics: Mapping[str, float]) -> bool:
    alone = metrics.get("one_account_accuracy", 1.0)
    return alone < metrics.get("benign_accuracy", 0.0) - POINT


def samples(cell: Cell) -> str:
    """What a cell's mean and interval are over: `3 victims, 9 clones`, or `3 clones of one victim`."""
    clones = counted(len(cell.done), "clone")
    return f"{counted(cell.victims, 'victim')}, {clones}" if cell.victims > 1 else f"{clones} of one victim"


def outcome(row: Row) -> str:
    return "skipped" if row.status == "skip" else row.status
