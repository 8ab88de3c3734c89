"""Waiting for a condition: no test depends on how fast a machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

CAP = 600  # seconds after which a test fails rather than hangs


def until(true: Callable[[], T], process: subprocess.Popen[Any] | None = None) -> T:
    """What `true` gives as soon as that is true; `process` must not end before."""
    end = time.monotonic() + CAP
    while not (found := true()):
        assert process is None or process.poll() is None, "the process ended first"
        assert time.monotonic() < end, f"nothing happened in {CAP} seconds"
        time.sleep(0.01)
    return found
