"""Sets that this program makes."""

from __future__ import annotations
