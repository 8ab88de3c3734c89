"""Audits: a victim and the ways to steal it."""

from __future__ import annotations

from stealguard.auditing.run import audit

__all__ = ["audit"]
