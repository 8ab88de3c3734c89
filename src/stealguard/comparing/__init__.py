"""Grids: many victims and many attacks, in processes that resume."""

from __future__ import annotations

from stealguard.comparing.run import compare

__all__ = ["compare"]
