"""Whether robust InI holds on tables and signals: clones from in-family and from unseen queries, and benign accuracy.

    python -m benchmarks.tables --out docs/results/tables.jsonl
    python -m benchmarks.tables --data wine --seeds 1
    python -m benchmarks.tables --table docs/results/tables.jsonl

Tables are scikit-learn's. `control-charts` are signals that are drawn by their formula (Alcock and Manolopoulos, 1999);
`power-demand` and `vowels` are signals that the package aeon ships, and are left out where it is not installed. The
victims are `mlp` nets, undefended and under `ini-robust` with the outliers that `protect` chooses. The attacker is
KnockoffNets with every set that can be made for the shape, soft and hard, from one account; with unseen sets also from
a hundred accounts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.lines import add, markdown
from torch import Tensor

import stealguard as sg
from stealguard import data
from stealguard.attacks import Knockoff
from stealguard.data import SETS
from stealguard.releases.presets import PRESETS
from stealguard.report.naming import number
from stealguard.report.statistics import Spread
from stealguard.results import Row, read
from stealguard.seeds import derive

STEPS, BATCH = 1000, 32  # of each training of a victim
BUDGET, ACCOUNTS = 3000, 100

Pair = tuple[Tensor, Tensor]


def from_sklearn(name: str) -> Pair:
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    return torch.from_numpy(found.data).float(), torch.from_numpy(found.target).long()


def control_charts(n: int = 3000, length: int = 60) -> Pair:
    """Six kinds of charts (n, 1, length): normal, cyclic, rising, falling, and shifted up or down."""
    rng = np.random.default_rng(derive(0, "control charts"))
    y, t = rng.integers(6, size=n), np.arange(length)
    slope, size, period = rng.uniform(0.2, 0.5, (n, 1)), rng.uniform(7.5, 20, (n, 1)), rng.uniform(10, 15, (n, 2))
    shift = size * (t >= rng.integers(length // 3, 2 * length // 3, (n, 1)))
    trends = [0 * shift, period[:, :1] * np.sin(2 * np.pi * t / period[:, 1:]), slope * t, -slope * t, shift, -shift]
    x = 30 + rng.uniform(-3, 3, (n, length)) * 2 + np.choose(y[:, None], trends)
    return torch.from_numpy(x).float()[:, None], torch.from_numpy(y)


def from_aeon(folder: str, name: str) -> Pair:
    """The package's training and test signals together, by its files in the format .ts."""
    spec = find_spec("aeon")
    assert spec is not None
    home = Path(str((spec.submodule_search_locations or [""])[0])) / "datasets" / "data" / folder
    lines = [line for part in ("TRAIN", "TEST") for line in (home / f"{name}_{part}.ts").read_text().splitlines()]
    rows = [line.split(":") for line in lines if line and line[0] not in "@#"]
    x = torch.tensor([[[float(value) for value in channel.split(",")] for channel in row[:-1]] for row in rows])
    words = sorted({row[-1].strip() for row in rows})
    return x, torch.tensor([words.index(row[-1].strip()) for row in rows])


SOURCES: dict[str, Callable[[], Pair]] = {
    "breast-cancer": lambda: from_sklearn("breast_cancer"),
    "wine": lambda: from_sklearn("wine"),
    "digits-8x8": lambda: from_sklearn("digits"),
    "iris": lambda: from_sklearn("iris"),
    "control-charts": control_charts,
    "power-demand": lambda: from_aeon("ItalyPowerDemand", "ItalyPowerDemand"),
    "vowels": lambda: from_aeon("JapaneseVowels", "JapaneseVowels_eq"),
}
AEON = {"power-demand", "vowels"}


def measured(name: str, seed: int, outliers: list[str] | None, folder: Path) -> list[dict[str, Any]]:
    """The rows of all thefts from two victims: undefended, and under robust InI."""
    task = data.task(SOURCES[name](), seed=0)._replace(name=name)
    shape = tuple(task.train.x.shape[1:])
    pools = [pool for pool, spec in SETS.items() if not spec.shape and spec.fits(shape)]
    epochs = max(1, round(STEPS / max(1, len(task.train.x) * 9 // 10 // BATCH)))
    rows = []
    for defense in "none", "ini-robust":
        training = replace(PRESETS[defense].training, epochs=epochs, batch=BATCH)
        release = sg.protect(
            "mlp", task, out=folder / f"{name}-{defense}-{seed}", defense=defense, training=training, seed=seed,
            outliers=outliers if defense != "none" else None, progress=False,
        )  # fmt: skip
        known = [one["name"] for one in release.recipe["outliers"]]
        unseen = [pool for pool in pools if pool not in known]
        for asked, accounts in (pools, 1), (unseen if known else [], ACCOUNTS):
            rows += [] if not asked else sg.audit(
                release, Knockoff(budget=BUDGET), pools=asked, labels=["soft", "hard"], accounts=accounts,
                seeds=[seed], data=task, progress=False,
            )  # fmt: skip
    return [row.record() for row in rows]


def table(rows: Sequence[Row]) -> str:
    """A line for each data and defense in Markdown, in %, means over the victims with half a 95 % t-interval.

    Benign accuracy; what twenty labeled samples give alone; by pool the better clone of soft and hard labels; and that
    from `noise` with its classes renamed by the twenty samples.
    """
    pools = list(dict.fromkeys((row.pool, row.accounts) for row in sorted(rows, key=lambda row: row.accounts)))
    heads = [f"{pool}, {accounts} accounts" if accounts > 1 else pool for pool, accounts in pools]
    lines = [["data", "defense", "benign", "20 samples", *heads, "noise, renamed"]]
    lines.append(["---", "---", *["--:"] * (len(heads) + 3)])
    for name, defense in dict.fromkeys((row.victim.data, row.victim.defense) for row in rows):
        mine = [row for row in rows if (row.victim.data, row.victim.defense) == (name, defense)]
        by_pool = {pool: [row for row in mine if (row.pool, row.accounts) == pool] for pool in pools}
        cells = [
            _cell([(row.seed, row.victim.metrics["benign_accuracy"]) for row in mine]),
            _cell([(row.seed, row.metrics["no_theft_20"]) for row in mine]),
            *(_cell([(row.seed, row.metrics["clone_accuracy"]) for row in by_pool[pool]]) for pool in pools),
            _cell([(row.seed, row.metrics["renamed_accuracy_20"]) for row in by_pool["noise", 1]]),
        ]
        lines.append([name, defense, *cells])
    return markdown(lines)


def _cell(found: Sequence[tuple[int, float]]) -> str:
    """The mean and the interval of the best value of each seed."""
    best: dict[int, float] = {}
    for seed, value in found:
        best[seed] = max(best.get(seed, 0), value)
    return number(Spread.of(list(best.values()))) if best else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=list(SOURCES), choices=SOURCES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--outliers", nargs="*", help="those that `protect` chooses if none are named")
    parser.add_argument("--out", type=Path, help="the file that lines are added to; printed if left out")
    parser.add_argument("--table", type=Path, help="print the table of a file of rows, and measure nothing")
    given = parser.parse_args()
    if given.table:
        print(table(read(given.table)))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in given.data:
            if name in AEON and find_spec("aeon") is None:
                print(f"{name} is left out: the package aeon is not installed", file=sys.stderr)
                continue
            for seed in range(given.seeds):
                add(measured(name, seed, given.outliers, Path(folder)), given.out)


if __name__ == "__main__":
    main()
