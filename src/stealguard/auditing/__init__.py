"""Audits: a victim and the ways to steal it."""

from __future__ import annotations

from stealguard.auditing.run import audit
from stealguard.auditing.suites import SUITES
from stealguard.auditing.victim import Given, Victim

__all__ = ["SUITES", "Given", "Victim", "audit"]
