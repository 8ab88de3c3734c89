"""How victims and clones train."""

from __future__ import annotations

from stealguard.training.loop import SCHEDULES, Training, fit

__all__ = ["SCHEDULES", "Training", "fit"]
