"""Ratios, measured interleaved in one run: `make bench`, or `python -m benchmarks step inference --rounds 9`.

Each round times every contender once, in an order that alternates; a ratio is the median of the rounds' own ratios,
with the least and the greatest beside it. One thread unless told otherwise.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from benchmarks import double_backward
from benchmarks.defenses import defenses
from benchmarks.grid import grid
from benchmarks.jacobian import jacobian
from benchmarks.measure import Contender, heading, interleaved, ratio
from benchmarks.report import report
from torch import nn

from stealguard import data
from stealguard.boxes import Accounts
from stealguard.defenses import InI
from stealguard.nets import build
from stealguard.releases.presets import PRESETS
from stealguard.releases.protection import losses_of
from stealguard.training.combine import pcgrad, total
from stealguard.training.loop import fit
from stealguard.training.losses import task_loss
from stealguard.types import Batch

STEPS = [("lenet5", (1, 28, 28), 128), ("resnet18", (1, 28, 28), 32), ("resnet18", (3, 32, 32), 32)]


def step(rounds: int) -> None:
    """A training step of InI: first-order against double backward with cloned gradients, and against a plain step.

    And a plain step with weights as torch lays them out, against channels last, which is how nets are built here.
    """
    for name, shape, size in STEPS:
        seconds = interleaved(_steps(name, shape, size), rounds)
        where = f"{name}, {shape[0]} x {shape[1]} x {shape[2]}, batch {size} + {size}"
        print(f"{where:36}  double backward / InI  {ratio(seconds, 'double backward', 'InI')}")
        print(f"{'':36}  InI / plain step       {ratio(seconds, 'InI', 'plain')}")
        print(f"{'':36}  contiguous / plain     {ratio(seconds, 'contiguous', 'plain')}")


def _steps(name: str, shape: tuple[int, ...], size: int) -> dict[str, Contender]:
    generator = torch.Generator().manual_seed(0)
    x, z = torch.rand(2, size, *shape, generator=generator)
    batch = Batch(x, torch.randint(10, (size,), generator=generator), z)
    victim = build(name, x, 10, seed=0)
    defended = InI().build(victim, x)
    (surrogate,) = defended.surrogates(x)
    parameters = list(victim.parameters())
    orders = [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0], [1, 0, 3, 2]]
    weights = (InI.gamma, InI.delta, InI.epsilon)

    def ini() -> None:
        pcgrad(list(defended.losses(batch).values()), parameters, orders)

    def reference() -> None:
        losses = double_backward.losses(victim, surrogate, batch.x, batch.y, batch.z, InI.reading, weights)
        double_backward.pcgrad(losses, parameters, orders)

    def plain(net: nn.Module) -> Contender:
        weights = list(net.parameters())
        return lambda: total(list(task_loss(net, batch).values()), weights)

    contiguous = copy.deepcopy(victim).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return {"InI": ini, "double backward": reference, "plain": plain(victim), "contiguous": plain(contiguous)}


def protect(rounds: int) -> None:
    """An epoch of robust InI's training against an undefended net's, with all that both do between their steps."""
    seconds = interleaved({name: _epoch(name) for name in ("none", "ini-robust")}, rounds)
    print(f"{'lenet5, 12,800 of MNIST':36}  robust InI / none      {ratio(seconds, 'ini-robust', 'none')}")


def _epoch(preset: str) -> Contender:
    """MNIST and glyphs, not noise: what a net can learn keeps its activations as they are in a real training."""
    x, y = (part[:12_800] for part in data.task("mnist").train)
    defense, training = PRESETS[preset]
    model = defense.build(build("lenet5", x, 10, seed=0), x[:1000])
    outliers = data.images("glyphs")[:12_800] if defense.needs_outliers else None
    one = replace(training, epochs=1)
    return lambda: fit(model, x, y, one, seed=0, objective=losses_of, outliers=outliers, progress=False)


def inference(rounds: int) -> None:
    """Answers of a defended net against those of a plain one, as they are served."""
    for size, repeats in ((1, 400), (64, 60)):
        seconds = interleaved({name: _answers(name, size, repeats) for name in ("none", "ini")}, 3 * rounds)
        print(f"{f'lenet5, batch {size}':36}  defended / plain       {ratio(seconds, 'ini', 'none')}")


def _answers(preset: str, size: int, repeats: int) -> Contender:
    x = torch.rand(size, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    defense = PRESETS[preset].defense
    model = defense.build(build("lenet5", torch.rand(9, 1, 28, 28), 10, seed=0), torch.rand(2, 1, 28, 28))
    box = Accounts(model.heads(), model.guard, (1, 28, 28)).connect("benchmark")
    return lambda: [box(x) for _ in range(repeats)]


def startup(rounds: int) -> None:
    """Seconds until `stealguard --help` has answered, as a process of its own."""
    command = [sys.executable, "-m", "stealguard", "--help"]
    seconds = interleaved({"help": lambda: subprocess.run(command, capture_output=True, check=True)}, rounds)["help"]
    print(f"{'stealguard --help':36}  seconds                {statistics.median(seconds):6.2f}  "
          f"({min(seconds):.2f} - {max(seconds):.2f})")  # fmt: skip


BENCHES = {
    "step": step, "protect": protect, "inference": inference, "startup": startup, "jacobian": jacobian,
    "defenses": defenses, "report": report, "grid": grid,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benches", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    if unknown := set(given.benches) - set(BENCHES):
        parser.error(f"no such bench: {', '.join(unknown)}")
    torch.set_num_threads(given.threads)
    print(heading(given.rounds, given.threads))
    for name in given.benches or BENCHES:
        BENCHES[name](given.rounds)


if __name__ == "__main__":
    main()
