"""An export that is made once for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exported import written
from stealguard.releases.export import Exported, export, read_report

Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def plain(once: Once) -> Exported:
    """An exported release without a defense, whose inputs have units of their own; tests that write copy its folder."""
    scaling = {"low": [-2.0], "high": [3.0]}

    def make(folder: Path) -> None:
        export(written(folder, scaling=scaling, names=["a", "b", "c"]), rows=50)

    folder = once("exported-plain", make)
    release = written(folder.with_name("exported-plain-copy"), scaling=scaling, names=["a", "b", "c"])
    record = read_report(folder)["onnx"]
    assert record["identity"] == release.identity
    return Exported(folder, "onnx", release.identity, record["heads"], record["model"], record["opset"], {})
