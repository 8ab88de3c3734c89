"""A light grid on MNIST: how much of the workers' time goes into the cells, and how much around them."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from stealguard.comparing.run import compare
from stealguard.releases.release import RECIPE
from stealguard.results import Row

WORKERS = 2
GRID: dict[str, Any] = {  # 4 victims and 36 blocks of thefts: 40 cells
    "data": "mnist",
    "outliers": "cifar10-gray",
    "epochs": 1,
    "defenses": ["none", {"ini": {"name": "isolation", "gamma": 0, "epsilon": 0}}],
    "attacks": [{"knockoff": {"budget": [200, 500, 1000]}}, {"copycat": {"budget": [200, 500, 1000]}},
                {"knockoff-adaptive": {"budget": [200, 500, 1000]}}],
    "pools": "letters",
    "seeds": [0, 1],
}  # fmt: skip


def grid(rounds: int) -> None:
    """What the workers' time goes into; once, whatever the rounds, for it takes minutes."""
    with tempfile.TemporaryDirectory() as folder:
        out, started = Path(folder), time.perf_counter()
        rows = compare(GRID, out, workers=WORKERS, threads=1, progress=False)
        offered = WORKERS * (time.perf_counter() - started)
        cells = [note for note in _attempts(out) if note["event"] == "ends"]
        within = sum(note["seconds"] for note in cells)
        print(f"{f'mnist, {len(cells)} cells, {len(rows)} rows':36}  {WORKERS} workers offered     {offered:6.0f} s")
        print(f"{'':36}  outside of cells       {100 * (1 - within / offered):6.1f} %")
        print(f"{'':36}  neither train nor rob  {100 * (1 - _measured(out, rows) / offered):6.1f} %")


def _attempts(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "attempts.jsonl").read_text().splitlines()]


def _measured(out: Path, rows: list[Row]) -> float:
    """Seconds of all trainings and thefts, as releases and rows tell them: no reading of data, no hashing."""
    recipes = (json.loads(path.read_text()) for path in out.glob(f"releases/*/*/{RECIPE}"))
    return sum(recipe["seconds"] for recipe in recipes) + sum(row.seconds for row in rows)
