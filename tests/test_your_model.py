"""What docs/your-model.md shows runs: on a small folder, at a small size, for one epoch."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import stealguard as sg
from stealguard.cli import main

PAGE = (Path(__file__).parent.parent / "docs/your-model.md").read_text()
COMMANDS = [
    line.removeprefix("stealguard ")
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]
SMALL = {  # what makes each command a short one
    "protect": "--epochs 1 --train batch=8 lr=1e-9 --threads 1",
    "audit": "--labels hard --set training.epochs=1 training.batch=16 --threads 1",
}


def photographs(path: Path, names: str, n: int, levels: bool) -> None:
    """Class folders of pictures of mixed sizes; a class has one brightness, if `levels`."""
    rng = np.random.default_rng(len(names))
    for number, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for i in range(n):
            size = rng.integers(24, 60, 2)
            pixels = rng.integers(0, 90, (*size, 3)) + (80 * number if levels else rng.integers(0, 160))
            Image.fromarray(pixels.astype(np.uint8)).save(path / name / f"{i}.jpg")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with all that the page begins with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (code,) = re.findall(r"```python\n(# my_model.py.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "my_model.py").write_text(code)
    for name, classes, n, levels in (
        ("photos", "abc", 14, True),
        ("other", "xy", 15, False),
        ("pool", "uv", 20, False),
    ):
        photographs(tmp_path / name, classes, n, levels)
    space: dict[str, object] = {}
    exec(code, space)
    torch.save(space["net"]().state_dict(), tmp_path / "w.pt")
    rng = np.random.default_rng(0)
    rows = [
        f"{rng.integers(18, 80)},{rng.choice(['cook', 'nurse', 'pilot'])},{'high' if i % 2 else 'low'}"
        for i in range(60)
    ]
    (tmp_path / "people.csv").write_text("\n".join(["age,job,income", *rows]))
    return tmp_path


def run(command: str) -> None:
    """A command of the page, at 32 pixels and with few queries."""
    small = re.sub(r"--budget [\d ]+", "--budget 20 ", command).replace("--size 224", "--size 32")
    shorter = "--threads 1" if "--epochs 0" in command else SMALL.get(command.split()[0], "")
    main(shlex.split(f"{small} {shorter}"))


@pytest.mark.long
@pytest.mark.slow
def test_four_commands_lead_from_a_folder_to_a_report_and_an_export(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protect, audit, report, export, as_is, alone, table = COMMANDS
    run(protect)
    told = capsys.readouterr()
    assert re.search(r"runs/mine: \d+\.\d % on validation \(start \d", told.out)
    assert "honest inputs were answered as outliers" in told.out
    assert "are brought to 32 x 32" in told.err
    run(audit)
    run(report)
    page = (place / "report.html").read_text()
    assert "What honest users get" in page
    run(as_is)
    assert "nothing was trained" in capsys.readouterr().out
    run(alone)
    run(table)
    release = sg.load(place / "runs/table")
    assert release.reading.names == ("age", "job=cook", "job=nurse", "job=pilot")
    if find_spec("onnx") and find_spec("onnxscript"):
        run(export)
        assert list((place / "runs/mine").rglob("*.onnx"))


def test_the_release_begins_with_the_weights_in_the_file(place: Path) -> None:
    run(COMMANDS[0])
    release = sg.load(place / "runs/mine", net="my_model:net")
    given = torch.load(place / "w.pt", weights_only=True)
    assert release.shape == (3, 32, 32)
    torch.testing.assert_close(release.model.net.body[0].weight, given["0.weight"], atol=1e-5, rtol=0)


def test_the_python_examples_are_sound() -> None:
    """They parse, and every name and keyword of stealguard in them exists."""
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("sg."):
                function = eval(ast.unparse(node.func), {"sg": sg})
                inspect.signature(function).bind(*node.args, **{k.arg: k.value for k in node.keywords if k.arg})
