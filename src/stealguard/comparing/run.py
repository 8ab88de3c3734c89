"""Compare: the victims of a grid are trained, attacked and measured, by whatever engine; nothing is done twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import product
from pathlib import Path
from typing import Any

from stealguard import data as sets
from stealguard import devices
from stealguard.auditing.plan import owned_by
from stealguard.comparing.cells import GridCell, PlannedVictim, attacks_of, plan, unpinned
from stealguard.comparing.engines import ENGINES, Engine, Wanted
from stealguard.comparing.grid import read
from stealguard.comparing.layout import done, release_folder, rows_left, tidy
from stealguard.comparing.work import work
from stealguard.errors import StealguardError, pick, require
from stealguard.files import real
from stealguard.identity import identity_of
from stealguard.progress import Tick, bar
from stealguard.releases.release import RECIPE, read_recipe, setting_of
from stealguard.results import STORE, Row, Rows, Store, VictimFacts, key_of

UNSEEN = "it is said to have ended well, but its rows are not here: its worker writes to another folder"
TRIES = 2  # of a cell that was lost with its process: whatever killed that may have meant another


def compare(
    grid: str | Path | Mapping[str, Any],
    out: str | Path = "runs/compare",
    *,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    gpus: int | None = None,
    address: str | None = None,
    device: str | None = None,
    allow_code: bool = False,
    progress: bool = True,
) -> Rows:
    """Train every victim of the grid that is not there yet, attack each in every way, and return all rows.

    Whatever happens to a cell, the others continue: one that raises, is killed or meets a full disk gives rows whose
    status is "failed" and that say why. The next call does what is missing, damaged or failed, and nothing else.
    Processes are spawned: a script that calls this does so under `if __name__ == "__main__"`.

    Args:
        grid: a YAML file, or what it would hold: see `stealguard.comparing.grid`.
        out: the folder for releases and rows; several grids, people and machines may share one.
        engine: `local` processes, `ray` or `slurm`.
        workers: how many cells at once; as many as there are processors, or as the cluster takes.
        threads: processor threads of each cell; the processors shared out among local workers, 1 elsewhere.
        gpus: GPUs of each cell. Local workers take one each, in turn, if there are any; clusters give none.
        address: the Ray cluster to join; for `slurm`, another of submitit's clusters (`local`, `debug`).
        device: a torch device for training and stealing; a GPU if there is one. Local workers number their own GPUs.
        allow_code: let a grid file name code of your own to import (`module:Class`, `module:callable`).
        progress: show how far the grid has come.

    Raises:
        StealguardError: the grid breaks a rule (names file, key and value), or the engine is not there.

    Example:
        >>> rows = sg.compare("grid.yaml", "runs/compare", workers=2)  # doctest: +SKIP
    """
    spec, home = read(grid, allow_code=allow_code), Path(out)
    for name, number, least, most in (
        ("workers", workers, 1, 10_000),
        ("threads", threads, 1, 1_024),
        ("gpus", gpus, 0, 1_024),
    ):
        rule = f"at least {least} (and at most {most:,})"
        require(number is None or least <= number <= most, name, rule, number)
    start = pick(ENGINES, engine, "engine")
    if device is not None and engine == "local":
        seen = max(1, gpus or 0)
        own = (devices.choose(device).index or 0) < seen
        require(own, "device", f"without a number, or below {seen}: a local worker sees no more GPUs", f"`{device}`")
    for name in unpinned(spec):
        sets.get(name, progress=progress)
    cells = plan(spec)
    there = {cell.key for cell in cells if done(home, cell)}
    missing = [cell for cell in cells if cell.key not in there]
    for cell in cells:
        if cell.key in there:
            tidy(home, cell)
    reasons: dict[str, str] = {}
    with ExitStack() as stack:
        made: Engine | None = start(work, home, Wanted(workers, threads, gpus, address)) if missing else None
        store = Store(home / STORE)  # after what may refuse: nothing is written then
        kept = {(row.key, row.victim.name) for row in store if row.status != "failed"}
        _collect(store, home, [cell for cell in cells if cell.key in there], kept)
        if made is not None:
            stack.enter_context(closing(made))
            tick = stack.enter_context(bar(f"compare {home.name}", len(missing), show=progress, lines=10))
            reasons = _carry_out(
                missing, made, lambda cell: (str(real(home)), cell.arguments, made.threads, device), tick,
                lambda cell: _collect(store, home, [cell]),
            )  # fmt: skip
    thefts = [cell for cell in cells if cell.block]
    rows = Rows(row for c in thefts for row in rows_left(home, c) or _failed(home, c, reasons.get(c.key, UNSEEN)))
    with suppress(StealguardError):  # a disk that is full cannot keep them, but the caller has them all the same
        store.put(*(row for row in rows if row.status == "failed"))
    return rows


def _carry_out(
    missing: Sequence[GridCell], engine: Engine, arguments: Callable[[GridCell], tuple[Any, ...]], tick: Tick,
    collect: Callable[[GridCell], None],
) -> dict[str, str]:  # fmt: skip
    """Do every cell, after what it needs and as many at once as the engine takes; the reasons of failures, by key."""
    waiting, running = {cell.key: cell for cell in missing}, dict[str, GridCell]()
    failed, tries = dict[str, str](), Counter[str]()
    while waiting or running:
        for cell in list(waiting.values()):
            if cell.needs in failed:
                failed[cell.key] = f"no victim: {failed[cell.needs].removeprefix('no victim: ')}"
            elif len(running) >= engine.workers or cell.needs in waiting or cell.needs in running:
                continue
            else:
                engine.start(cell.key, *arguments(cell))
                running[cell.key] = cell
            del waiting[cell.key]
        note = f"{len(running)} running, {len(failed)} failed"
        tick(len(missing) - len(waiting) - len(running), note)
        for key, reason, lost in engine.ended() if running else ():
            cell = running.pop(key)
            tries[key] += 1
            if lost and tries[key] < TRIES:
                waiting[key] = cell
            elif reason:
                failed[key] = reason
            with suppress(StealguardError, OSError):  # the rows are safe in the cell's own file
                collect(cell)
    tick(len(missing), f"{len(failed)} failed")
    return failed


def _collect(store: Store, home: Path, cells: Iterable[GridCell], kept: Collection[tuple[str, str]] = ()) -> None:
    """Put the cells' rows into the store, in the place of those that said that there were none.

    Args:
        kept: keys and victims' names of rows that the store has; a victim's name is what this grid calls it.
    """
    for cell in cells:
        rows = rows_left(home, cell) if cell.block else []
        if not all((row.key, row.victim.name) in kept for row in rows):
            store.put(*rows)
            store.drop(*(row.key for row in _failed(home, cell, "-")))


def _failed(home: Path, cell: GridCell, reason: str) -> list[Row]:
    """A row for each theft that the cell would have had."""
    victim, block = cell.victim, cell.block
    if block is None:
        return []
    facts = _facts(home, victim)
    return [
        Row.of_theft(
            key=key_of(failed=cell.key, attack=attack, pool=pool, labels=labels, treatment=treatment, own=own,
                       accounts=accounts),
            victim=facts, attack=attack["name"], settings=attack["settings"], pool=pool,
            in_family=pool in victim.outliers, labels=labels, treatment=treatment, own=max(own, owned_by(pool)),
            accounts=accounts, budget=attack["settings"]["budget"], seed=victim.seed, clone=cell.clone or victim.net,
            status="failed", reason=reason,
        )
        for attack, pool, labels, treatment, own, accounts in product(
            attacks_of(block), block.pools, block.labels, block.treatments, block.own, block.accounts
        )
    ]  # fmt: skip


def _facts(home: Path, victim: PlannedVictim) -> VictimFacts:
    """What is known of a victim that may not be there; its setting is also that of a victim with another seed."""
    folder, recipe = release_folder(home, victim), dict[str, Any]()
    for candidate in (folder, *sorted(path.parent for path in folder.parent.glob(f"seed-*/{RECIPE}"))):
        with suppress(StealguardError):
            recipe = recipe or read_recipe(candidate)
    its_own = recipe.get("seed") == victim.seed
    return VictimFacts(
        key=identity_of(recipe) if its_own else "", name=victim.name, setting=setting_of(recipe) if recipe else "",
        seed=victim.seed, data=victim.data, net=victim.net, defense=victim.defense,
        defense_settings=json.dumps(victim.settings, sort_keys=True), outliers=tuple(victim.outliers),
        training=json.dumps(victim.training, sort_keys=True), classes=recipe.get("classes"),
    )  # fmt: skip
