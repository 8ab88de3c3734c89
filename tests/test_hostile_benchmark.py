"""The benchmark of hostile requests ends at once where it could not tell right answers from wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import hostile

from exported import written
from stealguard.defenses import RobustInI
from stealguard.defenses.base import Defense


class Started(Exception):
    """Raised in place of a server's start."""


@pytest.mark.parametrize(("defense", "ends"), [(RobustInI(), True), (RobustInI(memory=False), False), (None, False)])
def test_a_release_that_remembers_accounts_starts_no_server(
    defense: Defense | None, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def server(*arguments: object) -> None:
        raise Started

    release = written(tmp_path / "r", defense)
    monkeypatch.setattr(hostile, "server", server)
    monkeypatch.setattr(hostile.sg, "load", lambda folder: release)
    monkeypatch.setattr("sys.argv", ["hostile", str(release.folder)])
    with pytest.raises(SystemExit if ends else Started) as found:
        hostile.main()
    if ends:
        assert str(found.value).startswith(f"`{release.folder}` remembers what was asked")
        assert "\n" not in str(found.value)
