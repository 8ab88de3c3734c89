"""Audits of small victims: how long their answers take is measured once instead of seven times."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _one_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stealguard.auditing.utility.ROUNDS", 1)
