"""The example that needs neither stealguard nor torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from exported import written
from samples import noise
from stealguard.releases.export import export

EXAMPLE = Path(__file__).parent.parent / "examples" / "onnx_only.py"
ALONE = """
import os, runpy, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("stealguard", "torch"):
            raise ImportError(f"`{name}` was imported")
        if name == "onnxruntime" and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
            raise ImportError("ONNX Runtime would report to its makers")
sys.meta_path.insert(0, Forbidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_release_is_asked_without_stealguard_and_torch(tmp_path: Path) -> None:
    release = written(tmp_path / "r", scaling={"low": [0.0], "high": [255.0]}, names=["cat", "dog", "owl"], sharpness=9)
    export(release, rows=20)
    x = 255 * noise(6, (16,))
    np.save(tmp_path / "x.npy", x.numpy())
    command = [sys.executable, "-c", ALONE, str(EXAMPLE), str(tmp_path / "r" / "model.onnx"), str(tmp_path / "x.npy")]
    alone = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=alone).stdout.splitlines()
    assert found[0] == f"release {release.identity[:12]}; inputs within {{'low': [0.0], 'high': [255.0]}}"
    answers = release.box(x)
    for line, row in zip(found[1:], answers, strict=True):
        name, probability = line.split()
        assert name == ["cat", "dog", "owl"][int(row.argmax())]
        assert abs(float(probability) - row.max().item()) < 1e-4


def test_the_example_has_at_most_twenty_lines_of_code() -> None:
    code = EXAMPLE.read_text().rpartition('"""')[2].splitlines()
    assert len([line for line in code if line.strip()]) <= 20


def test_the_example_fails_where_it_would_import_torch(tmp_path: Path) -> None:
    (tmp_path / "it.py").write_text("import torch")
    found = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path / "it.py")], capture_output=True, text=True)
    assert found.returncode != 0
    assert "`torch` was imported" in found.stderr
