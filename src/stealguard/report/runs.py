"""What was run: the commands, versions, hardware, seeds and hashes that the rows follow from."""

from __future__ import annotations

import json
import math
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from stealguard.errors import counted
from stealguard.report.cells import Group
from stealguard.report.naming import flat
from stealguard.results import Row


def commands(rows: Iterable[Row]) -> list[str]:
    """`stealguard audit` as it would be typed for a victim, a command for each attack with its settings."""
    by_attack: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_attack[row.attack, row.attack_settings, row.clone].append(row)
    return [_command(*what, found) for what, found in sorted(by_attack.items())]


def _command(attack: str, settings: str, clone: str, rows: Sequence[Row]) -> str:
    words = ["stealguard", "audit", "VICTIM", "--attack", attack]
    if pairs := [f"{name}={value}" for name, value in flat(json.loads(settings))]:
        words += ["--set", *pairs]
    several: dict[str, list[Any]] = {
        "--pools": sorted({row.pool for row in rows}),
        "--labels": sorted({row.labels for row in rows}, reverse=True),
        "--treatments": sorted({row.treatment for row in rows}),
        "--own": sorted({row.own for row in rows}),
        "--accounts": sorted({row.accounts for row in rows}),
        "--seeds": sorted({row.seed for row in rows}),
    }
    for option, values in several.items():
        words += [option, *map(str, values)]
    if not clone.startswith("given:"):  # what was given as a module has no name; the victim's own is one
        words += ["--clone", clone]
    return shlex.join(words)


def facts_of_runs(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """A name and every value that the rows have for it."""
    rows = [row for group in groups for row in group.rows]
    times = sorted({f"{row.when[:16].replace('T', ' ')} UTC" for row in rows})  # ISO 8601, to the minute
    several = {
        "Clone": {f"{row.clone} {row.clone_hash[:16]}".strip() for row in rows},
        "Pools": {f"{row.pool} {row.pool_hash[:16]}" for row in rows},
        "Victims' seeds": {", ".join(map(str, sorted({row.victim.seed for row in rows})))},
        "Attackers' seeds": {", ".join(map(str, sorted({row.seed for row in rows})))},
        "Accounts": {f"{row.accounts:,}" for row in rows},
        "stealguard": {row.version for row in rows},
        "PyTorch": {row.torch for row in rows},
        "Python": {row.python for row in rows},
        "Hardware": {_hardware(row) for row in rows},
        "Attackers' time": {f"{duration(rows)} in all"},
        "When": {" to ".join(dict.fromkeys((times[0], times[-1])))},
    }
    return [(name, sorted(values)) for name, values in several.items()]


def _hardware(row: Row) -> str:
    return ", ".join(filter(None, [row.hardware, counted(row.threads, "thread"), row.device, row.precision]))


def duration(rows: Iterable[Row]) -> str:
    seconds = math.fsum(row.seconds for row in rows)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"
