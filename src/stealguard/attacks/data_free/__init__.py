"""Attacks that make their own queries, and their shared parts: generators, and training in turns."""

from __future__ import annotations

from stealguard.attacks.data_free.alternating import Alternating
from stealguard.attacks.data_free.dfme import DFME
from stealguard.attacks.data_free.dfms import DFMSHL
from stealguard.attacks.data_free.disguide import DisGUIDE
from stealguard.attacks.data_free.maze import MAZE

__all__ = ["DFME", "DFMSHL", "MAZE", "Alternating", "DisGUIDE"]
