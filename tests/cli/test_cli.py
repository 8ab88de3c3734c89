"""The command line: words, exit statuses, one-line errors, JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from samples import noise, task
from stealguard.cli import main


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Ended]


@pytest.fixture
def stealguard(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, in this process."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["stealguard", *map(str, arguments)])
        code = 0
        try:
            main(sys.argv[1:])
        except SystemExit as e:
            code = int(e.code or 0)
        return Ended(code, *capfd.readouterr())

    return run


@pytest.fixture
def protect(stealguard: Run, sets: Path) -> Run:
    return lambda out, *more: stealguard(
        "protect", "lenet5", f"npz:{sets}/task.npz", "--outliers", f"npz:{sets}/outliers.npz", "--out", out,
        "--defense", "ini", "--epochs", 1, "--train", "batch=32", "--threads", 1, *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task, outliers and a pool as npz files."""
    folder = tmp_path_factory.mktemp("sets")
    names = ("train_x", "train_y", "test_x", "test_y")
    np.savez(folder / "task.npz", **{name: part.numpy() for name, part in zip(names, task(300), strict=True)})
    np.savez(folder / "outliers.npz", x=noise(90).numpy())
    np.savez(folder / "pool.npz", x=noise(120, seed=7).numpy())
    np.savez(folder / "small.npz", x=noise(120, (1, 9, 9), seed=7).numpy())
    return folder


def test_protect_audit_report(stealguard: Run, protect: Run, sets: Path, tmp_path: Path) -> None:
    done = protect(tmp_path / "a", "--set", "gamma=0.5", "reading=official", "--json")
    assert done.returncode == 0, done.stderr
    recipe = json.loads(done.stdout)
    assert recipe["defense"]["settings"]["gamma"] == 0.5
    assert recipe["defense"]["settings"]["reading"] == "official"
    assert recipe["training"]["batch"] == 32

    done = stealguard(
        "audit", tmp_path / "a", "--pools", f"npz:{sets}/pool.npz", "--budget", 100, "--labels", "hard",
        "--seeds", 0, 1, "--set", "training.epochs=1", "training.batch=32", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["seed"], row["labels"], row["queries"]) for row in rows] == [(0, "hard", 100), (1, "hard", 100)]

    done = stealguard("audit", tmp_path / "a", "--suite", "quick", "--pools", f"npz:{sets}/pool.npz")
    assert done.returncode == 2
    assert "`budget` should be at most the pool's size, 120" in done.stderr

    done = stealguard("report", tmp_path / "a", "--out", tmp_path / "page.html", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert "knockoff" in done.stdout
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_compare_writes_rows_and_page_and_tells_what_failed(stealguard: Run, sets: Path, tmp_path: Path) -> None:
    short = "{epochs: 1, batch: 32}"
    (tmp_path / "grid.yaml").write_text(
        f"data: npz:{sets}/task.npz\nnets: [lenet5, 'faulty:raising']\ndefenses: [none]\ntraining: {short}\n"
        f"attacks: [{{knockoff: {{budget: 100, training: {short}}}}}]\npools: npz:{sets}/pool.npz\nlabels: [hard]\n"
    )
    done = stealguard(
        "compare", tmp_path / "grid.yaml", "--out", tmp_path / "out", "--workers", 1, "--threads", 1, "--json"
    )
    assert done.returncode == 1
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["ok", "failed"]
    assert "no victim: RuntimeError: cannot be built" in done.stderr
    assert "1 of 2 thefts failed; the same command tries them again" in done.stderr
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")


def test_guard_refuses_what_would_have_been_trained_otherwise(stealguard: Run, protect: Run, tmp_path: Path) -> None:
    assert protect(tmp_path / "a").returncode == 0
    done = stealguard("guard", tmp_path / "a", "none", "--out", tmp_path / "b")
    assert done.returncode == 2
    assert "`defense` should be of the release's training" in done.stderr


def test_protect_says_where_and_how_well(protect: Run, tmp_path: Path) -> None:
    done = protect(tmp_path / "a")
    assert "on the validation split" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["protect", "lenet", "mnist", "--out", "x"], "did you mean `lenet5`"),
        (
            ["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--outliers", "npz:{sets}/small.npz"],
            "resized with `resize`",
        ),
        (["protect", "lenet5", "npz:nowhere.npz", "--out", "x"], "nowhere.npz"),
        (
            ["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--set", "strictnes=1"],
            "did you mean `strictness`",
        ),
        (
            ["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--set", "gamma"],
            "`set` should be KEY=VALUE. Found `gamma`",
        ),
        (["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--set", "gamma=["], "with a plain value"),
        (
            ["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--epochs", "0"],
            "`epochs` should be a whole number",
        ),
        (
            ["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--threads", "0"],
            "`threads` should be at least 1",
        ),
        (["audit", "nowhere"], "should hold `recipe.json`"),
        (["audit", "nowhere", "--set", "budget=0"], "`budget` should be at least 1. Found 0"),
        (["compare", "nowhere.yaml", "--out", "x"], "Grid `nowhere.yaml` cannot be read"),
        (["report", "nowhere"], "nowhere"),
        (["data", "get", "mnits"], "did you mean `mnist`"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    stealguard: Run, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = stealguard(*(a.format(sets=sets) for a in arguments))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing half-written"


@pytest.mark.parametrize("arguments", [["protct"], ["audit", "x", "--bugdet", "3"], ["audit", "x", "--budget", "many"]])
def test_what_the_parser_refuses_is_status_2_too(stealguard: Run, arguments: list[str]) -> None:
    assert stealguard(*arguments).returncode == 2


def test_help_names_every_command(stealguard: Run) -> None:
    done = stealguard("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("protect", "audit", "compare", "report", "data", "demo"))


def test_data_list_and_verify(stealguard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEALGUARD_DATA", str(tmp_path))
    states = json.loads(stealguard("data", "list", "--json").stdout)
    assert {state["name"]: state["state"] for state in states}["mnist"] == "absent"
    assert "mnist" in stealguard("data", "list").stdout
    (tmp_path / "mnist.safetensors").write_bytes(b"torn")
    done = stealguard("data", "verify")
    assert done.returncode == 2
    assert "mnist" in done.stderr


def test_as_a_process_it_is_quick_to_help_and_ends_cleanly_when_interrupted(sets: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "stealguard"]
    assert b"protect" in subprocess.run([*command, "--help"], capture_output=True, check=True, env=environment).stdout
    long = ["protect", "lenet5", f"npz:{sets}/task.npz", "--defense", "none", "--epochs", "100000", "--out", "a"]
    process = subprocess.Popen(
        [*command, *long], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )  # fmt: skip
    while not (tmp_path / "a.partial" / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted; nothing that was finished is lost"
    assert not (tmp_path / "a").exists()
