"""Importing this lets the nodes of a Ray cluster take as long to start as they need: Ray gives them thirty seconds.

A node whose raylet ends while it starts, as happens on busy machines, is an error at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from ray._private import services

from waiting import until

_asked = services.get_node


def _patient(*where: str) -> object:
    def known() -> object:
        try:
            return _asked(*where)
        except RuntimeError:
            if _raylet_ended():
                raise
            return None

    return until(known)


def _raylet_ended() -> bool:
    """Whether a raylet that this process started has ended."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = path.read_text().rpartition(") ")
        except OSError:
            continue
        state, parent = after.split()[:2]
        if before.endswith("(raylet") and state == "Z" and int(parent) == os.getpid():
            return True
    return False


services.get_node = _patient
