"""What a result was made with."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import TypedDict

import torch

from stealguard import __version__


class Provenance(TypedDict):
    """Versions, hardware and threads, flat."""

    version: str
    torch: str
    python: str
    hardware: str
    threads: int


def provenance() -> Provenance:
    """What this process computes with."""
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
    }


@cache
def hardware() -> str:
    """The GPU's name if there is one, else the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
