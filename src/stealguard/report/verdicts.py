"""Numbers -> words: what a thief gets, what the owner pays, which pools are protected, and what flatters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stealguard.report.cells import Cell, Group, clone_of, worst_of
from stealguard.report.comparing import baselines
from stealguard.report.naming import count, percent
from stealguard.report.statistics import Spread
from stealguard.results.row import Row

RULE = (
    "A pool counts as protected where the worst clone accuracy of the defended release, the upper end of its interval "
    "included, is below half of what the same attacks reach on the undefended one; as undecided where its mean alone "
    "is, or where an attack failed."
)
PROTECTED, UNDECIDED, OPEN, UNKNOWN = "protected", "undecided", "not protected", "unknown"


class Verdict(NamedTuple):
    """How a release stands against the queries of one pool, by `RULE`, and the clone accuracies it follows from."""

    pool: str
    in_family: bool
    word: str
    defended: Spread | None
    undefended: Spread | None


def verdicts(group: Group, baseline: Group | None) -> list[Verdict]:
    """One verdict a pool, in the order of their names; of an undefended release none."""
    by_pool: dict[str, list[Cell]] = defaultdict(list)
    for line, cell in group.cells.items():
        if not line.own:
            by_pool[line.pool].append(cell)
    return [] if group.undefended else [_verdict(pool, by_pool[pool], baseline) for pool in sorted(by_pool)]


def _verdict(pool: str, cells: list[Cell], baseline: Group | None) -> Verdict:
    defended, undefended = clone_of(worst_of(cells)), _reached_without(cells, baseline)
    if defended is None or undefended is None:
        word = UNKNOWN
    elif defended.mean >= undefended.mean / 2:
        word = OPEN
    else:
        word = UNDECIDED if defended.high >= undefended.mean / 2 or any(map(_failed, cells)) else PROTECTED
    return Verdict(pool, any(cell.in_family for cell in cells), word, defended, undefended)


def _reached_without(cells: Iterable[Cell], baseline: Group | None) -> Spread | None:
    """What the same lines reach on the baseline, where both sides finished: more attacks on one side decide nothing."""
    theirs = baseline.cells if baseline else {}
    return clone_of(worst_of(theirs[cell.line] for cell in cells if cell.clone and cell.line in theirs))


def _failed(cell: Cell) -> bool:
    return cell.clone is None and any(row.status == "failed" for row in cell.rows)


def overall(found: Sequence[Verdict]) -> str:
    """`holds`, `holds in part`, `does not hold`, `undecided` or `unknown`; the own family alone proves nothing."""
    words = {verdict.word for verdict in found}
    if words == {PROTECTED} and not all(verdict.in_family for verdict in found):
        return "holds"
    if PROTECTED in words:
        return "holds in part"
    if OPEN in words:
        return "does not hold"
    return UNDECIDED if UNDECIDED in words else UNKNOWN


def headline(group: Group, baseline: Group | None) -> str:
    """What a thief gets and what the owner pays, in plain words."""
    worst = group.worst
    if worst is None:
        return "No attack finished, so nothing is known about how stealable it is."
    share = f"{percent(min(1.0, worst.reached / group.benign.mean))} of your accuracy: " if group.benign else ""
    reached = f"With {worst.line.budget:,} answers a thief reaches {share}{percent(worst.reached)} on your test set"
    failed = sum(map(_failed, group.cells.values()))
    but = f" {count(failed, 'attack')} of {len(group.cells)} failed: it may reach more." if failed else ""
    if group.undefended:
        return f"{reached}. Nothing was done to stop it.{but}"
    if baseline is None:
        unknown = "No undefended release of the same data and net was audited: what the defense does is unknown."
        return f"{reached}. {unknown}{but}"
    before = _reached_without((cell for cell in group.cells.values() if not cell.line.own), baseline)
    return f"{reached} (undefended: {percent(before.mean) if before else 'unknown'}); {_price(group, baseline)}.{but}"


def _price(group: Group, baseline: Group) -> str:
    if group.benign is None or baseline.benign is None:
        return "what you pay in benign accuracy is unknown"
    points = round(100 * (baseline.benign.mean - group.benign.mean), 1)
    if points > 0:
        return f"you pay {points:.1f} points of benign accuracy"
    return f"your benign accuracy gains {-points:.1f} points" if points < 0 else "your benign accuracy stays as it was"


def explain(found: Sequence[Verdict]) -> str:
    """The pools by verdict, in a sentence each."""
    pools = defaultdict(list)
    for verdict in found:
        pools[verdict.word].append(named(verdict.pool, verdict.in_family))
    order = (PROTECTED, UNDECIDED, OPEN, UNKNOWN)
    return " ".join(f"{word.capitalize()}: {', '.join(pools[word])}." for word in order if word in pools)


def named(pool: str, in_family: bool) -> str:
    return f"{pool} (own family)" if in_family else pool


OWN_FAMILY = (
    "Pools marked as own family are what a defender held out of its own outliers; releases that never saw them are "
    "queried with the whole pool. They flatter a defense: a thief will hardly choose the queries it was trained on."
)
OWNING = (
    "Thieves who own labelled task data are told apart from the worst: no answer that stays useful stops them. "
    "Compare each with its no-theft line, what its own samples give without asking anybody."
)
OVER_SEEDS = (
    "± is half of a 95 % t-interval of the mean over seeds (Student's t, n − 1 degrees of freedom). Seeds vary the "
    "thief; the interval says nothing about training the release anew."
)
OVER_VICTIMS = (
    "± is half of a 95 % t-interval of the mean over victims trained from different seeds (Student's t, n − 1 degrees "
    "of freedom), where there are two or more: the thieves of one victim are averaged first, for they share it."
)
MIXED = "Cells of one victim have an interval over its thieves' seeds; it says nothing about training the victim anew."


def notes(groups: Sequence[Group]) -> list[str]:
    """What a reader has to know before believing the numbers."""
    rows = [row for group in groups for row in group.rows]
    found = [cell for group in groups for cell in group.cells.values() if cell.clone]
    several = any(cell.victims > 1 for cell in found)
    clones = any(cell.victims == 1 and cell.clone and cell.clone.n > 1 for cell in found)
    single = any(cell.clone and cell.clone.n == 1 for cell in found)
    failed, skipped = (sum(row.status == status for row in rows) for status in ("failed", "skip"))
    older = sum(group.superseded for group in groups)
    checks = [
        (any(row.in_family for row in rows), OWN_FAMILY),
        (any(row.own for row in rows), OWNING),
        (several, OVER_VICTIMS),
        (clones, MIXED if several else OVER_SEEDS),
        (single, "Cells with one seed have no interval: another seed may differ."),
        (failed, f"{failed:,} of {count(len(rows), 'row')} failed: see below."),
        (skipped, f"{skipped:,} of {count(len(rows), 'row')} skipped: see below."),
        (older, f"{count(older, 'older row')} of the same cell and seed left out: the newest counts."),
    ]
    return [note for applies, note in checks if applies] + _uneven(groups) + _mixed_pools(rows)


def _uneven(groups: Sequence[Group]) -> list[str]:
    """Where a defended group was spared, or given, something that its baseline was not."""
    baseline = baselines(groups)
    uneven = {}
    for group in groups:
        if (beside := baseline.get(group.name)) and (differ := len(group.cells.keys() ^ beside.cells.keys())):
            uneven[group.name] = (differ, beside.name)
    if len(uneven) > 3:
        most = max(differ for differ, _ in uneven.values())
        return [f"Not compared: up to {count(most, 'way')} to steal tried on only one of a defense and its baseline, "
                f"for {len(uneven)} defenses."]  # fmt: skip
    return [
        f"Not compared: {count(differ, 'way')} to steal tried on only one of {name} and {beside}."
        for name, (differ, beside) in uneven.items()
    ]


def _mixed_pools(rows: Iterable[Row]) -> list[str]:
    """Pools of one name and several contents. A held-out part may differ from the whole: `OWN_FAMILY` says so.

    What a thief owns of the task, `own:N`, is another draw for each seed, by design.
    """
    hashes = defaultdict(set)
    for row in rows:
        if not row.pool.startswith("own:"):
            hashes[row.pool, row.in_family].add(row.pool_hash)
    mixed = sorted({pool for (pool, _), found in hashes.items() if len(found) > 1})
    return [f"The pool {pool} does not hold the same inputs in all rows: compare with care." for pool in mixed]
