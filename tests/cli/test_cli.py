"""The command line: words, exit statuses, one-line errors, JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import stealguard as sg
from samples import noise, task
from stealguard.attacks import ATTACKS
from stealguard.attacks.treatments import TREATMENTS
from stealguard.cli import main
from stealguard.cli.list import LISTINGS
from stealguard.defenses import DEFENSES
from stealguard.errors import StealguardError
from stealguard.releases.presets import PRESETS
from waiting import until


class Raising:
    """A function that raises."""

    def __init__(self, error: BaseException):
        self._error = error

    def __call__(self, *arguments: object) -> None:
        raise self._error


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
    (folder / "grid.yaml").write_text(f"data: npz:{folder}/task.npz\ndefenses: [none]\npools: own:20\n")
    np.savez(folder / "small.npz", x=noise(120, (1, 9, 9), seed=7).numpy())
    return folder


@pytest.mark.slow
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
    assert "`budget` should be at most 120, the inputs of the pool" in done.stderr

    done = stealguard("report", tmp_path / "a", "--out", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"`out` should be a file to write. Found the folder `{tmp_path}`." in done.stderr

    done = stealguard("report", tmp_path / "a", "--out", tmp_path / "page.html", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert "knockoff" in done.stdout
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_compare_writes_rows_and_a_page_and_tells_what_failed(stealguard: Run, sets: Path, tmp_path: Path) -> None:
    short = "{epochs: 1, batch: 32}"
    (tmp_path / "grid.yaml").write_text(
        f"data: npz:{sets}/task.npz\nnets: [lenet5, 'faulty:raising']\ndefenses: [none]\ntraining: {short}\n"
        f"attacks: [{{knockoff: {{budget: 100, training: {short}}}}}]\npools: npz:{sets}/pool.npz\nlabels: [hard]\n"
    )
    arguments = ["compare", tmp_path / "grid.yaml", "--out", tmp_path / "out", "--workers", 1, "--threads", 1, "--json"]
    done = stealguard(*arguments)
    assert done.returncode == 2, "the grid names code"
    assert "unless `--allow-code` (`allow_code=True`) is given. Found `faulty:raising`" in done.stderr
    assert not (tmp_path / "out").exists()
    done = stealguard(*arguments, "--allow-code")
    assert done.returncode == 1
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["ok", "failed"]
    assert "no victim: " in done.stderr
    assert "(RuntimeError: cannot be built)" in done.stderr
    assert "1 of 2 thefts failed; the same command tries them again" in done.stderr
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_audit_tells_what_failed(stealguard: Run, protect: Run, sets: Path, tmp_path: Path) -> None:
    assert protect(tmp_path / "a").returncode == 0
    done = stealguard(
        "audit", tmp_path / "a", "--attack", "own_methods:Failing", "--budget", 100, "--labels", "hard",
        "--pools", f"npz:{sets}/pool.npz", "--clone", "mlp", "--json",
    )  # fmt: skip
    assert done.returncode == 1
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["failed"]
    assert "failed: a on " in done.stderr
    assert "own_methods:Failing: RuntimeError: cannot steal" in done.stderr
    assert "1 of 1 thefts failed; the same command tries them again" in done.stderr


def test_audit_warns_of_a_victim_that_is_no_better_than_chance(stealguard: Run, tmp_path: Path) -> None:
    parts = zip(("train_x", "train_y", "test_x", "test_y"), task(200, (16,), 3), strict=True)
    np.savez(tmp_path / "task.npz", **{name: part.numpy() for name, part in parts})
    np.savez(tmp_path / "pool.npz", x=noise(40, (16,)).numpy())
    audited = [
        "--data", f"npz:{tmp_path}/task.npz", "--pools", f"npz:{tmp_path}/pool.npz", "--budget", 30, "--labels", "soft",
        "--store", tmp_path / "rows.sqlite",
    ]  # fmt: skip
    assert "chance" not in stealguard("audit", "samples:nearest", *audited).stderr
    said = stealguard("audit", "samples:rolled", *audited).stderr
    assert "warning: The answers are right on 0.0 % of 50 test inputs, which is no better than chance" in said


@pytest.mark.slow
def test_audit_with_accounts(stealguard: Run, sets: Path, tmp_path: Path) -> None:
    done = stealguard(
        "protect", "lenet5", f"npz:{sets}/task.npz", "--out", tmp_path / "a", "--defense", "prada", "--epochs", 1,
        "--train", "batch=32", "--threads", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    attack = (
        "--pools", f"npz:{sets}/pool.npz", "--budget", 110, "--labels", "hard", "--set", "training.epochs=1",
        "training.batch=32", "--clone", "mlp", "--json",
    )  # fmt: skip
    done = stealguard("audit", tmp_path / "a", "--accounts", 1, 2, *attack)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["accounts"] for line in done.stdout.splitlines()] == [1, 2]

    done = stealguard("audit", tmp_path / "a", "--accounts-to-reach", 1, *attack)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["accounts"] for line in done.stdout.splitlines()] == [1]
    assert "accounts 1, knockoff npz:" in done.stderr
    assert "accounts needed for 1 %: 1, the smallest number tried" in done.stderr

    done = stealguard("audit", tmp_path / "a", "--accounts-to-reach", 80, "--accounts", 1, *attack)
    assert done.returncode == 2
    assert "`accounts` should be left out where their number is searched for" in done.stderr
    done = stealguard("audit", tmp_path / "a", "--accounts-to-reach", 800, *attack)
    assert done.returncode == 2
    assert "`accounts-to-reach` should be in (0, 100], in percent. Found 800.0." in done.stderr

    for option in (("--attack", "knockoff"), ("--set", "training.epochs=1"), ("--own", 50)):
        done = stealguard("audit", tmp_path / "a", "--suite", "quick", "--pools", f"npz:{sets}/pool.npz", *option)
        assert done.returncode == 2
        assert f"`{option[0][2:]}` should be left out: the suite `quick` chooses" in done.stderr


@pytest.mark.slow
def test_guard_keeps_the_settings_that_are_not_named(stealguard: Run, sets: Path, tmp_path: Path) -> None:
    made = sg.protect(
        "mlp", f"npz:{sets}/task.npz", defense=sg.defenses.TopK(k=2, rest="spread"), epochs=1, out=tmp_path / "a",
        progress=False,
    )  # fmt: skip

    def guarded(out: str, defense: str, *settings: str) -> dict[str, object]:
        done = stealguard("guard", made.folder, defense, "--out", tmp_path / out, "--json", *settings)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["defense"]["settings"]  # type: ignore[no-any-return]

    assert guarded("b", "top-k", "--set", "k=1") == {"k": 1, "rest": "spread"}
    assert guarded("c", "rounding") == {"digits": 1}
    assert guarded("d", "none") == {}


@pytest.mark.slow
def test_guard_refuses_a_defense_with_another_training(stealguard: Run, protect: Run, tmp_path: Path) -> None:
    assert protect(tmp_path / "a").returncode == 0
    done = stealguard("guard", tmp_path / "a", "none", "--out", tmp_path / "b")
    assert done.returncode == 2
    assert "`defense` should be of the release's training" in done.stderr


@pytest.mark.slow
def test_protect_tells_the_folder_and_the_accuracy(protect: Run, tmp_path: Path) -> None:
    done = protect(tmp_path / "a")
    assert "% on validation; " in done.stdout


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
            ["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--epochs", "-1"],
            "`epochs` should be a whole number",
        ),
        (
            ["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--threads", "0"],
            "`threads` should be at least 1",
        ),
        (["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--train", "lr=fast"], "of the kind of 0.05"),
        (["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--set", "gamma=1", "gamma.x=1"], "setting once"),
        (["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--set", "gamma.x=1", "gamma=1"], "setting once"),
        (
            ["audit", "x", "--budget", "1", "--set", "budget=2"],
            "`budget` should be given once: by itself or with `--set`",
        ),
        (["audit", "nowhere", "--set", "budget=10", "budget=20"], "each setting once. Found `budget=20`"),
        (
            ["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--defense", "nowhere:D"],
            "importable",
        ),
        (
            ["protect", "lenet5", "npz:{sets}/task.npz", "--out", "x", "--defense", "own_methods:Lazy"],
            "a frozen",
        ),
        (["protect", "lenet5", "mnist", "--out", "x", "--partial"], "`partial` should be left out where there are no"),
        (
            ["protect", "lenet5", "mnist", "--out", "x", "--epochs", "1", "--train", "epochs=3"],
            "`epochs` should be given once: by itself or with `--train`. Found 1",
        ),
        (["report", "x", "--json", "--format", "csv"], "`format` should be left out with `--json`. Found `csv`"),
        (["report", "x", "--title", "Mine"], "`title` should be given with `--out`: it is the page's. Found `Mine`"),
        (["audit", "nowhere", "--attack", "nowhere:A"], "`attack` should be an importable `module:name`"),
        (["audit", "nowhere", "--attack", "own_methods:Unbudgeted"], "an attack with `budget`"),
        (["audit", "nowhere", "--set", "[/x]=1"], "Found `[/x]`"),
        (["list", "nots"], 'Invalid value "nots" for KIND'),
        (["protct"], 'Unknown command "protct". Did you mean "protect"?'),
        (["audit", "x", "--bugdet", "3"], "Unknown option: --bugdet. Did you mean --budget?"),
        (["audit", "x", "--budget", "many"], 'Invalid value for --budget: unable to convert "many" into int.'),
        (["audit", "x", "--budget", "20,000"], "into int. Write whole numbers like 20000 or 20_000."),
        (["keys", "add", "ann", "--budget", "20k"], "into int. Write whole numbers like 20000 or 20_000."),
        (["audit", "nowhere", "--budget", "20_000"], "Release `nowhere` should be a folder"),
        (["protect", "lenet5"], "--data requires an argument"),
        (["audit", "nowhere"], "Release `nowhere` should be a folder. Found none."),
        (
            ["audit", "nowhere", "--suite", "fast"],
            "`suite` should be one of quick, adaptive, standard, full. Found `fast`",
        ),
        (["protect", "lenet5", "mnits", "--size", "32", "--out", "x"], "Found `mnits` (did you mean `mnist`?)"),
        (["protect", "lenet5", "mnist", "--out", "x", "--epochs", "-1"], "0 to release trained weights as they are"),
        (["audit", "nowhere", "--set", "budget=0"], "`budget` should be at least 1. Found 0"),
        (["compare", "nowhere.yaml", "--out", "x"], "Grid `nowhere.yaml` cannot be read"),
        (["report", "nowhere"], "nowhere"),
        (["data", "get", "mnits"], "did you mean `mnist`"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    stealguard: Run, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = stealguard(*(a.format(sets=sets) for a in arguments))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_help_names_every_command(stealguard: Run) -> None:
    done = stealguard("--help")
    assert done.returncode == 0
    words = ("protect", "audit", "guard", "compare", "report", "list", "data", "demo")
    assert all(word in done.stdout for word in words)


def test_without_a_command_it_shows_the_first_steps(stealguard: Run) -> None:
    done = stealguard()
    assert done.returncode == 0
    commands = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("            stealguard ")]
    assert commands == ["protect", "audit", "report", "serve", "compare"]


@pytest.mark.parametrize("kind", LISTINGS)
def test_list_shows_every_name_with_one_line(stealguard: Run, kind: str) -> None:
    done = stealguard("list", kind, "--json")
    lines = json.loads(done.stdout)
    assert lines == LISTINGS[kind]()
    assert all(line and "\n" not in line for line in lines.values()), "each has a description"
    shown = stealguard("list", kind)
    assert (done.returncode, shown.returncode) == (0, 0)
    assert all(name in shown.stdout for name in lines)


def test_list_shows_what_commands_take(stealguard: Run) -> None:
    assert set(LISTINGS["attacks"]()) >= set(ATTACKS)
    assert set(LISTINGS["defenses"]()) >= set(DEFENSES)
    assert set(LISTINGS["presets"]()) == set(PRESETS)
    assert set(LISTINGS["treatments"]()) == set(TREATMENTS)


def test_list_says_what_counters_a_defense() -> None:
    lines = LISTINGS["defenses"]()
    assert lines["prada"].endswith("[countered by: accounts]")
    assert "countered by" not in lines["none"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(28, "No space left on device", "weights"), 2, "error: `weights`: No space left on device"),
        (PermissionError(13, "Permission denied", "x"), 2, "error: `x`: Permission denied"),
        (OSError("[/x] two\nlines"), 2, "error: [/x] two lines"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), 2, "error: 'utf-8' codec"),
        (StealguardError("a rule\nis broken"), 2, "error: a rule is broken"),
        (SystemExit("x"), 2, "error: The code of a module of your own ended the program: SystemExit('x')."),
        (SystemExit(), 2, "error: The code of a module of your own ended the program: SystemExit()."),
        (MemoryError(), 2, "error: There is not enough memory."),
        (
            RuntimeError(
                "[x] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"
            ),
            2,
            "error: There is not enough memory: you tried to allocate 9 bytes.",
        ),
        (KeyboardInterrupt(), 130, "interrupted; nothing that was finished is lost"),
        (KeyboardInterrupt("stopped after epoch 3"), 130, "stopped after epoch 3"),
    ],
)
def test_every_foreseen_error_is_one_line(
    stealguard: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    monkeypatch.setattr("stealguard.data.listing", Raising(error))
    done = stealguard("data", "list")
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_a_full_disk_behind_an_error_of_torch_is_one_line(stealguard: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("unexpected pos 64 vs 0")
    error.__cause__ = OSError(28, "No space left on device", "weights")
    monkeypatch.setattr("stealguard.data.listing", Raising(error))
    done = stealguard("data", "list")
    assert (done.returncode, done.stderr) == (2, "error: `weights`: No space left on device\n")


def test_an_error_of_the_program_itself_shows_where_and_asks_for_a_report(
    stealguard: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stealguard.data.listing", Raising(ZeroDivisionError("by zero")))
    done = stealguard("data", "list")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("This is an error of stealguard itself: please report it")


def test_paths_that_the_system_refuses_are_one_line(stealguard: Run, sets: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / ("n" * 300), tmp_path / "file" / "under"):
        commands: list[list[object]] = [
            ["protect", "lenet5", f"npz:{sets}/task.npz", "--defense", "none", "--out", out],
            ["compare", sets / "grid.yaml", "--out", out],
            *([command, out] for command in ("report", "audit", "compare")),
        ]
        for arguments in commands:
            done = stealguard(*arguments)
            assert done.returncode == 2, (arguments, done.stderr)
            assert len(done.stderr.splitlines()) == 1


def test_data_list_and_verify(stealguard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEALGUARD_DATA", str(tmp_path))
    states = json.loads(stealguard("data", "list", "--json").stdout)
    assert {state["name"]: state["state"] for state in states}["mnist"] == "absent"
    assert "mnist" in stealguard("data", "list").stdout
    (tmp_path / "mnist.safetensors").write_bytes(b"torn")
    done = stealguard("data", "verify")
    assert done.returncode == 2
    assert "mnist" in done.stderr


@pytest.mark.slow
def test_as_a_process_it_shows_help_and_ends_cleanly_when_interrupted(sets: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "stealguard"]
    assert b"protect" in subprocess.run([*command, "--help"], capture_output=True, check=True, env=environment).stdout
    long = ["protect", "lenet5", f"npz:{sets}/task.npz", "--defense", "none", "--epochs", "100000", "--out", "a"]
    process = subprocess.Popen(
        [*command, *long], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )  # fmt: skip
    until((tmp_path / "a.partial" / "checkpoint.pt").exists, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert re.fullmatch(
        r"stopped after epoch \d+ of 100000; the same command with `--resume` goes on", said.splitlines()[-1]
    )
    assert not (tmp_path / "a").exists()
