"""The versions and the hardware that a result was computed with. Importing this loads no torch."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import TypedDict

from stealguard import __version__


class Provenance(TypedDict):
    """Versions, hardware, number of processor threads, and where and how exactly the numbers were computed."""

    version: str  # of stealguard
    torch: str
    python: str
    hardware: str
    threads: int
    device: str  # "cpu", "cuda:0", ...; "" where it is not known
    precision: str  # "float32", "bf16", ...; "" where it is not known


def provenance(device: str = "", precision: str = "") -> Provenance:
    """What this process computes with; `device` and `precision` as the caller knows them."""
    import torch

    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "hardware": processor() if device == "cpu" else hardware(),
        "threads": torch.get_num_threads(),
        "device": device,
        "precision": precision,
    }


@cache
def hardware() -> str:
    """The GPU's name where there is a GPU, else the processor's."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


@cache
def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
