"""What attackers get of each defense who do not know it, and who do: tables from rows of a grid's adaptive suite.

    python -m benchmarks.counters docs/results/rivals-adaptive.jsonl

Plain is KnockoffNets with one account and without a treatment. A way is a name in the defense's `countered_by`.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.lines import markdown

from stealguard.report.naming import number
from stealguard.report.statistics import Spread
from stealguard.results import Row, read

HEAD = ["defense", "benign", "plain, soft", "plain, hard", "best of those who know", "by", "accounts", "answers"]


class Way(NamedTuple):
    """How an attacker goes about it."""

    attack: str
    selector: str  # how it tells which answers are honest; "" where it does not
    treatment: str
    labels: str
    accounts: int

    @classmethod
    def of(cls, row: Row) -> Way:
        selector = json.loads(row.attack_settings).get("selector", "")
        return cls(row.attack, selector, row.treatment, row.labels, row.accounts)

    @property
    def plain(self) -> bool:
        return (self.attack, self.treatment, self.accounts) == ("knockoff", "", 1)


Ways = dict[Way, list[Row]]


def ways_of(path: Path) -> dict[str, Ways]:
    """The rows of each defense by the way of the attack, one a victim; of ways that were tried on every victim."""
    found: dict[str, dict[Way, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in read(path):
        found[row.victim.name][Way.of(row)].setdefault(row.victim.seed, row)
    tried = {name: max(map(len, ways.values())) for name, ways in found.items()}
    return {
        name: {way: list(rows.values()) for way, rows in ways.items() if len(rows) == tried[name]}
        for name, ways in found.items()
    }


def table(path: Path) -> str:
    """A line for each defense, in the order of the rows: means in %, with half a 95 % interval over victims."""
    lines = [HEAD, ["---", *["--:"] * 4, "---", "--:", "--:"]]
    return markdown([*lines, *(_line(name, ways) for name, ways in ways_of(path).items())])


def by_accounts(path: Path) -> str:
    """A line for each defense that judges accounts and each number of them, in the same form."""
    shown = [("knockoff", "soft"), ("knockoff", "hard"), ("cover", "soft")]
    lines = [["defense", "benign", "accounts", *(", ".join(one) for one in shown)], ["---", *["--:"] * 5]]
    for name, ways in ways_of(path).items():
        numbers = sorted({way.accounts for way in ways})
        for accounts in numbers if len(numbers) > 1 else ():
            found = {
                (way.attack, way.labels): rows
                for way, rows in ways.items()
                if way.accounts == accounts and not way.treatment
            }
            cells = [number(usable(found[one])) if one in found else "-" for one in shown]
            lines.append([name, number(benign_of(ways)), f"{accounts:,}", *cells])
    return markdown(lines)


def _line(name: str, ways: Ways) -> list[str]:
    plain = {way.labels: rows for way, rows in ways.items() if way.plain}
    knowing = {way: rows for way, rows in ways.items() if not way.plain}
    start = [name, number(benign_of(ways)), *(number(usable(plain[mode])) for mode in ("soft", "hard"))]
    if not knowing:
        return [*start, "-", "-", "-", "-"]
    best = max(knowing, key=lambda way: usable(knowing[way]).mean)
    how = ", ".join(filter(None, [best.attack, best.treatment, best.labels]))
    answers = sum(row.queries for row in knowing[best]) / len(knowing[best])
    return [*start, number(usable(knowing[best])), how, f"{best.accounts:,}", f"{answers:,.0f}"]


def usable(rows: Iterable[Row]) -> Spread:
    """The clones' accuracy, or that after renaming with twenty labeled samples where its mean is higher."""
    return higher((row.metrics["clone_accuracy"], row.metrics["renamed_accuracy_20"]) for row in rows)


def higher(pairs: Iterable[tuple[float, float]]) -> Spread:
    """Of the two columns the one with the higher mean."""
    spreads = [Spread.of(column) for column in zip(*pairs, strict=True)]
    return max((spread for spread in spreads if spread), key=lambda spread: spread.mean)


def benign_of(ways: Ways) -> Spread:
    """Benign accuracy of the victims, each counted once."""
    found = {row.victim.key: row.victim.metrics["benign_accuracy"] for rows in ways.values() for row in rows}
    spread = Spread.of(list(found.values()))
    assert spread is not None, "every way has a row"
    return spread


if __name__ == "__main__":
    print(table(Path(sys.argv[1])), by_accounts(Path(sys.argv[1])), sep="\n\n")
