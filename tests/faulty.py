"""Nets of a user's own that can go wrong: `faulty:deadly` and `faulty:raising`."""

from __future__ import annotations

import os
import signal

from torch import nn


def sound() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 10))


def deadly() -> nn.Module:
    """The process is killed here, as one that runs out of memory is."""
    os.kill(os.getpid(), signal.SIGKILL)
    return sound()


def raising() -> nn.Module:
    if "MENDED" in os.environ:
        return sound()
    raise RuntimeError("cannot be built")
