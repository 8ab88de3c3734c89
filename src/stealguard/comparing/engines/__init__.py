"""Engines that carry out work elsewhere: a local process pool, a Ray cluster, Slurm. One function for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stealguard.comparing.engines.base import Ended, Engine, Wanted, Work
from stealguard.comparing.engines.local import Local
from stealguard.comparing.engines.ray import Ray
from stealguard.comparing.engines.slurm import Slurm

__all__ = ["ENGINES", "Ended", "Engine", "Local", "Ray", "Slurm", "Wanted", "Work"]

ENGINES: dict[str, Callable[[Work, Path, Wanted], Engine]] = {"local": Local, "ray": Ray, "slurm": Slurm}
