"""`stealguard serve`: the settings, what is refused, and one real server from its start to SIGTERM."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

import stealguard as sg
from stealguard.cli import main
from stealguard.serving.ledger import LedgerUnavailable, open_keys, open_ledger
from waiting import CAP, until


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as e:
        code = int(e.code or 0)
    return (code, *capsys.readouterr())


def test_check_tells_what_would_be_served_and_listens_to_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    assert run(capsys, "keys", "add", "ann", "--ledger", ledger)[0] == 0
    code, out, _ = run(capsys, "serve", folder, "--ledger", ledger, "--top-k", 2, "--check")
    assert code == 0
    assert f"{folder.name} version 1: {folder}, torch on cpu" in out
    assert "top 2" in out
    assert f"ledger {ledger}: 1 key in force" in out


def test_a_file_names_what_is_served_and_options_come_before_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "server.yaml").write_text(f"releases: [{{path: {folder}, name: digits}}]\nopen: false\n")
    code, out, _ = run(capsys, "serve", "--config", tmp_path / "server.yaml", "--open", "--check")
    assert code == 0
    assert out.startswith("digits version 1:")
    assert "nothing is counted" in out


def test_options_say_what_releases_of_a_file_tell(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "server.yaml"
    config.write_text(f"releases: [{{path: {folder}, name: digits, version: '2', top_k: 3}}]\nopen: true\n")
    for options, told in (
        ([], "digits version 2: .*, top 3"),
        (["--top-k", 2, "--digits", 1], "digits version 2: .*, top 2, 1 digits"),
        (["--top-k", 0, "--name", "mine"], "mine version 2: .*, probabilities"),
        (["--top-k", 9], "digits version 2: .*, top 9"),
        (["--labels"], "digits version 2: .*, labels"),
    ):
        code, out, _ = run(capsys, "serve", "--config", config, "--check", *options)
        assert (code, re.fullmatch(told, out.splitlines()[0]) is not None) == (0, True), out


def test_a_file_that_lets_all_classes_be_told_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "server.yaml"
    config.write_text(f"releases: [{{path: {folder}, top_k: 11}}]\nopen: true\n")
    code, out, err = run(capsys, "serve", "--config", config, "--check")
    assert (code, out) == (2, "")
    assert err.endswith(f"less than 10, the number of classes of `{folder}`, or 0 for all. Found 11.\n")


def test_check_tells_that_the_server_would_make_the_ledger_and_leaves_no_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for ledger in home / "none.sqlite", home / "new" / "folder" / "none.sqlite":
        code, out, _ = run(capsys, "serve", folder, "--ledger", ledger, "--check")
        assert code == 0
        assert f"ledger {ledger}: the server makes this file, which is not there yet; no request is answered" in out
        assert list(home.iterdir()) == []


def test_check_tells_that_no_key_is_in_force(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = tmp_path / "ledger.sqlite"
    open_keys(str(ledger)).close()
    code, out, _ = run(capsys, "serve", folder, "--ledger", ledger, "--check")
    assert code == 0
    assert "0 keys in force; no request is answered before `stealguard keys add` makes a key" in out


def test_check_refuses_a_ledger_that_the_server_cannot_make(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loose").symlink_to(tmp_path / "nowhere")
    for ledger, reason in (
        (tmp_path / "file" / "none.sqlite", "cannot be used: Not a directory"),
        (tmp_path / "loose" / "none.sqlite", "cannot be used: No such file or directory"),
        (tmp_path / "loose", "There is no ledger"),
        (Path("/proc/none.sqlite"), "cannot be used: "),
    ):
        code, out, err = run(capsys, "serve", folder, "--ledger", ledger, "--check")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert str(ledger) in err
        assert reason in err
        with pytest.raises(LedgerUnavailable):
            open_ledger(str(ledger))


def test_releases_of_the_same_weights_are_not_served_together_unless_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = shutil.copytree(folder, tmp_path / "twin")
    code, _, err = run(capsys, "serve", folder, twin, "--open", "--check")
    assert code == 2
    assert f"`{folder.name}` version 1 and `twin` version 1 have the same weights" in err
    assert run(capsys, "serve", folder, twin, "--open", "--check", "--allow-same-weights")[0] == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--open"], "`releases` should be one release folder at least. Found none"),
        (["{folder}", "{folder}", "--name", "a", "--open"], "`name` should be given for a single release"),
        (["{folder}", "--open", "--backend", "tpu"], "`backend` should be one of auto, onnx, torch"),
        (["{folder}", "--open", "--backend", "onnx"], "Nothing was exported from release"),
        (["{folder}", "--open", "--port", "99999"], "`port` should be from 0 to 65535"),
        (["{folder}", "--open", "--name", "a/b"], "`name` should be free of spaces"),
        (["/nowhere", "--open"], "Release `/nowhere` should be a folder"),
        (["{folder}", "--open", "--ledger", "l.sqlite"], "`ledger` should be left out with `--open`"),
        (["{folder}", "--open", "--keep-hashes"], "`keep-hashes` should be left out with `--open`"),
        (["{folder}", "--open", "--labels", "--top-k", "2"], "`top-k` should be left out with `--labels`"),
        (["{folder}", "--open", "--top-k", "10"], "`top_k` should be less than 10,"),
        (["{folder}", "--open", "--labels", "--digits", "2"], "`digits` should be left out with `--labels`"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], given: list[str], told: str
) -> None:
    code, out, err = run(capsys, "serve", *(word.format(folder=folder) for word in given), "--check")
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def server(
    ini_release: sg.Release, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], str, str, Path]]:
    """A server process, its address, a key, and the file of its messages."""
    home = tmp_path_factory.mktemp("serve")
    program = [sys.executable, "-m", "stealguard"]
    add = [*program, "keys", "add", "ann", "--budget", "100", "--ledger", "ledger.sqlite"]
    token = subprocess.run(add, cwd=home, capture_output=True, text=True, check=True).stdout.strip()
    options = ["--name", "digits", "--ledger", "ledger.sqlite", "--port", "0"]
    serve = [*program, "serve", str(ini_release.folder), *options]
    messages = home / "messages"
    with (
        messages.open("w") as file,
        subprocess.Popen(serve, cwd=home, stdout=subprocess.PIPE, stderr=file, text=True) as process,
    ):
        found = until(lambda: re.search(r"ready: (http://\S+)/v2", messages.read_text()), process)
        yield process, found[1], token, messages
        process.kill()


@pytest.mark.slow
def test_one_server_from_its_start_to_its_end(
    server: tuple[subprocess.Popen[str], str, str, Path], ini_release: sg.Release
) -> None:
    process, url, token, messages = server
    x = np.random.default_rng(0).random((3, *ini_release.shape), np.float32)
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}]}
    infer = f"{url}/v2/models/digits/infer"
    assert httpx.post(infer, json=body).status_code == 401
    answer = httpx.post(infer, json=body, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    found = np.array(answer.json()["outputs"][0]["data"], np.float32).reshape(3, -1)
    expected = ini_release.connect("ann")(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=CAP)
    assert process.returncode == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["account"], line["rows"], line["status"]) for line in lines] == [("", 0, 401), ("ann", 3, 200)]
    assert token not in out + messages.read_text()
