"""Releases: how they are made, written and read."""

from __future__ import annotations

from stealguard.releases.presets import PRESETS, Preset
from stealguard.releases.protection import guarded, protect
from stealguard.releases.release import Release, load

__all__ = ["PRESETS", "Preset", "Release", "guarded", "load", "protect"]
