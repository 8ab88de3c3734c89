"""Engines give what the guard reads, in ONNX Runtime where the export is whole, else in torch, and say why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime import get_available_providers

import stealguard as sg
from exported import written
from samples import noise
from stealguard.boxes.base import outputs_of
from stealguard.defenses import RobustInI
from stealguard.errors import Invalid, ReleaseError
from stealguard.files import sha256
from stealguard.releases.export import _write, export, read_report
from stealguard.serving.engine import OnnxEngine, TorchEngine, engine_of

pytestmark = pytest.mark.slow  # each test has an export made

Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture
def release(once: Once, tmp_path: Path) -> sg.Release:
    """A copy of an exported release whose guard has a memory."""

    def make(folder: Path) -> None:
        export(written(folder, RobustInI(), sharpness=10.0), rows=50)

    shutil.copytree(once("exported-robust", make), tmp_path / "r")
    return written(tmp_path / "r", RobustInI(), sharpness=10.0)


@pytest.mark.parametrize("n", [1, 7, 1500])
def test_both_engines_give_what_the_guard_reads(release: sg.Release, n: int) -> None:
    engine, other = engine_of(release, device="cpu"), engine_of(release, "torch", "cpu")
    assert (engine.backend, other.backend) == ("onnx", "torch")
    x = noise(n, (16,)).numpy()
    found, expected = engine(x), other(x)
    assert set(found) == set(expected) == {"signals"}
    torch.testing.assert_close(found["signals"], expected["signals"], atol=1e-4, rtol=1e-5)
    outputs = outputs_of(release.model.heads(), torch.from_numpy(x))
    assert torch.equal(expected["signals"], release.model.guard.digest(outputs)["signals"])


def test_a_guard_answers_as_audited_from_either_engine(release: sg.Release) -> None:
    guard, x = release.model.guard, noise(5, (16,), seed=8)
    expected, _ = guard(outputs_of(release.model.heads(), x), x, guard.start())
    for backend in ("onnx", "torch"):
        answers, _ = guard(engine_of(release, backend, "cpu")(x.numpy()), x, guard.start())
        assert torch.equal(answers, expected)


@pytest.mark.parametrize("damage", ["no report", "another file", "another release", "no file"])
def test_an_export_that_cannot_be_trusted_is_not_used(release: sg.Release, damage: str, tmp_path: Path) -> None:
    if damage == "no report":
        (release.folder / "export.json").unlink()
    elif damage == "another file":
        shutil.copy(release.folder / "recipe.json", release.folder / "heads.onnx")
    elif damage == "no file":
        (release.folder / "heads.onnx").unlink()
    else:
        release = written(tmp_path / "r", RobustInI(strictness=2.0), sharpness=10.0)
    engine = engine_of(release, device="cpu")
    assert isinstance(engine, TorchEngine)
    reasons = {"no report": "Nothing was exported", "another file": "tampered", "no file": "cannot be read"}
    assert reasons.get(damage, "belongs to another release") in engine.why
    with pytest.raises(ReleaseError):
        engine_of(release, "onnx")


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        ("garbage", "cannot be run"),
        pytest.param("another net", "does not compute what the release does", marks=pytest.mark.thorough),
        ("no output", "cannot be run"),
    ],
)
def test_an_export_that_anybody_sealed_is_not_used(
    release: sg.Release, forged: str, reason: str, tmp_path: Path
) -> None:
    """Its hash is right: anybody who may write to the folder can write the report too."""
    exports, path = read_report(release.folder), release.folder / "heads.onnx"
    heads = exports["onnx"]["heads"]
    if forged == "garbage":
        path.write_bytes(b"no graph")
    elif forged == "no output":
        heads["read"] = ["nothing"]
    else:
        export(written(tmp_path / "other", RobustInI(), sharpness=20.0), rows=50)
        shutil.copy(tmp_path / "other" / "heads.onnx", path)
    heads["sha256"] = sha256(path)
    _write(release.folder, exports)
    engine = engine_of(release, device="cpu")
    assert isinstance(engine, TorchEngine)
    assert reason in engine.why
    assert engine.why.isprintable()
    with pytest.raises(ReleaseError):
        engine_of(release, "onnx")


def test_engines_leave_the_numbers_next_to_zero_of_their_caller_alone(release: sg.Release) -> None:
    x = np.full((2, 16), 1e-40, np.float32)
    for engine in (OnnxEngine(release), TorchEngine(release)):
        engine(x)
        assert (x * np.float32(0.5) > 0).all()


def test_on_a_thread_where_numbers_next_to_zero_are_zero_engines_compute_so(release: sg.Release) -> None:
    """The thread of a served release is one: such numbers would slow the processor down by far."""
    x = np.full((2, 16), 1e-40, np.float32)
    with ThreadPoolExecutor(1, initializer=partial(torch.set_flush_denormal, True)) as thread:
        for engine in (OnnxEngine(release), TorchEngine(release)):
            found, zero = (thread.submit(engine, given).result()["signals"] for given in (x, np.zeros_like(x)))
            assert torch.equal(found, zero)


def test_a_backend_that_does_not_exist_is_refused(release: sg.Release) -> None:
    with pytest.raises(Invalid, match="`backend` should be one of auto, onnx, torch"):
        engine_of(release, "tensorrt")  # type: ignore[arg-type]


def test_where_no_device_is_named_onnx_computes_on_one_that_it_can_use(release: sg.Release) -> None:
    engine = engine_of(release, "onnx")
    assert engine.device == ("cuda" if "CUDAExecutionProvider" in get_available_providers() else "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_torch_computes_on_a_gpu(release: sg.Release) -> None:
    engine = engine_of(release, device="cuda")
    assert engine.device.startswith("cuda")
    x = noise(5, (16,))
    answers, _ = release.model.guard(engine(x.numpy()), x, release.model.guard.start())
    assert answers.shape == (5, 3)
