"""The server: it answers over HTTP with exactly what was audited."""

from __future__ import annotations
