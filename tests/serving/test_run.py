"""From settings to services: what is refused before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from exported import written
from samples import mlp
from stealguard.defenses import DEFENSES
from stealguard.errors import StealguardError
from stealguard.serving.config import Config, ServedRelease
from stealguard.serving.run import services_of


@pytest.mark.parametrize("defense", ["top-k", "hoda", "ini-robust"])
def test_a_net_is_not_served_beside_itself_under_another_defense(tmp_path: Path, defense: str) -> None:
    """Even where the defense adds weights of its own, so that the files differ."""
    for name in ("none", defense):
        written(tmp_path / name, DEFENSES[name]())
    config = Config(releases=tuple(ServedRelease(str(tmp_path / name)) for name in ("none", defense)))
    with pytest.raises(StealguardError, match=rf"`none` version 1 and `{defense}` version 1 have the same weights"):
        services_of(config, None, net=mlp())
