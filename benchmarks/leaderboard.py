"""The tables of docs/leaderboard.md, from committed rows.

    python -m benchmarks.leaderboard

A line is a setting of a defense that costs honest users at most a point of benign accuracy, with its worst clone. A
line is adaptive if everything that the defense itself names as its counters (`countered_by`) was tried.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks import lines
from benchmarks.counters import benign_of, higher, usable, ways_of

from stealguard.defenses import DEFENSES
from stealguard.report import summary
from stealguard.report.cells import Group
from stealguard.report.comparing import baselines
from stealguard.report.naming import number
from stealguard.report.statistics import Spread
from stealguard.results import read

RESULTS = Path(__file__).parent.parent / "docs/results"
ROBUST = {  # rows of attackers who know the default and of honest accounts, and of attackers who read refusals
    "mnist": ("adaptive.jsonl", "refusals.jsonl"),
    "fashion-mnist": ("adaptive-fashion.jsonl", "refusals-fashion.jsonl"),
}
POINT = 0.01 + 1e-9  # of benign accuracy
HEAD = ["defense", "accounts", "benign accuracy", "loss", "worst clone", "by", "queries", "not tried yet"]


class Entry(NamedTuple):
    """A line of the leaderboard; accuracies are fractions."""

    defense: str
    accounts: str
    benign: Spread | None
    loss: float
    worst: Spread
    by: str
    queries: int
    missing: Sequence[str]  # counters of the defense that no row has

    @property
    def texts(self) -> list[str]:
        loss, missing = f"{round(100 * self.loss, 1) + 0.0:.1f}", ", ".join(self.missing) or "-"
        worst = [number(self.benign), loss, number(self.worst), self.by]
        return [self.defense, self.accounts, *worst, f"{self.queries:,}", missing]


def entries(task: str) -> list[Entry]:
    """The lines of a task, the lowest worst clone first; the undefended net stands last."""
    groups = [group for group in summary(read(RESULTS / "rivals.jsonl")) if group.task.data == task]
    found = [entry for group in groups for entry in _of_group(group, baselines(groups).get(group.name))]
    found += [*_of_adaptive(task), *(_of_known() if task == "mnist" else [])]
    best: dict[tuple[str, str], Entry] = {}
    for entry in found:
        place = entry.defense, entry.accounts
        best[place] = worse(entry, best.get(place, entry))
    return sorted(best.values(), key=lambda entry: (entry.defense == "none", entry.worst.mean))


def growing(rising: Iterable[Entry]) -> list[Entry]:
    """Lines of one defense by rising numbers of accounts: who has more can do what is done with fewer."""
    found: list[Entry] = []
    for line in rising:
        before = found[-1] if found else line
        more = before.worst.mean > line.worst.mean
        found.append(line._replace(worst=before.worst, by=before.by, queries=before.queries) if more else line)
    return found


def worse(one: Entry, other: Entry) -> Entry:
    """Of two lines of a defense the one with the better clone; what one of them has tried is tried."""
    found = max(one, other, key=lambda entry: entry.worst.mean)
    return found._replace(missing=[name for name in one.missing if name in other.missing])


def _of_group(group: Group, baseline: Group | None) -> list[Entry]:
    """The line of a setting, or none if it costs more than a point."""
    worst = group.worst
    if worst is None or worst.stolen is None or group.benign is None:
        return []
    before = baseline.benign.mean if baseline and baseline.benign else group.benign.mean
    loss = before - group.benign.mean
    if loss > POINT:
        return []
    tried = {"labels" for line in group.cells if line.labels == "hard"}
    tried |= {line.attack for line in group.cells} | {f"treatment:{line.treatment}" for line in group.cells}
    tried |= {"accounts" for line in group.cells if line.accounts > 1}
    counters = DEFENSES[group.defense].countered_by
    how = ", ".join(filter(None, [worst.line.attack, worst.line.labels, worst.line.treatment]))
    accounts = "1" if "accounts" in counters else "any"
    missing = [name for name in counters if name not in tried]
    return [Entry(group.label, accounts, group.benign, loss, worst.stolen, how, worst.line.budget, missing)]


def _of_adaptive(task: str) -> list[Entry]:
    """The lines of `ini-robust` with memory, one a number of accounts, after renaming where that is more."""
    rows, refused = (lines.read(RESULTS / name) for name in ROBUST[task])
    wanted = "first five", "as it is", ""
    honest = [row for row in rows if (row["measurement"], row.get("how"), row.get("variant")) == wanted]
    benign, alone = (Spread.of([row[name] for row in honest]) for name in ("later", "net_alone"))
    cells: dict[int, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        made = "clone_accuracy" in row  # few answers may leave nothing to train on
        if made and (row["measurement"], row.get("guard"), row["variant"]) == ("theft", "memory", ""):
            how = f"{row['attack']}, {row['pool_name']}, {row['labels']}"
            cells[row["accounts"]][how].append((row["clone_accuracy"], row["renamed_accuracy_20"]))
    runs: dict[tuple[int, str, str], list[tuple[float, float]]] = defaultdict(list)  # of each victim
    for row in refused:
        how = f"refusals, {row['pool_name']}, hard"
        runs[row["accounts"], how, row["victim"]].append((row["clone_accuracy"], row["renamed_accuracy_20"]))
    for (accounts, how, _), of_victim in runs.items():
        plain, renamed = zip(*of_victim, strict=True)
        cells[accounts][how].append((fmean(plain), fmean(renamed)))
    budget = rows[0]["scale"]["budget"]
    loss = alone.mean - benign.mean if alone and benign else 0.0
    tried = {word for by in cells.values() for how in by for word in how.split(",")[0].split()} | {"labels", "accounts"}
    missing = [name for name in DEFENSES["ini-robust"].countered_by if name.removeprefix("treatment:") not in tried]
    found = []
    for accounts, by in sorted(cells.items()):
        how, worst = max(((how, higher(values)) for how, values in by.items()), key=lambda pair: pair[1].mean)
        found.append(Entry("ini-robust", f"{accounts:,}", benign, loss, worst, how, budget, missing))
    return growing(found)


def _of_known() -> list[Entry]:
    """Lines of attackers who know the defense, one a number of accounts where it judges them."""
    known = ways_of(RESULTS / "rivals-adaptive.jsonl")
    plain = benign_of(known["none"])
    found = []
    for name, ways in known.items():
        benign = benign_of(ways)
        counters = DEFENSES[name].countered_by
        tried = {way.attack for way in ways} | {f"treatment:{way.treatment}" for way in ways} | {"labels", "accounts"}
        missing = [counter for counter in counters if counter not in tried]
        rising = []
        for accounts in sorted({way.accounts for way in ways}) if plain.mean - benign.mean <= POINT else ():
            of_number = {way: usable(rows) for way, rows in ways.items() if way.accounts == accounts}
            way, worst = max(of_number.items(), key=lambda pair: pair[1].mean)
            how = ", ".join(filter(None, [way.attack, way.labels, way.treatment]))
            shown = f"{accounts:,}" if "accounts" in counters else "any"
            budget = ways[way][0].budget
            rising.append(Entry(name, shown, benign, plain.mean - benign.mean, worst, how, budget, missing))
        found += growing(rising)
    return found


def table(task: str) -> str:
    """The Markdown table of a task."""
    made = [HEAD, ["---", "--:", "--:", "--:", "--:", "---", "--:", "---"], *(one.texts for one in entries(task))]
    return lines.markdown(made)


if __name__ == "__main__":
    for name in ("mnist", "fashion-mnist"):
        print(f"## {name}\n\n{table(name)}\n")
