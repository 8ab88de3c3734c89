"""The benchmark for a GPU runs whole on a processor, and says so where it is not run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from grids import environment


def told(*options: str) -> list[dict[str, object]]:
    run = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", *options]
    done = subprocess.run(run, env=environment(), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.long
@pytest.mark.thorough
def test_a_tiny_run_gives_every_row() -> None:
    rows = told("--tiny")
    assert [row["what"] for row in rows] == ["step"] * 4 + ["protect", "audit"]
    assert {(row["precision"], row["way"]) for row in rows[:4]} == {
        (precision, way) for precision in ("float32", "bf16") for way in ("written", "compiled")
    }
    assert all("note" not in row and row["tiny"] for row in rows)
    assert rows[-1]["thefts"] == 2, "soft and hard labels"
    assert rows[-1]["failed"] == 0


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which it would run for minutes")
def test_without_a_gpu_every_row_says_not_run() -> None:
    rows = told()
    assert [row["what"] for row in rows] == ["step", "protect", "audit"]
    assert all("not run here" in str(row["note"]) for row in rows)
