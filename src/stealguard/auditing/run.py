"""Audit: a release and the ways to steal it -> flat rows, in a store that resumes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import nn

from stealguard import data as sets
from stealguard.attacks import ATTACKS, Knockoff
from stealguard.attacks.base import Attack
from stealguard.attacks.recovery import Means
from stealguard.attacks.treatments import treated
from stealguard.auditing.owned import fine_tuned, no_theft_accuracy, owned
from stealguard.auditing.plan import Theft, fresh_clone, thefts
from stealguard.auditing.suites import Block, suite, unseen
from stealguard.auditing.utility import answering, everything
from stealguard.boxes.base import Boxed, Labels, Metered
from stealguard.boxes.ledger import Journal
from stealguard.checks import check_inputs
from stealguard.data.roles import several
from stealguard.errors import NotApplicable, StealguardError, require
from stealguard.identity import tensor_hash
from stealguard.progress import bar
from stealguard.releases.release import Release, load, setting_of
from stealguard.results.metrics import accuracy, agreement
from stealguard.results.provenance import provenance
from stealguard.results.row import LABELS, Row, Store, key_of
from stealguard.seeds import derive, seeded
from stealguard.settings import changed, describe

STORE = "audit.sqlite"  # beside the release's own files, unless told otherwise


def audit(
    release: str | Path | Release,
    attacks: Sequence[Attack] | str | None = None,
    pools: Any = None,
    labels: Sequence[str] = LABELS,
    *,
    budgets: Sequence[int] = (),
    answers: Sequence[str] = ("",),
    own: Sequence[int] = (0,),
    seeds: Sequence[int] = (0,),
    clone: str | nn.Module | None = None,
    data: Any = None,
    net: str | nn.Module | None = None,
    resize: bool = False,
    store: str | Path | None = None,
    progress: bool = True,
) -> list[Row]:
    """Steal the release in every combination of what is given, and measure each clone.

    A row that the store already has is not computed again, and an attack that was killed asks only what it has not
    been answered yet, so an audit that was interrupted goes on where it stopped; where the guard remembers a client's
    queries, that attack begins anew.

    Args:
        release: a release, or its folder.
        attacks: what thieves do, KnockoffNets if None; or the name of a suite (`quick`, `standard`, `full`), which
            brings its own labels, answers and own.
        pools: what thieves query with: one or several of what `stealguard.data.images` takes. A pool that is one of
            the defender's outlier families gives the part that the defender did not train on; `own:N` is N task
            samples, with altered copies of them as far as the budget goes; `nothing` is for data-free attacks.
            A family that fits the inputs' shape if None.
        labels: `soft` (answers as they are) and `hard` (the most probable class only).
        budgets: how many answers thieves may have, where it is not the attacks' own number.
        answers: what thieves do with the answers: "" for nothing, or names in `TREATMENTS` joined by "+".
        own: how many labelled task samples thieves fine-tune the clone on.
        seeds: one thief for each.
        thief: the clone's architecture, a name, `module:callable` or module; the victim's own, drawn anew, if None.
        data: the task, where the release was not made from a set with a name.
        net: the protected network, where it is the user's own: `module:callable`, or a module like it.
        resize: fit pools of another shape to the victim's inputs.
        store: the SQLite file for the rows; `audit.sqlite` in the release folder if None.
        progress: show bars.

    Raises:
        Invalid: a parameter breaks its rule; nothing is asked or written then.
    """
    victim = release if isinstance(release, Release) else load(release, net=net)
    task = _task(victim, data)
    families = unseen(victim.shape) if pools is None else several(pools)
    if isinstance(attacks, str):
        blocks = suite(attacks, families)
    else:
        chosen = [Knockoff()] if attacks is None else attacks
        chosen = [changed(a, {"budget": n}, "attack") for a in chosen for n in budgets] if budgets else chosen
        blocks = [Block(chosen, families, labels, answers, own)]
    planned = [t for block in blocks for t in thefts(victim, task, block, seeds, clone, resize=resize)]
    require(bool(planned), "attacks, pools, labels, answers, own, seeds", "at least one of each", "an empty list")
    planned[0].fresh(victim)  # a thief that cannot be built is found out before anything is asked
    path = Path(store or victim.folder / STORE)
    kept, bench = Store(path), Bench(victim, task, path.with_name(f"{path.name}.journals"))
    keys = [bench.key(theft) for theft in planned]
    with bar(f"audit {victim.folder.name}", len(planned), show=progress) as tick:
        for number, (key, theft) in enumerate(zip(keys, planned, strict=True)):
            if (known := kept.get(key)) is None or known.status == "failed":
                tick(number, f"{theft.name} {theft.pool.name} {theft.labels} {theft.answers} seed {theft.seed}")
                kept.put(row := bench.row(key, theft))
                if row.status != "failed":  # else the next try need not pay for the same answers
                    bench.forget(key)
    return [found for found in map(kept.get, keys) if found is not None]


def _task(victim: Release, data: Any) -> sets.Task:
    source = victim.recipe["data"] if data is None else data
    nameless = data is None and not (source in sets.SETS or source.startswith(("folder:", "npz:")))
    require(not nameless, "data", "given: the release was made from data without a name", "none")
    task = sets.task(source)
    check_inputs(task.test.x, "data", victim.shape)
    return task


class Bench:
    """Where thefts from one victim are carried out and measured, on the task's test set.

    Args:
        journals: a folder for what thieves are answered until their rows are safe.
    """

    def __init__(self, victim: Release, task: sets.Task, journals: Path):
        self._victim, self._task, self._journals = victim, task, journals
        self._answers = everything(victim.box, task.test.x)
        self._hash, self._line = cache(tensor_hash), cache(self._no_theft)
        self._answering = cache(partial(answering, victim, self._answers, task.test))

    def key(self, theft: Theft) -> str:
        """The hash of everything that the theft's row follows from."""
        name, settings = describe(ATTACKS, theft.attack)
        return key_of(
            release=self._victim.hash, attack=name, settings=settings, pool=self._hash(theft.pool.x),
            labels=theft.labels, answers=theft.answers, own=theft.own, tunes=theft.tunes, seed=theft.seed,
            clone=theft.architecture(self._victim),
        )  # fmt: skip

    def row(self, key: str, theft: Theft) -> Row:
        """Steal once and measure; an attack that cannot be finished gives a row that says why."""
        started, victim = time.perf_counter(), self._victim
        box = Labels(victim.box) if theft.labels == "hard" else victim.box
        if victim.defense.cost.state:  # the guard of a thief that was killed is gone, and what it remembered with it
            (self._journals / key).unlink(missing_ok=True)
        journal = Journal(box, self._journals / key)
        metered = Metered(journal, theft.attack.budget, victim.folder.name)
        status, reason, clone_accuracy, same = "ok", "", None, None
        try:
            stolen = everything(Boxed(self._steal(metered, theft), victim.shape), self._task.test.x)
            clone_accuracy, same = accuracy(stolen, self._task.test.y), agreement(stolen, self._answers)
        except NotApplicable as e:
            status, reason = "skip", str(e)
        except StealguardError as e:
            status, reason = "failed", str(e)
        finally:
            journal.close()
        name, settings = describe(ATTACKS, theft.attack)
        recipe, defense = victim.recipe, victim.recipe["defense"]
        return Row(
            key=key, release=victim.folder.name, release_hash=victim.hash, data=recipe["data"], net=recipe["net"],
            defense=defense["name"], defense_settings=json.dumps(defense["settings"], sort_keys=True),
            attack=name, attack_settings=json.dumps(settings, sort_keys=True),
            pool=theft.pool.name, pool_hash=self._hash(theft.pool.x), in_family=theft.pool.in_family,
            labels=theft.labels, answers=theft.answers, own=theft.own, budget=theft.attack.budget,
            queries=metered.spent, seed=theft.seed, clone=theft.architecture(victim),
            benign_accuracy=accuracy(self._answers, self._task.test.y), clone_accuracy=clone_accuracy, agreement=same,
            no_theft=self._line(theft.own, theft.seed, theft.clone) if theft.own and status == "ok" else None,
            seconds=time.perf_counter() - started, status=status, reason=reason,
            when=datetime.now(UTC).isoformat(timespec="seconds"), **provenance(),
            setting=setting_of(recipe), victim_seed=recipe["seed"], protect_seconds=recipe["seconds"],
            **self._answering(),
        )  # fmt: skip

    def forget(self, key: str) -> None:
        """Drop what a thief was answered: its row is safe."""
        (self._journals / key).unlink(missing_ok=True)
        if not any(self._journals.iterdir()):
            self._journals.rmdir()

    def _steal(self, metered: Metered, theft: Theft) -> nn.Module:
        with seeded(derive(theft.root, "treatments")):
            fresh = partial(fresh_clone, self._victim, theft.clone, theft.pool.x)
            means = Means(theft.pool.x, fresh, derive(theft.root, "recovery"))
            box = treated(metered, theft.answers.split("+") if theft.answers else [], means)
            clone = theft.attack(box, theft.pool.x, theft.fresh(self._victim), seed=derive(theft.root, "attack"))
        if theft.tunes:
            own = owned(self._task.train, theft.own, seed=theft.seed)
            clone = fine_tuned(clone, own, seed=derive(theft.root, "own"))
        return clone

    def _no_theft(self, own: int, seed: int, clone: str | nn.Module | None) -> float:
        samples = owned(self._task.train, own, seed=seed)
        seed = derive(seed, "no theft", own)
        fresh = fresh_clone(self._victim, clone, samples.x, seed=seed)
        return no_theft_accuracy(fresh, samples, self._task.test, seed=seed)
