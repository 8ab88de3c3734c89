"""Audits: a victim and the ways to steal it."""

from __future__ import annotations

from stealguard.auditing.accounts import accounts_to_reach
from stealguard.auditing.remote import Remote
from stealguard.auditing.run import audit
from stealguard.auditing.suites import SUITES
from stealguard.auditing.victim import Given, Victim

__all__ = ["SUITES", "Given", "Remote", "Victim", "accounts_to_reach", "audit"]
