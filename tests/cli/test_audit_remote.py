"""`stealguard audit URL`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import stealguard as sg
from endpoint import SHAPE, Model, expected
from samples import noise
from stealguard.auditing.brought import brought
from stealguard.cli import main

Run = Callable[..., "tuple[int, str, str]"]


@pytest.fixture
def audit(
    endpoint: tuple[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command in an empty folder; its status, stdout and stderr."""
    x, test_x = noise(200, SHAPE, seed=1), noise(60, SHAPE, seed=2)
    parts = {"train_x": x, "train_y": expected(x).argmax(1), "test_x": test_x, "test_y": expected(test_x).argmax(1)}
    np.savez(tmp_path / "task.npz", **{name: part.numpy() for name, part in parts.items()})
    np.savez(tmp_path / "pool.npz", x=noise(150, SHAPE, seed=3).numpy())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEALGUARD_KEY", raising=False)

    def run(*arguments: object, url: str = f"{endpoint[0]}/v2/models/m") -> tuple[int, str, str]:
        given = [
            "audit", url, "--data", "npz:task.npz", "--pools", "npz:pool.npz", "--budget", 100, "--labels", "hard",
            "--set", "training.epochs=2", "training.batch=32", *arguments,
        ]  # fmt: skip
        try:
            main([str(argument) for argument in given])
            code = 0
        except SystemExit as e:
            code = int(e.code or 0)
        return (code, *capsys.readouterr())

    return run


@pytest.mark.slow
def test_a_url_is_audited_and_reported(audit: Run, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = audit("--i-own-this", "--json")
    assert code == 0, err
    (row,) = map(json.loads, out.splitlines())
    assert (row["status"], row["queries"], row["victim"]["net"]) == ("ok", 100, "over HTTP")
    assert "queries: 60 test inputs, and at most 100 of 1 theft" in err
    main(["report", "runs/audit-m/audit.sqlite", "--out", "page.html"])
    assert "over HTTP" in Path("page.html").read_text(encoding="utf-8")


def test_where_rows_are_and_what_reports_them_is_told(audit: Run) -> None:
    for stored in ([], ["--store", "my rows.sqlite"]):
        code, _, err = audit("--i-own-this", *stored)
        assert code == 0, err
        *_, said = (line for line in err.splitlines() if line.startswith("rows: "))
        assert Path(said.removeprefix("rows: ").split("; next: ")[0]).exists()
        main(shlex.split(said.split("; next: stealguard ")[1]))
        assert Path("report.html").exists()
        Path("report.html").unlink()


def test_nothing_is_audited_that_is_not_owned(audit: Run, model: Model) -> None:
    code, _, err = audit()
    assert code == 2
    assert err.startswith("error: Parameter `i-own-this` should be given to audit a URL: an audit attacks the model.")
    assert err.count("\n") == 1
    assert model.requests == []


@pytest.mark.slow
def test_the_key_comes_from_the_environment(audit: Run, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model.keys = frozenset({"sg_secret"})
    code, _, err = audit("--i-own-this")
    assert (code, "needs a key (status 401" in err) == (2, True)
    monkeypatch.setenv("STEALGUARD_KEY", "sg_secret")
    assert audit("--i-own-this")[0] == 0
    monkeypatch.setenv("MINE", "sg_wrong_secret")
    code, out, err = audit("--i-own-this", "--key-env", "MINE")
    assert (code, "does not accept the key" in err, "secret" in out + err) == (2, True, False)
    code, _, err = audit("--i-own-this", "--key-env", "NOBODYS")
    assert (code, "`key-env` should be the name of a variable that is set. Found `NOBODYS`" in err) == (2, True)


@pytest.mark.slow
def test_a_file_of_keys_gives_several_accounts(audit: Run, model: Model, tmp_path: Path) -> None:
    model.keys = frozenset({"a", "b"})
    (tmp_path / "keys").write_text("a\n\nb\n")
    code, _, err = audit("--i-own-this", "--key-file", "keys", "--accounts", 2)
    assert code == 0, err
    assert model.answered == {"a": 60 + 50, "b": 50}
    assert audit("--i-own-this", "--key-file", "keys")[0] == 0
    assert model.answered == {"a": 60 + 50 + 60, "b": 50}, "all keys are used, unless told otherwise: the row is known"
    code, _, err = audit("--i-own-this", "--key-file", "keys", "--accounts", 3)
    assert (code, "`accounts` should be at most 2" in err) == (2, True)
    (tmp_path / "keys").write_text("\n")
    assert "`key-file` should be a file with a key" in audit("--i-own-this", "--key-file", "keys")[2]
    assert "`nowhere`: No such file" in audit("--i-own-this", "--key-file", "nowhere")[2]


@pytest.mark.slow
def test_requests_have_as_many_rows_as_are_asked_for(audit: Run, model: Model) -> None:
    assert audit("--i-own-this", "--rows", 30, "--parallel", 2, "--output", "probabilities")[0] == 0
    assert max(model.requests) == 30
    assert audit("--i-own-this", "--parallel", 0)[2].startswith("error: Parameter `parallel` should be at least 1")


def test_options_for_urls_need_one(audit: Run, model: Model) -> None:
    code, _, err = audit("--rows", 3, url="nowhere")
    assert (code, "`victim` should be a URL, where options for URLs are given. Found `nowhere`" in err) == (2, True)


@pytest.mark.slow
def test_a_failed_theft_ends_with_status_1_and_goes_on_later(audit: Run, model: Model) -> None:
    model.faults.extend(["", "internal"])
    code, _, err = audit("--i-own-this")
    assert (code, "Found status 500: it broke" in err) == (1, True)
    assert audit("--i-own-this")[0] == 0
    assert model.answered[""] == 160 + 32, "the test inputs that are asked again"


def test_the_size_of_pictures_is_told_beside_a_url(endpoint: tuple[str, Model], tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (int(name[2]) + 8, 9)).save(tmp_path / name)
    victim = sg.Remote(f"{endpoint[0]}/v2/models/m")
    found = brought(victim, f"folder:{tmp_path}", size=4)
    assert found.victim is victim
    assert found.task.train.x.shape[1:] == (1, 4, 4)


def test_statistics_of_a_model_behind_a_url_are_refused(audit: Run, model: Model) -> None:
    code, _, err = audit("--i-own-this", "--mean", "0.5", "--std", "0.5")
    assert code == 2
    assert "`victim` should be a net of your own where `mean`, `std` or `weights` are given. Found `m`" in err
    assert model.requests == []
