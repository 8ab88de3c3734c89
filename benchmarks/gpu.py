"""Training and auditing on one GPU, in under ten minutes: `python -m benchmarks.gpu`, which prints JSON lines.

    step     plain and InI steps of resnet18 on 3 x 32 x 32, batch 128 (+ 128): images/s in float32 and bf16, as
             written, recorded as a CUDA graph (which is how `protect` and `audit` train on a GPU) and with the net
             compiled; and the share of the counted floor, 22 / 3 plain steps over the InI step
    protect  InI on CIFAR-10 at the authors' settings, for as many epochs as fit in `--minutes`: images/s, and accuracy
    audit    the seconds of `--suite standard` on that release, six thefts at a time, stopped after 200: the row tells
             how many thefts ended

Without a GPU each row says "not run here". `--tiny` runs all of it in a minute on a processor, with a small net, one
theft and a compiler that only traces: what its rows say of speed means nothing. Inputs are made up where
CIFAR-10 is not at hand; the rows say so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch._functorch.config as functorch
from benchmarks import lines
from torch import Tensor

import stealguard as sg
from stealguard.defenses import InI
from stealguard.errors import StealguardError
from stealguard.nets import build
from stealguard.releases.presets import PRESETS
from stealguard.releases.protection import losses_of
from stealguard.results import STORE, read
from stealguard.results.provenance import hardware
from stealguard.training.combine import COMBINES
from stealguard.training.descent import Descent
from stealguard.training.losses import task_loss
from stealguard.training.steps import Recorded, Step
from stealguard.types import Batch

PASSES = 22 / 3  # of InI's step, in plain steps
Row = dict[str, Any]


class Size(NamedTuple):
    """What is run, and how large."""

    device: str
    net: str
    shape: tuple[int, ...]
    batch: int
    steps: int
    attacks: list[str]
    workers: int  # of the audit
    limit: float  # seconds of the audit, at most
    rows: int  # of training inputs
    compiler: str


FULL = Size("cuda", "resnet18", (3, 32, 32), 128, 20, ["--suite", "standard"], 6, 200.0, 50_000, "inductor")
TINY = Size("cpu", "lenet5", (1, 28, 28), 16, 2, ["--budget", "100"], 1, 600.0, 400, "aot_eager")


def steps(size: Size) -> Iterator[Row]:
    """Seconds of a plain step and of InI's, for each precision and way to run them."""
    ways = ("written", "recorded", "compiled") if size.device == "cuda" else ("written", "compiled")
    for precision in ("float32", "bf16"):
        for way in ways:
            what = {"what": "step", "net": size.net, "batch": size.batch, "precision": precision, "way": way}
            try:
                plain, ini = _seconds(size, precision, way)
            except Exception as e:  # compilers fail in many ways, and the other rows still tell something
                yield {**what, "note": f"not run: {type(e).__name__}: {str(e).splitlines()[0]}"}
                continue
            yield {
                **what,
                "plain_images_per_second": size.batch / plain, "ini_images_per_second": size.batch / ini,
                "ini_over_plain": ini / plain, "share_of_floor": PASSES * plain / ini,
            }  # fmt: skip


def _seconds(size: Size, precision: str, way: str) -> tuple[float, float]:
    """The medians of a plain step's and of an InI step's seconds, in turns."""
    x, z = torch.rand(2, size.batch, *size.shape, device=size.device)
    batch = Batch(x, torch.randint(10, (size.batch,), device=size.device), z)
    net = build(size.net, x.cpu(), 10, seed=0).to(size.device).train()
    defended = InI().build(net, x)
    _ = defended.surrogates(x)  # drawn of the net as it is, before it is compiled
    if way == "compiled":
        net.compile(backend=size.compiler)
    functorch.donated_buffer = False  # PCGrad goes backward once for each loss
    descent = Descent(net.parameters(), momentum=0.9, weight_decay=0.0)
    plain, ini = (
        Step(model, descent, objective, COMBINES[combine], bf16=precision == "bf16")
        for model, objective, combine in ((net, task_loss, "total"), (defended, losses_of, "pcgrad"))
    )

    def both(*runs: Step | Recorded) -> list[float]:
        times = []
        for run in runs:
            _wait(size)
            start = time.perf_counter()
            run(batch, 0.0, lambda losses: None)
            _wait(size)
            times.append(time.perf_counter() - start)
        return times

    for _ in range(3):
        both(plain, ini)
    runs = [Recorded(step, batch) for step in (plain, ini)] if way == "recorded" else [plain, ini]
    times = [both(*runs) for _ in range(size.steps)]
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    return first, second


def _wait(size: Size) -> None:
    if size.device == "cuda":
        torch.cuda.synchronize()


def protect_and_audit(size: Size, minutes: float, precision: str, work: Path) -> Iterator[Row]:
    """A release of InI at the authors' settings, and its audit."""
    data, outliers, pools, said = _data(size, work)
    images = size.batch * (int(0.9 * size.rows) // size.batch)  # of an epoch: a tenth is for validation
    preset = PRESETS["ini-official-cifar10"]
    training = replace(preset.training, batch=size.batch, precision=precision)

    def protected(epochs: int, out: str) -> tuple[sg.Release, float]:
        start = time.perf_counter()
        release = sg.protect(
            size.net, data, outliers=[outliers], defense=preset.defense, training=replace(training, epochs=epochs),
            out=work / out, device=size.device, progress=False,
        )  # fmt: skip
        return release, time.perf_counter() - start

    _, first = protected(1, "first")
    epochs = max(1, min(training.epochs, int(60 * minutes / first)))
    release, seconds = protected(epochs, "release")
    epoch = statistics.median(record["seconds"] for record in release.recipe["history"])
    what = {"net": size.net, "data": said, "precision": precision}
    yield {
        "what": "protect", **what, "epochs": epochs, "seconds": seconds, "epoch_seconds": epoch,
        "images_per_second": images / epoch, "validation": release.recipe["history"][-1]["validation"],
        "honest": release.recipe["honest"]["served"],
    }  # fmt: skip
    yield {"what": "audit", **what, **_audited(size, work, pools)}


def _audited(size: Size, work: Path, pools: list[str]) -> Row:
    """The audit in a process of its own, which is stopped when its time is up; rows that are finished count."""
    folder, start = work / "release", time.perf_counter()
    placed = ["--device", size.device, "--workers", str(size.workers)]
    command = [sys.executable, "-m", "stealguard", "audit", str(folder), *size.attacks, *pools, *placed]
    try:
        subprocess.run(command, capture_output=True, check=False, timeout=size.limit)
        stopped = False
    except subprocess.TimeoutExpired:
        stopped = True
    found = read(folder) if (folder / STORE).exists() else []
    best = max((row.clone_accuracy for row in found if row.clone_accuracy is not None), default=None)
    return {
        "attacks": " ".join(size.attacks), "workers": size.workers,
        "seconds": time.perf_counter() - start, "stopped": stopped,
        "thefts": len(found), "failed": sum(row.status == "failed" for row in found), "best_clone_accuracy": best,
    }  # fmt: skip


def _data(size: Size, work: Path) -> tuple[str, str, list[str], str]:
    """The task, outliers, options for the audit's pools, and what the rows say: CIFAR-10 where it is at hand."""
    if size is FULL:
        try:
            sg.data.task("cifar10")
            return "cifar10", "wallpapers", [], "cifar10"
        except StealguardError:
            pass
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(10, *size.shape, generator=generator)

    def drawn(n: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(10, (n,), generator=generator)
        x = 0.6 * prototypes[y] + 0.4 * torch.rand(n, *size.shape, generator=generator)
        return (255 * x).to(torch.uint8), y

    (x, y), (test_x, test_y) = drawn(size.rows), drawn(max(100, size.rows // 5))
    np.savez(work / "task.npz", train_x=x, train_y=y, test_x=test_x, test_y=test_y)
    for name in ("outliers", "pool"):
        noise = torch.randint(256, (size.rows, *size.shape), generator=generator, dtype=torch.uint8)
        np.savez(work / f"{name}.npz", x=noise)
    return (
        f"npz:{work / 'task.npz'}",
        f"npz:{work / 'outliers.npz'}",
        ["--pools", f"npz:{work / 'pool.npz'}"],
        "made-up",
    )


def rows(size: Size, minutes: float, precision: str, part: str) -> Iterator[Row]:
    """The rows of `part`, or of `all`, each with the hardware."""
    if size.device == "cuda" and not torch.cuda.is_available():
        for what in ("step", "protect", "audit"):
            yield {"what": what, "net": size.net, "note": "not run here: torch finds no GPU"}
        return
    where = {"hardware": hardware(), "torch": torch.__version__, "tiny": size is TINY}
    if part in ("steps", "all"):
        yield from ({**row, **where} for row in steps(size))
    if part in ("release", "all"):
        with tempfile.TemporaryDirectory() as work:
            yield from ({**row, **where} for row in protect_and_audit(size, minutes, precision, Path(work)))


def table(rows: Iterable[Row]) -> str:
    """The steps in Markdown, a line for each precision and way."""
    made = [["precision", "step", "plain, images/s", "InI, images/s", "InI / plain", "share of the counted floor"]]
    made.append(["---", "---", "--:", "--:", "--:", "--:"])
    for row in rows:
        if row["what"] == "step" and "ini_over_plain" in row:
            rates = (f"{row[f'{name}_images_per_second']:,.0f}" for name in ("plain", "ini"))
            ratio, share = f"{row['ini_over_plain']:.1f}", f"{row['share_of_floor']:.2f}"
            made.append([row["precision"], row["way"], *rates, ratio, share])
    return lines.markdown(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small run on a processor, for a test")
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, at most (about)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16")
    parser.add_argument("--part", choices=("steps", "release", "all"), default="all")
    parser.add_argument("--table", type=Path, help="show the steps of rows made before, and measure nothing")
    chosen = parser.parse_args()
    if chosen.table:
        print(table(lines.read(chosen.table)))
        return
    size, minutes = (TINY, 0.0) if chosen.tiny else (FULL, chosen.minutes)
    for row in rows(size, minutes, chosen.precision, chosen.part):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
