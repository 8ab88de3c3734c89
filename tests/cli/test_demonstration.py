"""The demonstration: a release that is there is taken, if it was trained as long as is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from samples import task
from stealguard.cli import demonstration
from stealguard.errors import Invalid


def test_a_release_of_other_epochs_is_not_taken_for_the_one_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = zip(("train_x", "train_y", "test_x", "test_y"), task(100, (1, 28, 28), 3), strict=True)
    np.savez(tmp_path / "task.npz", **{name: part.numpy() for name, part in data})
    monkeypatch.setattr(demonstration, "DATA", f"npz:{tmp_path / 'task.npz'}")
    made = demonstration._release(tmp_path / "a", defense="none", epochs=1)
    assert demonstration._release(tmp_path / "a", defense="none", epochs=1).identity == made.identity
    with pytest.raises(Invalid, match=r"`epochs` should be 1, as `.*` was trained .or name another `out`.. Found 2"):
        demonstration._release(tmp_path / "a", defense="none", epochs=2)
