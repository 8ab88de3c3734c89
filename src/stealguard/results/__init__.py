"""Rows, and where they are kept. Importing this loads no torch."""

from __future__ import annotations

from stealguard.results.row import Row, Store, key_of, read

__all__ = ["Row", "Store", "key_of", "read"]
