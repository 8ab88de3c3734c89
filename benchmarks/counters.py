"""What attackers get of each defense who do not know it, and who do: tables from rows of a grid's adaptive suite.

    python -m benchmarks.counters docs/results/rivals-adaptive.jsonl

Plain is KnockoffNets with one account and without a treatment. A way is a name in the defense's `countered_by`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.lines import markdown

from stealguard.results import Row, read

HEAD = ["defense", "benign", "plain, soft", "plain, hard", "best of those who know", "by", "accounts", "answers"]


def table(path: Path) -> str:
    """A line for each defense, in the order of the rows; accuracies in %."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in read(path):
        found[row.victim.name].append(row)
    lines = [HEAD, ["---", *["--:"] * 4, "---", "--:", "--:"], *(_line(name, rows) for name, rows in found.items())]
    return markdown(lines)


def by_accounts(path: Path) -> str:
    """A line for each defense that judges accounts and each number of them; accuracies in %."""
    found: dict[tuple[str, int], dict[tuple[str, str], Row]] = defaultdict(dict)
    known = read(path)
    judging = {row.victim.name for row in known if row.accounts > 1}
    for row in known:
        if row.victim.name in judging and not row.treatment:
            found[row.victim.name, row.accounts][row.attack, row.labels] = row
    ways = [("knockoff", "soft"), ("knockoff", "hard"), ("cover", "soft")]
    head = ["defense", "benign", "accounts", *(", ".join(way) for way in ways)]
    lines = [head, ["---", *["--:"] * 5]]
    for (name, accounts), rows in found.items():
        benign = _percent(next(iter(rows.values())).victim.metrics["benign_accuracy"])
        lines.append([name, benign, f"{accounts:,}", *(_gotten(rows[way]) if way in rows else "-" for way in ways)])
    return markdown(lines)


def _line(name: str, rows: list[Row]) -> list[str]:
    plain = {row.labels: row for row in rows if _plain(row)}
    knowing = [row for row in rows if not _plain(row)]
    start = [name, _percent(rows[0].victim.metrics["benign_accuracy"]), *(_gotten(plain[m]) for m in ("soft", "hard"))]
    if not knowing:
        return [*start, "-", "-", "-", "-"]
    best = max(knowing, key=_usable)
    how = ", ".join(filter(None, [best.attack, best.treatment, best.labels]))
    return [*start, _gotten(best), how, f"{best.accounts:,}", f"{best.queries:,}"]


def _plain(row: Row) -> bool:
    return (row.attack, row.treatment, row.accounts) == ("knockoff", "", 1)


def _usable(row: Row) -> float:
    """The clone's accuracy, or that after renaming with twenty labeled samples where it is higher."""
    return max(row.metrics["clone_accuracy"], row.metrics["renamed_accuracy_20"])


def _gotten(row: Row) -> str:
    return _percent(_usable(row))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


if __name__ == "__main__":
    print(table(Path(sys.argv[1])), by_accounts(Path(sys.argv[1])), sep="\n\n")
