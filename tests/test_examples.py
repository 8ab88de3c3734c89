"""Every script in `examples` runs on its own and prints what it should."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PERCENT = r"(\d+\.\d) %"


Outputs = Callable[[str], str]


def printed_as_a_script(name: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def output_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Outputs:
    """What the example prints when it is run in `tmp_path`, in this process: another would load torch again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(name: str) -> str:
        monkeypatch.delitem(sys.modules, name, raising=False)  # another test's module of that name
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_has_a_test() -> None:
    tested = set(re.findall(r'(?:output_of|as_a_script)\("(\w+)"', Path(__file__).read_text()))
    elsewhere = {"onnx_only"}  # needs no stealguard: tests/test_onnx_only.py
    assert tested | elsewhere == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.long
@pytest.mark.slow
def test_an_own_net_is_protected_and_read_again(tmp_path: Path) -> None:
    found = re.search(rf"benign accuracy: {PERCENT} \(chance: 33.3 %\)", printed_as_a_script("own_net", tmp_path))
    assert found
    assert float(found[1]) > 60
    assert (tmp_path / "runs/own-net/weights.safetensors").exists()


@pytest.mark.slow
def test_own_data_are_read_from_a_folder_and_from_arrays(output_of: Outputs) -> None:
    printed = output_of("own_data")
    assert "folder: 2 classes" in printed
    assert "the classes of a dark and of a light picture are [0, 1]" in printed


@pytest.mark.slow
def test_an_own_attack_is_taken_as_an_object_and_by_name(output_of: Outputs) -> None:
    found = re.findall(rf"Blends: (\d+) queries, clone accuracy {PERCENT}", output_of("own_attack"))
    assert [queries for queries, _ in found] == ["2000", "1000"]
    assert all(float(accuracy) > 60 for _, accuracy in found)


@pytest.mark.slow
def test_own_defenses_change_answers_and_training(output_of: Outputs) -> None:
    line = r"(\S+): mean top probability (\d\.\d\d) on the task, (\d\.\d\d) on outliers"
    found = {name: (float(task), float(others)) for name, task, others in re.findall(line, output_of("own_defense"))}
    undefended, tempered, exposed = found["none"], found["own_defense:Tempered"], found["own_defense:Exposure"]
    assert tempered[0] < undefended[0] - 0.1
    assert exposed[1] < undefended[1] - 0.1


@pytest.mark.long
@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch warns of what its own exporter does
def test_own_black_boxes_are_audited_and_each_gets_a_report(tmp_path: Path, output_of: Outputs) -> None:
    printed = output_of("own_black_box")
    found = {name: (float(benign), float(clone)) for name, benign, clone in re.findall(
        rf"(\w+): benign accuracy {PERCENT}, best clone {PERCENT}", printed
    )}  # fmt: skip
    file = {"file"} if find_spec("onnxruntime") and find_spec("onnxscript") else set()
    assert set(found) == {"function", "forest", "net"} | file
    for name, (benign, clone) in found.items():
        assert benign > 80, name
        assert clone > 60, name  # undefended models: an attacker with 2,000 queries gets most of each
        assert "<html" in (tmp_path / f"{name}.html").read_text()
