"""Exports answer as the release does, and what does not is not kept."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from exported import written
from samples import mlp, noise
from stealguard.boxes.base import outputs_of
from stealguard.defenses import CIP, DEFENSES, EDM, RobustInI
from stealguard.defenses.base import Defense
from stealguard.errors import Invalid, ReleaseError
from stealguard.files import sha256
from stealguard.releases.export import (
    LARGEST,
    Exported,
    Parity,
    Session,
    _differences,
    _Onnx,
    _Torch,
    _write,
    checked,
    export,
    onnx_runtime,
    read_report,
)
from stealguard.releases.release import REPORT
from stealguard.releases.samples import samples

ROOT = Path(__file__).parents[2]
TIERS = {
    "A": {
        "none", "ini", "reverse-sigmoid", "dcp", "mad", "grad2", "adaptive-misinformation", "nasty-teacher", "misleader"
    },
    "B": {
        "ini-robust", "top-k", "rounding", "modelguard-w", "modelguard-s", "cip", "memguard", "prada", "hoda", "d-add"
    },
    "C": {"edm"},
}  # fmt: skip


def copy_of(plain: Exported, tmp_path: Path) -> sg.Release:
    shutil.copytree(plain.folder, tmp_path / "copy")
    return written(tmp_path / "copy", scaling={"low": [-2.0], "high": [3.0]}, names=["a", "b", "c"])


SAMPLE = {"ini-robust", "edm"}  # `test_onnx_only` has one of tier A


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.thorough) for name in DEFENSES]
)
def test_an_export_of_each_defense_answers_as_the_release(name: str, tmp_path: Path) -> None:
    """Sharp logits: some answers are within 1e-7 of 1, where formulas on probabilities lose their digits."""
    release = written(tmp_path / "r", DEFENSES[name](), sharpness=40.0)
    if name in TIERS["C"]:
        with pytest.raises(ReleaseError, match="cannot be exported to onnx: it cannot be written as a graph"):
            export(release, rows=1000)
        record = read_report(tmp_path / "r")["onnx"]
    else:
        export(release, rows=1000)
        record = read_report(tmp_path / "r")["onnx"]
        assert record["heads"]["outputs"][: len(release.model.heads())] == list(release.model.heads())
    assert name in TIERS[record["tier"]]
    for part in ("heads", "model"):
        found = record[part]
        assert bool(found["file"]) != bool(found["reason"])
        assert (tmp_path / "r" / f"{part}.onnx").exists() == bool(found["file"])
        assert [one["rows"] for one in found["parity"]] == ([1000, 1000] if found["file"] else [])
        assert all(Parity(**one).passed for one in found["parity"])


@pytest.mark.thorough
def test_a_gate_without_memory_is_exported_as_a_whole(tmp_path: Path) -> None:
    release = written(tmp_path / "r", RobustInI(memory=False), sharpness=10.0)
    exported = export(release, rows=200)
    assert exported.tier == "A"
    x = noise(300, (16,), seed=5)
    (found,) = Session((tmp_path / "r" / "model.onnx").read_bytes())(x.numpy()).values()
    torch.testing.assert_close(found, release.box(x))
    assert 0 < (found.argmax(dim=1) == outputs_of(release.model.heads(), x)["logits"].argmax(dim=1)).sum() < 300


@pytest.mark.slow
def test_the_whole_box_takes_inputs_in_the_users_units(plain: Exported, tmp_path: Path) -> None:
    release = copy_of(plain, tmp_path)
    session = onnxruntime.InferenceSession(str(plain.folder / "model.onnx"))
    x = 5 * noise(1030, (16,)) - 2.5  # some of it beyond the scaling's bounds
    (answers,) = session.run(["probabilities"], {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(answers), release.box(x), atol=1e-6, rtol=0)
    (one,) = session.run(None, {"input": x[:1].numpy()})
    torch.testing.assert_close(one, answers[:1], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_the_heads_take_inputs_in_the_unit_interval(plain: Exported, tmp_path: Path) -> None:
    release = copy_of(plain, tmp_path)
    session = Session((plain.folder / "heads.onnx").read_bytes())
    x = noise(2500, (16,))
    expected = outputs_of(release.model.heads(), x)
    found = session(x.numpy())
    assert list(found) == list(expected) == ["logits"]
    torch.testing.assert_close(found["logits"], expected["logits"], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_file_tells_its_classes_its_scaling_and_its_release(plain: Exported, tmp_path: Path) -> None:
    release = copy_of(plain, tmp_path)
    for part in ("heads", "model"):
        notes = Session((plain.folder / f"{part}.onnx").read_bytes()).notes
        assert json.loads(notes["class_names"]) == ["a", "b", "c"]
        assert json.loads(notes["scaling"]) == {"low": [-2.0], "high": [3.0]}
        assert json.loads(notes["shape"]) == [16]
        assert notes["identity"] == release.identity
        assert notes["weights_sha256"] == release.recipe["weights_sha256"]


@pytest.mark.slow
def test_the_report_has_hashes_versions_and_numbers(plain: Exported) -> None:
    record = read_report(plain.folder)["onnx"]
    assert record["tier"] == "A"
    assert record["opset"] >= 17
    assert set(record["packages"]) == {"torch", "onnx", "onnxscript", "onnxruntime"}
    for part in ("heads", "model"):
        assert record[part]["sha256"] == sha256(plain.folder / f"{part}.onnx")
        for one in record[part]["parity"]:
            assert one["rows"] == 50
            assert 0 <= one["largest"] <= LARGEST


@pytest.mark.thorough
@pytest.mark.slow
def test_an_export_is_replaced_only_if_told(plain: Exported, tmp_path: Path) -> None:
    release = copy_of(plain, tmp_path)
    before = (release.folder / "heads.onnx").read_bytes()
    with pytest.raises(Invalid, match=r"`out` should be a folder without an earlier export .*heads.onnx, model.onnx"):
        export(release, rows=20)
    assert (release.folder / "heads.onnx").read_bytes() == before
    export(release, "torch", rows=20)
    assert set(read_report(release.folder)) == {"onnx", "torch"}, "one report for both kinds"
    assert export(release, overwrite=True, rows=20).tier == "A"


@pytest.mark.slow
def test_a_torch_program_answers_as_the_release(tmp_path: Path) -> None:
    release = written(tmp_path / "r", RobustInI(), sharpness=10.0)
    exported = export(release, "torch", rows=50)
    assert (exported.tier, exported.opset) == ("B", None)
    assert exported.model.reason == "the guard remembers queries: only the server can answer as audited"
    program = torch.export.load(tmp_path / "r" / "heads.pt2").module()
    x = noise(7, (16,))
    with torch.no_grad():
        for found, name in zip(program(x), exported.heads.outputs, strict=True):
            expected = outputs_of(release.model.heads(), x)
            torch.testing.assert_close(found, {**expected, **release.model.guard.digest(expected)}[name])


class Counting(nn.Module):
    """A net that answers otherwise at each call, so that no export answers as it does."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.linear, self.step, self.calls = nn.Linear(16, 3), step, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) + self.step * self.calls * torch.eye(3)[0]


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_interrupt_is_no_failed_export(wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's exporters handle errors by names of modules that an interrupt may have left half imported."""

    def write(*given: object) -> None:
        try:
            try:
                raise KeyboardInterrupt
            except torch.half_imported.Error:  # type: ignore[attr-defined]
                pass
        except AttributeError as e:
            if wrapped:
                raise RuntimeError("Failed to export the model.") from e
            raise

    monkeypatch.setattr(_Torch, "write", write)
    with pytest.raises(KeyboardInterrupt):
        export(written(tmp_path / "r"), "torch", rows=20)
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"recipe.json", "weights.safetensors"}


@pytest.mark.slow
def test_an_interrupt_leaves_an_earlier_export(
    plain: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = copy_of(plain, tmp_path)
    before = {path.name: path.read_bytes() for path in release.folder.iterdir()}
    assert any(name.endswith(".onnx") for name in before)

    def write(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_Onnx, "write", write)
    with pytest.raises(KeyboardInterrupt):
        export(release, overwrite=True, rows=20)
    assert {path.name: path.read_bytes() for path in release.folder.iterdir()} == before


@pytest.mark.slow
def test_a_file_that_answers_otherwise_is_not_kept(tmp_path: Path) -> None:
    release = written(tmp_path / "r", net=Counting(0.01))
    with pytest.raises(
        ReleaseError, match=r"does not answer as the release does: 50 inputs \((noise|drawn)\): largest diff"
    ):
        export(release, rows=50)
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"recipe.json", "weights.safetensors", REPORT}
    record = read_report(tmp_path / "r")["onnx"]
    assert record["tier"] == "C"
    assert record["heads"]["parity"][1]["largest"] > LARGEST
    assert record["heads"]["file"] == ""


@pytest.mark.slow
def test_an_earlier_file_does_not_outlive_a_failed_export(plain: Exported, tmp_path: Path) -> None:
    release = copy_of(plain, tmp_path)
    other = replace(release, model=Defense().build(Counting(0.01), noise(2, (16,))).eval())
    with pytest.raises(ReleaseError, match="does not answer"):
        export(other, overwrite=True, rows=20)
    assert not list(release.folder.glob("*.onnx"))


def test_what_cannot_be_written_as_a_graph_says_why(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"cannot be exported to torch: it cannot be written as a graph \(Guard"):
        export(written(tmp_path / "r", EDM()), "torch", rows=20)
    assert read_report(tmp_path / "r")["torch"]["model"]["reason"]


@pytest.mark.slow
def test_files_and_report_are_checked(plain: Exported, tmp_path: Path) -> None:
    release = copy_of(plain, tmp_path)
    record = read_report(release.folder)["onnx"]
    assert checked(release.folder, record, "heads", release.identity)
    with pytest.raises(ReleaseError, match="belongs to another release"):
        checked(release.folder, record, "heads", "0" * 64)
    path = release.folder / "heads.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ReleaseError, match="truncated or was tampered with"):
        checked(release.folder, record, "heads", release.identity)
    path.unlink()
    with pytest.raises(ReleaseError, match="cannot be read"):
        checked(release.folder, record, "heads", release.identity)
    report = release.folder / REPORT
    report.write_text(report.read_text().replace('"rows": 50', '"rows": 5000'))
    with pytest.raises(ReleaseError, match="was changed after it was written"):
        read_report(release.folder)
    report.write_text("{")
    with pytest.raises(ReleaseError, match="truncated or foreign"):
        read_report(release.folder)
    report.unlink()
    with pytest.raises(ReleaseError, match="Nothing was exported"):
        read_report(release.folder)


FOREIGN = [
    {"onnx": [1]}, {"onnx": {}}, {"onnx": 3}, {"heads": "x"}, {"heads": {"file": "/dev/zero"}},
    {"heads": {"file": "../heads.onnx"}}, {"heads": {"file": 3}}, {"heads": {"read": [3]}},
    {"heads": {"parity": [{"x": 1}]}}, {"heads": {"parity": None}}, {"identity": 1}, {"packages": [1]},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("foreign", FOREIGN, ids=str)
def test_a_report_that_anybody_sealed_is_read_with_care(plain: Exported, tmp_path: Path, foreign: Any) -> None:
    release = copy_of(plain, tmp_path)
    exports: Any = read_report(release.folder)
    if isinstance(foreign, dict) and "onnx" not in foreign:
        for name, value in foreign.items():
            part = exports["onnx"][name]
            exports["onnx"][name] = {**part, **value} if isinstance(value, dict) else value
    else:
        exports = foreign
    _write(release.folder, exports)
    with pytest.raises(ReleaseError, match="Found a foreign report"):
        read_report(release.folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", [REPORT, "heads.onnx"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(plain: Exported, tmp_path: Path, name: str) -> None:
    release = copy_of(plain, tmp_path)
    record = read_report(release.folder)["onnx"]
    (release.folder / name).unlink()
    os.mkfifo(release.folder / name)
    with pytest.raises(ReleaseError, match=r"cannot be read \(Not a regular file\)"):
        read_report(release.folder) if name == REPORT else checked(release.folder, record, "heads", release.identity)


@pytest.mark.slow
def test_an_export_that_was_compared_with_nothing_is_not_used(plain: Exported, tmp_path: Path) -> None:
    release = copy_of(plain, tmp_path)
    record = read_report(release.folder)["onnx"]
    record["heads"]["parity"] = []
    with pytest.raises(ReleaseError, match="does not answer as the release does"):
        checked(release.folder, record, "heads", release.identity)


@pytest.mark.parametrize(
    ("option", "value", "rule"), [("to", "tflite", "one of onnx, torch"), ("rows", 1, "at least 2")]
)
def test_a_parameter_that_breaks_its_rule_is_named(option: str, value: object, rule: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=f"`{option}` should be {rule}"):
        export(written(tmp_path / "r"), **{option: value})


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_onnx_runtime_reports_nothing_unless_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert onnx_runtime() is onnxruntime
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    assert onnx_runtime() is onnxruntime
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_onnx_runtime_is_imported_in_one_place() -> None:
    sources = Path(sg.__file__).parent.rglob("*.py")
    imports = [path.name for path in sources if re.search(r"^\s*(import|from) onnxruntime\b", path.read_text(), re.M)]
    assert imports == ["export.py"]


def test_benchmarks_do_not_let_onnx_runtime_report() -> None:
    sources = (ROOT / "benchmarks").rglob("*.py")
    imports = [path for path in sources if re.search(r"^\s*(import|from) onnxruntime\b", path.read_text(), re.M)]
    assert {path.parent.name for path in imports} == {"servers"}
    program = "import os, benchmarks.servers; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    alone = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=alone, capture_output=True, text=True)
    assert found.stdout == "1\n", found.stderr


def test_differences_by_hand() -> None:
    ours, theirs = rows([0.2, 0.8], [10.0, 30.0]), rows([0.2, 0.7], [40.0, 30.0])
    difference, same = _differences(ours, theirs, True)
    torch.testing.assert_close(difference, rows([0.1, 30.0])[0])
    assert same.tolist() == [True, False]
    difference, same = _differences(ours, theirs, False)
    torch.testing.assert_close(difference, rows([0.1, 1.0])[0])
    _, same = _differences(rows([0.5, 0.5 + 1e-5]), rows([0.5 + 1e-5, 0.5]), True)
    assert same.all(), "a class that hardly leads may change"
    difference, same = _differences(ours, theirs[:1], True)
    assert difference.isnan().all()
    assert not same.any()


@pytest.mark.parametrize(
    ("largest", "usual", "top_1", "passed"),
    [(1e-6, 1.0, 1.0, True), (2e-4, 1.0, 1.0, False), (1e-6, 0.99, 1.0, False), (1e-6, 1.0, 0.999, False),
     (math.nan, 1.0, 1.0, False)],
)  # fmt: skip
def test_parity_needs_all_three(largest: float, usual: float, top_1: float, passed: bool) -> None:
    assert Parity("noise", 1000, largest, usual, top_1).passed == passed


def test_samples_are_drawn_where_there_is_no_data(tmp_path: Path) -> None:
    release = written(tmp_path / "r", CIP())
    task, outliers = samples(release, 30)
    assert (task.name, outliers.name) == ("noise", "drawn")
    for sample in (task, outliers):
        assert sample.x.shape == (30, 16)
        assert sample.x.dtype == torch.float32
        assert 0 <= sample.x.min() <= sample.x.max() <= 1
    assert torch.equal(samples(release, 30)[1].x, outliers.x)


def test_samples_are_the_releases_own_data_where_they_are_here(tmp_path: Path) -> None:
    """Test inputs, repeated with a little noise where there are too few, and the outliers that were held out."""
    x, y, z = noise(60, (16,)), np.arange(60) % 3, noise(90, (16,), seed=4)
    np.savez(tmp_path / "task.npz", train_x=x[:40], train_y=y[:40], test_x=x[40:], test_y=y[40:])
    np.savez(tmp_path / "z.npz", x=z)
    outliers = f"npz:{tmp_path / 'z.npz'}"
    release = sg.protect(
        mlp(), f"npz:{tmp_path / 'task.npz'}", outliers=[outliers], epochs=1, out=tmp_path / "r", progress=False
    )
    task, drawn = samples(release, 50)
    assert task.name.startswith("test inputs of npz:")
    torch.testing.assert_close(task.x[:20], x[40:])
    assert (task.x[20:40] - x[40:]).abs().max() <= 0.0251
    assert drawn.name.startswith("held-out inputs of npz:")
    assert torch.isin(drawn.x[:30, 0], z[:, 0]).all()
    np.savez(tmp_path / "task.npz", train_x=x[:40], train_y=y[:40], test_x=x[20:40], test_y=y[40:])
    assert samples(release, 50)[0].name == "noise", "not the data that the release was made from"
