"""Compare: a grid's victims are made, robbed and measured, by whatever engine; what is done is not done again.

A *cell* is one victim to make, or one block of thefts from it: a function of JSON data that may be run twice, even at
once, under any engine. What it leaves lies in the folder of the comparison, under a name that is a hash of everything
it follows from: `releases/` for victims, `cells/` for the rows of a block. `audit.sqlite` collects the rows, and
`attempts.jsonl` says who tried what and when.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from stealguard import data as sets
from stealguard.auditing.plan import owned_by
from stealguard.auditing.run import STORE, audit
from stealguard.auditing.suites import Block
from stealguard.comparing.engines import Engine, Local, Ray, Slurm
from stealguard.comparing.grid import Grid, Victim, attack_of, attacks_of, read
from stealguard.defenses import DEFENSES
from stealguard.errors import StealguardError, pick, require
from stealguard.files import write_text
from stealguard.progress import Tick, bar
from stealguard.releases.protection import guarded, protect
from stealguard.releases.release import RECIPE, Release, load, read_recipe, setting_of
from stealguard.results.provenance import provenance
from stealguard.results.row import Row, Store, key_of
from stealguard.settings import changed, create
from stealguard.training.loop import Training

UNSEEN = "it is said to have ended well, but its rows are not here: its worker writes to another folder"
TRIES = 2  # of a cell that was lost with its worker: whatever killed that may have meant another


@dataclass(frozen=True)
class Cell:
    """A victim to be made or, with a block, to be robbed; `key` stands for all it follows from, `needs` goes before."""

    key: str
    victim: Victim
    block: Block | None
    clone: str | None
    needs: str | None

    @property
    def title(self) -> str:
        what = f"{self.victim.name}, {self.victim.data}, {self.victim.net}, seed {self.victim.seed}"
        if self.block is None:
            return f"make {what}"
        attacks = ", ".join(dict.fromkeys(attack["name"] for attack in attacks_of(self.block)))
        return f"{attacks} on {', '.join(self.block.pools)} against {what}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What the cell function takes, as JSON data."""
        block = self.block and {**asdict(self.block), "attacks": attacks_of(self.block)}
        return {
            "key": self.key,
            "title": self.title,
            "victim": asdict(self.victim),
            "block": block,
            "clone": self.clone,
        }


def cells(grid: Grid) -> list[Cell]:
    """Every cell of the grid, once, and after what it needs."""
    planned: dict[str, Cell] = {}
    for victim in grid.victims:
        base = victim.base
        if base is not None:
            planned.setdefault(base.key, Cell(base.key, base, None, None, None))
        planned.setdefault(victim.key, Cell(victim.key, victim, None, None, base.key if base else None))
        for block in grid.blocks:
            made_of = {**asdict(block), "attacks": attacks_of(block), "pools": [grid.contents[p] for p in block.pools]}
            key = key_of(victim=victim.key, block=made_of, clone=grid.clone)
            planned.setdefault(key, Cell(key, victim, block, grid.clone, victim.key))
    return list(planned.values())


def compare(
    grid: str | Path | Mapping[str, Any],
    out: str | Path = "runs/compare",
    *,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    progress: bool = True,
) -> list[Row]:
    """Make every victim of the grid that is not there yet, steal from each in every way, and give all rows.

    Whatever happens to a cell, the others go on: one that raises, is killed or meets a full disk gives rows whose
    status is "failed" and that say why. The next call does what is missing or failed, and nothing else.
    Processes are spawned: a script that calls this does so under `if __name__ == "__main__"`.

    Args:
        grid: a YAML file, or what it would hold: see `stealguard.grid`.
        out: the folder for releases and rows; several grids, people and machines may share one.
        engine: `local` processes, `ray` or `slurm`.
        workers: how many cells at once; as many as there are processors, or as the cluster takes.
        threads: processor threads of each cell; the processors shared out among local workers, 1 elsewhere.
        address: the Ray cluster to join; for `slurm`, another of submitit's clusters (`local`, `debug`).
        progress: show how far the grid has come.

    Raises:
        StealguardError: the grid breaks a rule (names file, key and value), or the engine is not there.
    """
    plan, home = cells(read(grid)), Path(out)
    for name, number in (("workers", workers), ("threads", threads)):
        require(number is None or number >= 1, name, "at least 1", number)
    store = Store(home / STORE)
    done = {cell.key for cell in plan if _done(home, cell)}
    missing = [cell for cell in plan if cell.key not in done]
    _collect(store, home, [cell for cell in plan if cell.key in done])
    reasons: dict[str, str] = {}
    if missing:
        start: Callable[..., tuple[Engine, int, int]] = pick(ENGINES, engine, "engine")
        made, most, each = start(home, workers, threads, address)
        title = f"compare {home.name}"
        with closing(made), bar(title, len(missing), show=progress, lines=10) as tick:
            reasons = _carry_out(missing, made, most, lambda c: (str(home.resolve()), c.arguments, each), tick,
                                 lambda c: _collect(store, home, [c]))  # fmt: skip
    robbed = [cell for cell in plan if cell.block]
    rows = [row for cell in robbed for row in _rows(home, cell) or _failed(home, cell, reasons.get(cell.key, UNSEEN))]
    with suppress(StealguardError):  # a disk that is full cannot keep them, but the caller has them all the same
        store.put(*(row for row in rows if row.status == "failed"))
    return rows


# Engines ----------------------------------------------------------------------------------------------------


def _local(home: Path, workers: int | None, threads: int | None, address: str | None) -> tuple[Engine, int, int]:
    require(address is None, "address", "for the engines `ray` and `slurm`", address)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers or max(1, processors // (threads or 1))
    return Local(work, workers), workers, threads or max(1, processors // workers)


def _ray(home: Path, workers: int | None, threads: int | None, address: str | None) -> tuple[Engine, int, int]:
    return Ray(work, threads or 1, address), workers or MANY, threads or 1


def _slurm(home: Path, workers: int | None, threads: int | None, address: str | None) -> tuple[Engine, int, int]:
    return Slurm(work, threads or 1, home / "slurm", address), workers or MANY, threads or 1


MANY = 1_000  # cells handed to a cluster at once
ENGINES = {"local": _local, "ray": _ray, "slurm": _slurm}


def _carry_out(
    missing: Sequence[Cell], engine: Engine, most: int, arguments: Callable[[Cell], tuple[Any, ...]], tick: Tick,
    collect: Callable[[Cell], None],
) -> dict[str, str]:  # fmt: skip
    """Every cell, after what it needs and at most `most` at once; why those that failed did, by their keys."""
    waiting, running = {cell.key: cell for cell in missing}, dict[str, Cell]()
    failed, tries = dict[str, str](), Counter[str]()
    while waiting or running:
        for cell in list(waiting.values()):
            if cell.needs in failed:
                failed[cell.key] = f"no victim: {failed[cell.needs].removeprefix('no victim: ')}"
            elif len(running) >= most or cell.needs in waiting or cell.needs in running:
                continue
            else:
                engine.start(cell.key, *arguments(cell))
                running[cell.key] = cell
            del waiting[cell.key]
        told = f"{len(running)} running, {len(failed)} failed"
        tick(len(missing) - len(waiting) - len(running), told)
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


# What a cell does, in whatever process ----------------------------------------------------------------------


def work(out: str, cell: Mapping[str, Any], threads: int) -> str:
    """Do the cell in the folder `out`; "" or, where it failed, the reason."""
    torch.set_num_threads(threads)
    home, victim = Path(out), Victim(**cell["victim"])
    try:
        with _attempt(home, cell), FileLock(_made(home / "locks") / cell["key"]):
            return _make(home, victim) if cell["block"] is None else _rob(home, victim, cell)
    except StealguardError as e:
        return str(e)
    except Exception as error:
        first = _system(error) or error
        last = traceback.extract_tb(first.__traceback__)[-1]
        text = (str(first).strip().splitlines() or [""])[0]
        return f"{type(first).__name__}: {text} ({Path(last.filename).name}, line {last.lineno})"


def _system(error: BaseException | None) -> OSError | None:
    """What the operating system said at the bottom of an error: a full disk makes torch complain of positions."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _make(home: Path, victim: Victim) -> str:
    """The victim's release: trained, or the undefended one's weights behind its guard."""
    folder = _folder(home, victim)
    if (folder / RECIPE).exists():
        return ""
    defense = create(DEFENSES, victim.defense, victim.settings, "defense")
    if victim.base is not None:
        guarded(_load(home, victim.base), defense, folder)
        return ""
    protect(
        victim.net, _task(victim.data), out=folder, outliers=victim.outliers, defense=defense,
        training=changed(Training(), victim.training, "training"), seed=victim.seed, resize=victim.resize, resume=True,
        progress=False,
    )  # fmt: skip
    return ""


def _rob(home: Path, victim: Victim, cell: Mapping[str, Any]) -> str:
    """The block's rows, in the cell's own file; a store beside it keeps them until they are all there."""
    block, path = cell["block"], _path(home, cell["key"])
    if _finished(path):
        return ""
    desk = path.with_suffix("")
    rows = audit(
        _load(home, victim), [attack_of(attack) for attack in block["attacks"]], block["pools"], block["labels"],
        answers=block["answers"], own=block["own"], seeds=[victim.seed], clone=cell["clone"], data=_task(victim.data),
        resize=victim.resize, store=desk / STORE, progress=False,
    )  # fmt: skip
    write_text(path, json.dumps([asdict(replace(row, release=victim.name)) for row in rows], indent=1) + "\n")
    failed = [row.reason for row in rows if row.status == "failed"]
    if not failed:  # else what thieves were answered is kept for the next try
        shutil.rmtree(desk)
    return "; ".join(dict.fromkeys(failed))


@lru_cache(maxsize=1)
def _task(name: str) -> sets.Task:
    """A worker robs many victims of one task."""
    return sets.task(name)


def _load(home: Path, victim: Victim) -> Release:
    return load(_folder(home, victim), net=victim.net if ":" in victim.net else None)


@contextmanager
def _attempt(home: Path, cell: Mapping[str, Any]) -> Iterator[None]:
    """Two lines in the journal of attempts: who begins what, and how long it took."""

    def note(**what: object) -> None:
        who = {
            "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "host": platform.node(),
            "pid": os.getpid(),
        }
        with (home / "attempts.jsonl").open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"key": cell["key"], "cell": cell["title"], **who, **what}) + "\n")

    started = time.perf_counter()
    note(event="begins")
    yield
    note(event="ends", seconds=time.perf_counter() - started)


# What is there ----------------------------------------------------------------------------------------------


def _folder(home: Path, victim: Victim) -> Path:
    return home / "releases" / victim.folder


def _path(home: Path, key: str) -> Path:
    return _made(home / "cells") / f"{key}.json"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _done(home: Path, cell: Cell) -> bool:
    if cell.block is None:
        return (_folder(home, cell.victim) / RECIPE).exists()
    return _finished(_path(home, cell.key))


def _finished(path: Path) -> bool:
    return path.exists() and all(row["status"] != "failed" for row in json.loads(path.read_text(encoding="utf-8")))


def _rows(home: Path, cell: Cell) -> list[Row]:
    """The rows that the cell has left, under the name that this grid gives to the victim."""
    path = _path(home, cell.key)
    if not path.exists():
        return []
    return [replace(Row.of(row), release=cell.victim.name) for row in json.loads(path.read_text(encoding="utf-8"))]


def _collect(store: Store, home: Path, done: Iterable[Cell]) -> None:
    """Put the cells' rows into the store, in the place of those that said that there were none."""
    known = store.keys("ok", "skip")
    for cell in done:
        rows = _rows(home, cell) if cell.block else []
        if not known.issuperset(row.key for row in rows):
            store.put(*rows)
            store.drop(*(row.key for row in _failed(home, cell, "-")))


def _failed(home: Path, cell: Cell, reason: str) -> list[Row]:
    """A row for each theft that the cell would have had."""
    victim, block = cell.victim, cell.block
    assert block is not None, "only thefts have rows"
    recipes = sorted(
        _folder(home, victim).parent.glob(f"*/{RECIPE}"), key=lambda p: p.parent.name != f"seed-{victim.seed}"
    )
    recipe = read_recipe(recipes[0].parent) if recipes else None  # its own, or a sibling's, who shares the setting
    own_recipe = recipe if recipe and recipe["seed"] == victim.seed else None
    return [
        Row(
            key=key_of(failed=cell.key, attack=attack, pool=pool, labels=labels, answers=answers, own=own),
            release=victim.name, release_hash=own_recipe["sha256"] if own_recipe else "",
            data=victim.data, net=victim.net, defense=victim.defense,
            defense_settings=json.dumps(victim.settings, sort_keys=True),
            attack=attack["name"], attack_settings=json.dumps(attack["settings"], sort_keys=True),
            pool=pool, pool_hash="", in_family=pool in victim.outliers, labels=labels, answers=answers,
            own=max(own, owned_by(pool)), budget=attack["settings"]["budget"], queries=0, seed=victim.seed,
            clone=cell.clone or victim.net, benign_accuracy=None, clone_accuracy=None, agreement=None, no_theft=None,
            seconds=0.0, status="failed", reason=reason, when=datetime.now(UTC).isoformat(timespec="seconds"),
            **provenance(), setting=setting_of(recipe) if recipe else "", victim_seed=victim.seed,
        )
        for attack, pool, labels, answers, own in product(
            attacks_of(block), block.pools, block.labels, block.answers, block.own
        )
    ]  # fmt: skip
