"""Rows, and where they are kept. Importing this loads no torch."""

from __future__ import annotations

from stealguard.results.metrics import METRICS, Metric
from stealguard.results.row import LABELS, UNDEFENDED, Row, VictimFacts, key_of, to_records
from stealguard.results.rows import Rows
from stealguard.results.store import STORE, Store, read

__all__ = [
    "LABELS",
    "METRICS",
    "STORE",
    "UNDEFENDED",
    "Metric",
    "Row",
    "Rows",
    "Store",
    "VictimFacts",
    "key_of",
    "read",
    "to_records",
]
