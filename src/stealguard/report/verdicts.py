"""Numbers -> words: what a clone reaches, what the defense costs, which pools are protected, and what flatters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from stealguard.errors import counted
from stealguard.report.cells import Cell, Group, stolen_of, worst_of
from stealguard.report.comparing import baselines
from stealguard.report.naming import BELOW_CHANCE, outcome, percent
from stealguard.report.statistics import Spread, mean
from stealguard.results import Row
from stealguard.results.row import CLEARLY

NEAR = 0.1  # of the way from the floor to the benign accuracy
RULE = (
    "A pool counts as protected where even the worst clone accuracy is near its floor: the upper end of every "
    "interval, also after the best renaming of the clone's classes where that was measured, lies at most a tenth of "
    "the way from the floor to the benign accuracy. The floor is chance or, for an attacker who owns samples, the "
    "no-theft line: what those samples give without any query. A pool counts as reduced where the clone accuracy is "
    "below half of what the same attacks reach on the undefended model, the upper ends of the intervals included. It "
    "counts as undecided where only the mean is that low, where an attack failed, where chance is not known, and "
    "where a clone is below chance and no renaming was measured. Nothing is known of a pool from which the same "
    "attacks gain next to nothing on the undefended model either, nor of any pool where the model itself is no better "
    "than chance."
)
PROTECTED, REDUCED, UNDECIDED, OPEN, UNKNOWN = "protected", "reduced", "undecided", "not protected", "unknown"


class Verdict(NamedTuple):
    """How a victim stands against the queries of one pool, by `RULE`, and the accuracies it follows from."""

    pool: str
    in_family: bool
    own: int  # labeled task samples that the attacker owns
    word: str
    defended: Spread | None  # the worst clone accuracy
    renamed: Spread | None  # what renaming the classes of a clone gives at most, where that is more
    undefended: Spread | None
    chance: float | None
    no_theft: float | None

    @property
    def tells_nothing(self) -> bool:
        """Whether the same attacks gain next to nothing on the undefended model either."""
        return self.word == UNKNOWN and self.undefended is not None and self.defended is not None


def verdicts(group: Group, baseline: Group | None) -> list[Verdict]:
    """One verdict a pool and number of owned samples, in the order of their names; of an undefended victim none."""
    by_pool: dict[tuple[int, str], list[Cell]] = defaultdict(list)
    for line, cell in group.cells.items():
        by_pool[line.own, line.pool].append(cell)
    return [] if group.undefended else [_verdict(pool, by_pool[pool], group, baseline) for pool in sorted(by_pool)]


def _verdict(what: tuple[int, str], cells: list[Cell], group: Group, baseline: Group | None) -> Verdict:
    own, pool = what
    undefended = _reached_without(cells, baseline)
    usable = max((cell.usable for cell in cells if cell.usable), key=lambda spread: spread.mean, default=None)
    no_theft = mean(cell.no_theft for cell in cells)
    floor = max((floor for floor in (group.chance, no_theft) if floor is not None), default=None)
    weak = undefended is not None and baseline is not None and _near(undefended.mean, floor, baseline)
    near = usable is not None and _near(usable.mean, floor, group)
    word = UNKNOWN if group.at_chance or (weak and near) else _word(cells, usable, undefended, floor, group)
    in_family = any(cell.in_family for cell in cells)
    defended = stolen_of(worst_of(cells))
    renamed = usable if usable != defended else None
    return Verdict(pool, in_family, own, word, defended, renamed, undefended, group.chance, no_theft)


def _word(
    cells: Sequence[Cell], usable: Spread | None, undefended: Spread | None, floor: float | None, group: Group
) -> str:
    if usable is None:
        return UNKNOWN
    if undefended is None:  # the attacks may be weak, so that only their success means something
        half = group.benign.mean / 2 if group.benign else 1.0
        return OPEN if usable.mean >= half and not _near(usable.mean, floor, group) else UNKNOWN
    doubtful = floor is None or any(_failed(cell) or (cell.below_chance and not cell.renamed) for cell in cells)
    highest = max(cell.usable.high for cell in cells if cell.usable)  # not always that of the highest mean
    if _near(highest, floor, group) and not doubtful:
        return PROTECTED
    if usable.mean >= undefended.mean / 2:
        return UNDECIDED if _near(usable.mean, floor, group) else OPEN
    return UNDECIDED if highest >= undefended.mean / 2 or doubtful else REDUCED


def _near(accuracy: float, floor: float | None, group: Group) -> bool:
    """Whether an accuracy lies at most a tenth of the way from the floor to the benign accuracy."""
    if floor is None:
        return False
    benign = group.benign.mean if group.benign else floor
    return accuracy <= floor + NEAR * max(0.0, benign - floor)


def _reached_without(cells: Iterable[Cell], baseline: Group | None) -> Spread | None:
    """What the same lines reach on the baseline, where both sides finished: more attacks on one side decide nothing."""
    theirs = baseline.cells if baseline else {}
    return stolen_of(worst_of(theirs[cell.line] for cell in cells if cell.clone and cell.line in theirs))


def _failed(cell: Cell) -> bool:
    return cell.clone is None and any(row.status == "failed" for row in cell.rows)


def overall(found: Sequence[Verdict]) -> str:
    """`holds`, `holds in part`, `does not hold`, `undecided` or `unknown`; an in-family pool alone proves nothing.

    Attackers who own samples are left out: no answer that stays useful stops them. So are pools that tell nothing.
    """
    found = [verdict for verdict in found if not verdict.own and not verdict.tells_nothing]
    words = {verdict.word for verdict in found}
    if words == {PROTECTED} and not all(verdict.in_family for verdict in found):
        return "holds"
    if words & {PROTECTED, REDUCED}:
        return "holds in part"
    if OPEN in words:
        return "does not hold"
    return UNDECIDED if UNDECIDED in words else UNKNOWN


def claim(word: str) -> str:
    """The word of `overall` as a report says it: what holds does so against these attacks, and nothing more is known.

    >>> claim("holds"), claim("does not hold")
    ('holds against the attacks that were made', 'does not hold')
    """
    return f"{word} against the attacks that were made" if word in ("holds", "holds in part") else word


STRANGER = (
    "stealguard did not train this model. Its training data, its defense and its outliers are not known, so this "
    "report cannot say what a defense changes, which pools are in-family, or what the defense costs."
)


def headline(group: Group, baseline: Group | None) -> str:
    """What a clone reaches and what the defense costs, in plain words."""
    worst = group.worst
    if worst is None or worst.clone is None:
        return "No attack finished, so nothing is known about how stealable this model is."
    before = _reached_without((cell for cell in group.cells.values() if not cell.line.own), baseline)
    marks = [] if worst.chance is None else [f"chance: {percent(worst.chance)}"]
    marks += [f"undefended: {percent(before.mean) if before else 'unknown'}"] * (baseline is not None)
    known = f" ({'; '.join(marks)})" if marks else ""
    budget = counted(worst.line.budget, "query", "queries")
    asked = f"With a budget of {budget} on {counted(worst.line.accounts, 'account')}"
    how = " once its classes are renamed" if worst.needs_renaming else ""
    failed = sum(map(_failed, group.cells.values()))
    sentences = [
        group.at_chance,
        f"{asked}, a clone reaches {percent(worst.reached)} on your test set{how}{known}{_share(group, worst)}.",
        _renamed(group, worst),
        _cost(group, baseline),
        f"{counted(failed, 'attack')} of {len(group.cells)} failed: an attacker may reach more." if failed else "",
    ]
    return " ".join(filter(None, sentences))


def _share(group: Group, worst: Cell) -> str:
    """The worst clone beside the model itself, where that is better than chance."""
    if group.benign is None or group.benign.mean == 0 or group.at_chance:
        return ""
    if worst.reached >= group.benign.mean:
        return f", which is no less than your model's own accuracy ({percent(group.benign.mean)})"
    return f", which is {percent(worst.reached / group.benign.mean)} of your accuracy"


def _renamed(group: Group, worst: Cell) -> str:
    """What a clone of an attacker who owns no samples reaches after renaming, where that is more than the worst one."""
    usable = [cell.usable.mean for cell in group.cells.values() if cell.usable and not cell.line.own]
    best = max(usable, default=worst.reached)
    more = best >= worst.reached + CLEARLY
    return f"With the best names for its classes, a clone reaches up to {percent(best)}." if more else ""


def _cost(group: Group, baseline: Group | None) -> str:
    if group.undefended:
        return "No defense was used."
    if group.unknown:
        return STRANGER
    if baseline is None:
        return "No undefended model of the same data and net was audited: what the defense changes is unknown."
    if group.benign is None or baseline.benign is None:
        return "What you pay in benign accuracy is unknown."
    points = round(100 * (baseline.benign.mean - group.benign.mean), 1)
    if points > 0:
        return f"You pay {points:.1f} points of benign accuracy."
    return (
        f"Your benign accuracy gains {-points:.1f} points." if points < 0 else "Your benign accuracy stays as it was."
    )


def explain(found: Sequence[Verdict]) -> str:
    """The pools by verdict, in a sentence each."""
    pools = defaultdict(list)
    for verdict in found:
        owning = f" for an attacker who owns {counted(verdict.own, 'sample')}" if verdict.own else ""
        pools[verdict.word].append(named(verdict.pool, verdict.in_family) + owning)
    order = (PROTECTED, REDUCED, UNDECIDED, OPEN, UNKNOWN)
    return " ".join(f"{word.capitalize()}: {', '.join(pools[word])}." for word in order if word in pools)


def named(pool: str, in_family: bool) -> str:
    return f"{pool} (in-family)" if in_family else pool


MANY = 3  # clones below chance that are told one by one


def below_chance(group: Group) -> str:
    """Which clones are below chance and what that means, in words; "" where none is."""
    cells = [cell for cell in group.cells.values() if cell.below_chance]
    if not cells:
        return ""
    told = list(_told(cells[:MANY])) + [f"{len(cells) - MANY} more"] * (len(cells) > MANY)
    guessing = percent(cells[0].chance or 0.0)
    return f"Below chance, which is {guessing}: {'; '.join(told)}. There {BELOW_CHANCE}."


def _told(cells: Iterable[Cell]) -> Iterator[str]:
    for cell in cells:
        after = f", {percent(cell.renamed.mean)} after the best renaming" if cell.renamed else ""
        where = ", ".join(filter(None, [cell.line.attack, cell.line.pool, cell.line.labels, cell.line.treatment]))
        yield f"{where} {percent(cell.clone.mean if cell.clone else 0.0)}{after}"


IN_FAMILY = (
    "Pools marked as in-family are what a defender held out of its own outliers; victims that never saw them are "
    "queried with the whole pool. They flatter a defense: an attacker will hardly choose the queries it was trained on."
)
OWNING = (
    "Attackers who own labeled task data are told apart from the worst: no answer that stays useful stops them. "
    "Compare each with its no-theft line, what its own samples give without any query."
)
OVER_SEEDS = (
    "± is half of a 95 % t-interval of the mean over seeds (Student's t, n − 1 degrees of freedom). Seeds vary the "
    "attacker; the interval says nothing about training the victim anew."
)
OVER_VICTIMS = (
    "± is half of a 95 % t-interval of the mean over victims trained from different seeds (Student's t, n − 1 degrees "
    "of freedom), where there are two or more: the clones of one victim are averaged first, for they share it."
)
MIXED = "Cells of one victim have an interval over its clones' seeds; it says nothing about training the victim anew."


def notes(groups: Sequence[Group]) -> list[str]:
    """What a reader has to know before believing the numbers."""
    rows = [row for group in groups for row in group.rows]
    found = [cell for group in groups for cell in group.cells.values() if cell.clone]
    several = any(cell.victims > 1 for cell in found)
    clones = any(cell.victims == 1 and cell.clone and cell.clone.n > 1 for cell in found)
    single = any(cell.clone and cell.clone.n == 1 for cell in found)
    older = sum(group.superseded for group in groups)
    below = [cell for cell in found if cell.below_chance]
    checks = [
        (below, f"Below chance in {len(below):,} of {counted(len(found), 'cell')}: {BELOW_CHANCE}."),
        (any(row.in_family for row in rows), IN_FAMILY),
        (any(row.own for row in rows), OWNING),
        (several, OVER_VICTIMS),
        (clones, MIXED if several else OVER_SEEDS),
        (single, "Cells with one seed have no interval: another seed may differ."),
        *((True, f"{missing}: see below.") for missing in unmeasured(rows)),
        (older, f"{counted(older, 'older row')} of the same cell and seed left out: the newest counts."),
    ]  # fmt: skip
    told = [note for applies, note in checks if applies]
    return (
        told
        + at_chance(groups)
        + silent(rows)
        + _given(groups)
        + _uneven(groups)
        + learned_nothing(groups)
        + mixed_pools(rows)
    )


def unmeasured(rows: Sequence[Row]) -> list[str]:
    """How many rows failed or were skipped, where some did: no mean has anything of them."""
    ended = Counter(outcome(row) for row in rows if row.status != "ok")
    return [f"{number:,} of {counted(len(rows), 'row')} {word}" for word, number in sorted(ended.items())]


def at_chance(groups: Iterable[Group]) -> list[str]:
    """Victims that do not know their task, so that no clone accuracy says how stealable they are."""
    return [f"{group.name} itself is no better than chance: nothing follows." for group in groups if group.at_chance]


def silent(rows: Sequence[Row]) -> list[str]:
    """How many thefts met accounts that answered nothing: less was stolen than from fresh ones, perhaps."""
    met = sum("silent_accounts" in row.metrics for row in rows)
    told = f"{counted(met, 'theft')} had accounts that answered nothing, perhaps since they were refused before."
    return [told] if met else []


def _given(groups: Sequence[Group]) -> list[str]:
    """Whose weights stealguard did not train, though it released them."""
    names = [group.name for group in groups if group.rows[0].victim.given]
    return [f"Nothing was trained for {', '.join(names)}: the weights are those that were given."] if names else []


def _uneven(groups: Sequence[Group]) -> list[str]:
    """Where a defended group and its baseline were not tested with the same attacks."""
    baseline = baselines(groups)
    uneven = {}
    for group in groups:
        if (beside := baseline.get(group.name)) and (differ := len(group.cells.keys() ^ beside.cells.keys())):
            uneven[group.name] = (differ, beside.name)
    if len(uneven) > 3:
        most = max(differ for differ, _ in uneven.values())
        return [f"Not compared: up to {counted(most, 'attack')} tried on only one of a defense and its baseline, "
                f"for {len(uneven)} defenses."]  # fmt: skip
    return [
        f"Not compared: {counted(differ, 'attack')} tried on only one of {name} and {beside}."
        for name, (differ, beside) in uneven.items()
    ]


def learned_nothing(groups: Sequence[Group]) -> list[str]:
    """Victims from which no attack gains anything, and beside which nothing shows that these attacks can.

    Where an attack got few answers, these are why.
    """
    asked = [group for group in groups if all(cell.answers is None for cell in group.cells.values())]
    alone = {group.name for group in asked if not group.at_chance} - baselines(groups).keys()
    worst = [(group, group.worst.usable) for group in groups if group.name in alone and group.worst]
    weak = [group.name for group, usable in worst if usable and _near(usable.mean, group.chance, group)]
    return [f"Clones of {name} learned next to nothing, so the attacks may be too weak. {WEAK}" for name in weak]


WEAK = "Few queries give clones few steps of training: try `--set training.epochs=100`."


def mixed_pools(rows: Iterable[Row]) -> list[str]:
    """Pools of one name and several contents. A held-out part may differ from the whole: `IN_FAMILY` says so.

    What an attacker owns of the task, `own:N`, is another draw for each seed, by design, and a pool may be made from
    the task. A theft that failed before its pool was read has no hash of it.
    """
    hashes = defaultdict(set)
    for row in rows:
        if row.pool_hash and not row.pool.startswith("own:"):
            hashes[row.pool, row.in_family, row.victim.data].add(row.pool_hash)
    mixed = sorted({pool for (pool, *_), found in hashes.items() if len(found) > 1})
    return [f"The pool {pool} does not hold the same inputs in all rows: compare with care." for pool in mixed]
