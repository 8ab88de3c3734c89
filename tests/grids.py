"""A tiny grid on made-up images."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from samples import noise, task


def write_sets(folder: Path, shape: tuple[int, ...] = (1, 28, 28)) -> Path:
    """A task, outliers and a pool as npz files, of inputs of that shape."""
    names = ("train_x", "train_y", "test_x", "test_y")
    np.savez(folder / "task.npz", **{name: part.numpy() for name, part in zip(names, task(200, shape), strict=True)})
    np.savez(folder / "outliers.npz", x=noise(90, shape).numpy())
    np.savez(folder / "pool.npz", x=noise(120, shape, seed=7).numpy())
    return folder


def tiny(sets: Path, **changes: Any) -> dict[str, Any]:
    """Undefended and InI, two seeds, one attack in two label modes: four victims and eight rows."""
    short = {"epochs": 1, "batch": 32}
    return {
        "data": f"npz:{sets}/task.npz", "outliers": f"npz:{sets}/outliers.npz", "defenses": ["none", "ini"],
        "training": short, "attacks": [{"knockoff": {"budget": 100, "training": short}}],
        "pools": f"npz:{sets}/pool.npz", "seeds": [0, 1],
    } | changes  # fmt: skip


def environment() -> dict[str, str]:
    """For processes of a test: this one's import path, and its one thread."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
