"""What a cell does, in whatever process: a function of JSON data that may run twice, even at once, anywhere."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from stealguard import data as sets
from stealguard.auditing import audit
from stealguard.comparing.cells import PlannedVictim, attack_of
from stealguard.comparing.layout import (
    cell_file,
    finished,
    made,
    release_folder,
    scratch,
    set_aside,
    under,
    whole,
    write_rows,
)
from stealguard.devices import choose
from stealguard.errors import StealguardError, disk_error, one_line
from stealguard.files import appending
from stealguard.releases.protection import guarded, protect
from stealguard.releases.release import load
from stealguard.results import STORE
from stealguard.settings import changed
from stealguard.training.loop import Training


def work(out: str, cell: Mapping[str, Any], threads: int, device: str | None = None) -> str:
    """Do the cell in the folder `out`; "" or, where it failed, the reason."""
    torch.set_num_threads(threads)
    home, victim = Path(out), PlannedVictim(**cell["victim"])
    try:
        with _attempt(home, cell), FileLock(made(home / "locks") / cell["key"]):
            return _train(home, victim, device) if cell["block"] is None else _steal(home, victim, cell, device)
    except StealguardError as e:
        return one_line(e)
    except Exception as error:
        first = disk_error(error) or error
        last = traceback.extract_tb(first.__traceback__)[-1]
        text = (str(first).strip().splitlines() or [""])[0]
        return f"{type(first).__name__}: {text} ({Path(last.filename).name}, line {last.lineno})"


def _train(home: Path, victim: PlannedVictim, device: str | None) -> str:
    """The victim's release: trained, or the weights of the victim that it shares them with, answered otherwise."""
    folder = release_folder(home, victim)
    if whole(folder):
        return ""
    if folder.exists():
        set_aside(folder)
    base = victim.base
    if base is not None:
        trained = load(release_folder(home, base), net=_own(base.net), defense=_own(base.defense))
        guarded(trained, victim.made(), folder, data=_task(victim.data, victim.contents[0]))
        return ""
    protect(
        victim.net, _task(victim.data, victim.contents[0]), out=folder, outliers=victim.outliers, defense=victim.made(),
        training=changed(Training(), victim.training, "training"), seed=victim.seed, resize=victim.resize, resume=True,
        device=device, progress=False,
    )  # fmt: skip
    return ""


def _steal(home: Path, victim: PlannedVictim, cell: Mapping[str, Any], device: str | None) -> str:
    """The block's rows, in the cell's own file; a store beside it keeps them until they are all there."""
    block, path = cell["block"], cell_file(home, cell["key"])
    if finished(path):
        return ""
    kept = scratch(home, cell["key"])
    rows = audit(
        release_folder(home, victim), [attack_of(attack) for attack in block["attacks"]], block["pools"],
        block["labels"], treatments=block["treatments"], own=block["own"], accounts=block["accounts"],
        seeds=[victim.seed], clone=cell["clone"], data=_task(victim.data, victim.contents[0]), net=_own(victim.net),
        defense=_own(victim.defense), resize=victim.resize, store=kept / STORE, device=choose(device), progress=False,
    )  # fmt: skip
    write_rows(path, [under(victim.name, row) for row in rows])
    failed = [row.reason for row in rows if row.status == "failed"]
    if not failed:  # else the answers that were paid for are kept for the next try
        shutil.rmtree(kept, ignore_errors=True)
    return "; ".join(dict.fromkeys(failed))


def _own(name: str) -> str | None:
    """The name of a user's own net or defense, whose code a release may not import by itself."""
    return name if ":" in name else None


@lru_cache(maxsize=1)
def _task(name: str, contents: str) -> sets.Task:
    """One process does many cells of one task; it may outlive a comparison, and the files that the name stands for."""
    return sets.task(name)


@contextmanager
def _attempt(home: Path, cell: Mapping[str, Any]) -> Iterator[None]:
    """Two lines in the journal of attempts: which process begins what, and how long it took."""

    def note(**what: object) -> None:
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        process = {"when": when, "host": platform.node(), "pid": os.getpid()}
        line = json.dumps({"key": cell["key"], "cell": cell["title"], **process, **what}) + "\n"
        with appending(home / "attempts.jsonl") as journal:
            journal.write(line.encode())

    started = time.perf_counter()
    note(event="begins")
    yield
    note(event="ends", seconds=time.perf_counter() - started)
