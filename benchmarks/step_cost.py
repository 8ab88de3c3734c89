"""What a training step of InI costs beside a plain step, exactly and in ways that compute less; time and peak memory.

    python -m benchmarks.step_cost --rounds 5 --out docs/results/step-cost.jsonl
    python -m benchmarks.step_cost --nets lenet5-1 --rounds 3
    python -m benchmarks.step_cost --table docs/results/step-cost.jsonl

Time is processor time of one thread, so that other work on the machine counts little: all variants are timed in turns
within one process, and a ratio is the median of the rounds' own ratios. The memory that a variant adds is what one of
its steps takes at its peak, in a process of its own, less what a plain step takes. `counted` are the passes of the
victim and of a surrogate of its architecture, with a Jacobian product as two forward passes, over the three of a plain
step.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks import double_backward
from benchmarks.lines import add, markdown, read
from benchmarks.measure import Contender, interleaved

from stealguard.defenses import InI
from stealguard.nets import build
from stealguard.results.provenance import hardware
from stealguard.training.combine import COMBINES, total
from stealguard.training.losses import task_loss
from stealguard.types import Batch

NETS: dict[str, tuple[str, tuple[int, ...], int]] = {  # net, shape of an input, task inputs and outliers a step
    "lenet5-1": ("lenet5", (1, 28, 28), 128),
    "resnet18-1": ("resnet18", (1, 28, 28), 16),
    "resnet18-3": ("resnet18", (3, 32, 32), 16),
    "wrn16_4-3": ("wrn16_4", (3, 32, 32), 16),
}
VARIANTS = {
    "ini": InI(),
    "summed": InI(combine="total"),
    "summed, lenet5 as surrogate": InI(combine="total", surrogate="lenet5"),
    "isolation of a fourth": InI(isolate_every=4),
    "last layer": InI(surrogate_layers="head"),
    "last layer, summed": InI(surrogate_layers="head", combine="total"),
    "ini-fast": InI(surrogate_layers="head", combine="total", surrogate="mlp"),
}
PLAIN, AUTHORS = "plain", "authors' way"
ORDERS = [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0], [1, 0, 3, 2]]


def counted(defense: InI) -> float:
    """Passes over those of a plain step, where a surrogate of another architecture costs nothing."""
    victim = 2 + (4 if defense.combine == "total" else 8)
    products = 2 if defense.surrogate_layers == "all" else 0  # a pass of each kind counts two
    isolation = (1 + 3 * products) / defense.isolate_every  # of the task inputs; magnitude is of the outliers
    surrogate = isolation + 1 + 2 * products if defense.surrogate is None else 0
    return (victim + surrogate) / 3


def steps(name: str, shape: tuple[int, ...], size: int) -> dict[str, Contender]:
    """One step of each variant, of the authors' way and of no defense, on the same victim and batch."""
    generator = torch.Generator().manual_seed(0)
    x, z = torch.rand(2, size, *shape, generator=generator)
    batch = Batch(x, torch.randint(10, (size,), generator=generator), z)
    victim = build(name, x, 10, seed=0)
    parameters = list(victim.parameters())

    def of(defense: InI) -> Contender:
        defended, combine = defense.build(victim, x), COMBINES[defense.combine]
        return lambda: combine(list(defended.losses(batch).values()), parameters)

    drawing = InI().build(victim, x)

    def authors() -> None:
        (surrogate,) = drawing.surrogates(x)
        weights = (InI.gamma, InI.delta, InI.epsilon)
        losses = double_backward.losses(victim, surrogate, batch.x, batch.y, batch.z, InI.reading, weights)
        double_backward.pcgrad(losses, parameters, ORDERS)

    return {
        PLAIN: lambda: total(list(task_loss(victim, batch).values()), parameters),
        AUTHORS: authors,
        **{variant: of(defense) for variant, defense in VARIANTS.items()},
    }


def measured(key: str, variants: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """A row for each variant of a net."""
    name, shape, size = NETS[key]
    contenders = {variant: step for variant, step in steps(name, shape, size).items() if variant in (PLAIN, *variants)}
    seconds = interleaved(contenders, rounds, clock=time.process_time)
    peaks = {variant: _peak_apart(key, variant) for variant in contenders}
    rows = []
    for variant in variants:
        ratios = sorted(a / b for a, b in zip(seconds[variant], seconds[PLAIN], strict=True))
        rows.append({
            "net": name, "shape": list(shape), "batch": size, "variant": variant,
            "ratio": statistics.median(ratios), "least": ratios[0], "greatest": ratios[-1], "rounds": rounds,
            "added_mib": peaks[variant] - peaks[PLAIN], "hardware": hardware(), "torch": torch.__version__,
        })  # fmt: skip
    return rows


def peak(key: str, variant: str) -> float:
    """The most memory in MiB that a second step takes beyond what is resident before it, on Linux with glibc.

    The first step imports what traces a surrogate and checks the trace, which is done once for each shape.
    """
    step = steps(*NETS[key])[variant]
    step()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = _resident("VmRSS")
    step()
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 2**10  # from KiB


def _peak_apart(key: str, variant: str) -> float:
    """`peak` in a process of its own, whose allocator keeps nothing that was freed: what it keeps differs by run."""
    command = [sys.executable, "-m", "benchmarks.step_cost", "--peak", key, variant]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each variant in Markdown, a column for each net: the ratio, and the share of the authors' memory.

    Either is left out where it was not measured.
    """
    found = {(row["net"], row["shape"][0], row["variant"]): row for row in rows}
    nets = list(dict.fromkeys((net, channels) for net, channels, _ in found))
    heads = [f"{net}, {channels} x" for net, channels in nets]
    lines = [["step", "counted", *heads], ["---", "--:", *["--:"] * len(heads)]]
    for variant in AUTHORS, *VARIANTS:
        cells = [_told(found.get((*net, variant)), found.get((*net, AUTHORS))) for net in nets]
        lines.append([variant, f"{counted(VARIANTS[variant]):.2f}" if variant in VARIANTS else "", *cells])
    return markdown(lines)


def _told(row: Mapping[str, Any] | None, authors: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    ratio = f"{row['ratio']:.2f} ({row['least']:.2f} - {row['greatest']:.2f})"
    if authors is None or row["added_mib"] is None or authors["added_mib"] is None:
        return ratio
    return f"{ratio}; {row['added_mib'] / authors['added_mib']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=NETS)
    parser.add_argument("--variants", nargs="+", default=[AUTHORS, *VARIANTS], choices=[AUTHORS, *VARIANTS])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="the file that lines are added to; printed if left out")
    parser.add_argument("--table", type=Path, help="print the table of a file of rows, and measure nothing")
    parser.add_argument("--peak", nargs=2, metavar=("NET", "VARIANT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.table:
        print(table(read(given.table)))
        return
    if given.peak:
        print(peak(*given.peak))
        return
    for key in given.nets:
        add(measured(key, given.variants, given.rounds), given.out)


if __name__ == "__main__":
    main()
