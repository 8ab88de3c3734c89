"""Nothing mixes devices: `protect` and `audit` run whole on a pretended second device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stealguard as sg
from marked import NAME, Marked, MixedDevices, pretended
from samples import mlp, noise, task
from stealguard.cli import main
from stealguard.comparing.cells import plan
from stealguard.comparing.grid import read
from stealguard.comparing.layout import cell_file, rows_in
from stealguard.comparing.work import work
from stealguard.defenses import DEFENSES, Defense, MemGuard
from stealguard.devices import _differentiate, choose, repeatable, without_tf32
from stealguard.nets import build


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_first_gradient_on_a_gpu_is_computed_where_none_are_kept(mode: Callable[[], Any]) -> None:
    with mode():
        _differentiate(torch.device("cpu"))


def test_operations_of_two_devices_fail() -> None:
    with pretended() as device:
        assert choose(device) == torch.device(NAME)
        there, here = torch.ones(3).to(device), torch.ones(3)
        with pytest.raises(MixedDevices, match=r"aten\.add\.Tensor"):
            _ = there + here
        with pytest.raises(MixedDevices, match=r"aten\.index\.Tensor"):
            _ = here[there.long()]
        assert there[here.long()].tolist() == [1, 1, 1]
        assert isinstance(there * here.sum(), Marked)
        assert not isinstance(there.cpu(), Marked)
        net = nn.Linear(3, 2).to(device)
        with pytest.raises(MixedDevices):
            net(here)
        (gradient,) = torch.autograd.grad(net(there).sum(), [net.bias])
        assert gradient.tolist() == [1, 1]
        with pytest.raises(MixedDevices, match=r"aten\.stack"):
            torch.stack([there[0], here[0]])
        with pytest.raises(MixedDevices, match=r"aten\.add_"):
            here += there[0]
        with pytest.raises(MixedDevices, match="generator"):
            there.multinomial(1, generator=torch.Generator())
        with pytest.raises(TypeError, match="no array"):
            there.numpy()
        assert there.numpy(force=True).tolist() == [1, 1, 1]
        with pytest.raises(RuntimeError, match="without its values"):
            torch.tensor(1.0, device=device) + there


def test_switches_are_as_before_after_a_block_that_fails() -> None:
    products, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def switches() -> list[bool]:
        return [
            products.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
        ]  # fmt: skip

    def failing() -> None:
        with without_tf32(), repeatable():
            assert torch.are_deterministic_algorithms_enabled()
            assert cudnn.deterministic
            raise ZeroDivisionError

    before = switches()
    with pytest.raises(ZeroDivisionError):
        failing()
    with repeatable(False):
        assert switches() == before
    assert switches() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_inside_the_block_a_gpu_multiplies_in_float32() -> None:
    a, b = torch.rand(2, 512, 512, generator=torch.Generator().manual_seed(0)).cuda()
    image, kernel = a.view(1, 8, 256, 128), b[:8, :72].reshape(8, 8, 3, 3)
    exact = (a.double() @ b.double(), F.conv2d(image.double(), kernel.double()))
    with without_tf32():
        found = a @ b, F.conv2d(image, kernel)
    for one, other in zip(found, exact, strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_two_deterministic_trainings_end_in_the_same_bits() -> None:
    x, y = task(256, (1, 28, 28), 3)[:2]

    def trained() -> list[torch.Tensor]:
        net = build("lenet5", x[:8], 3, seed=0).cuda()
        with repeatable():
            sg.fit(net, x, y, sg.Training(epochs=2, batch=32), seed=0, progress=False)
        return list(net.parameters())

    assert all(torch.equal(p, q) for p, q in zip(trained(), trained(), strict=True))


KINDS: dict[str, Defense] = {**{name: kind() for name, kind in DEFENSES.items()}, "memguard": MemGuard(steps=3)}

SAMPLE = ("ini-robust",)


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    name if name in SAMPLE else pytest.param(name, marks=pytest.mark.thorough) for name in KINDS
])  # fmt: skip
def test_protect_and_audit_run_on_one_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("stealguard.auditing.owned.SEEN", 200)  # owned samples are trained on for two epochs
    data, pool, short = task(160, (16,), 3), noise(120, (16,), seed=8), sg.Training(epochs=1, batch=32)
    with pretended() as device:
        release = sg.protect(
            mlp(), data, outliers=[noise(120, (16,))], defense=KINDS[name], out=tmp_path / "r", device=device,
            training=short, progress=False,
        )  # fmt: skip
        assert all(isinstance(p, Marked) for p in release.model.parameters())
        attack = sg.attacks.Knockoff(budget=40, training=short)
        rows = sg.audit(release, [attack], pools=[pool], data=data, device=device, progress=False)
        assert [row.status for row in rows] == ["ok", "ok"]


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a task and a pool."""
    data = dict(zip(("train_x", "train_y", "test_x", "test_y"), task(160, (16,), 3), strict=True))
    np.savez(tmp_path / "task.npz", **{name: part.numpy() for name, part in data.items()})
    np.savez(tmp_path / "pool.npz", x=noise(60, (16,), seed=8).numpy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_command_audits_on_a_gpu_if_there_is_one(
    sets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sg.protect("mlp", "npz:task.npz", defense="none", out="r", device="cpu", epochs=1, progress=False)
    with pretended() as device:
        monkeypatch.setattr("stealguard.devices.choose", lambda named=None: choose(device if named is None else named))
        main(["audit", "r", "--pools", "npz:pool.npz", "--budget", "40", "--labels", "soft", "--json"])
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (row["status"], row["device"]) == ("ok", NAME)


@pytest.mark.slow
def test_a_comparison_steals_on_a_gpu_if_there_is_one(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"data": "npz:task.npz", "nets": "mlp", "epochs": 1, "defenses": "none", "labels": "soft",
            "attacks": {"knockoff": {"budget": 40}}, "pools": "npz:pool.npz"}  # fmt: skip
    train, steal = plan(read(grid))
    Path("compared").mkdir()
    assert work("compared", train.arguments, torch.get_num_threads(), "cpu") == ""
    with pretended() as device:
        monkeypatch.setattr(
            "stealguard.comparing.work.choose", lambda named: choose(device if named is None else named)
        )
        assert work("compared", steal.arguments, torch.get_num_threads()) == ""
    assert [row.device for row in rows_in(cell_file(Path("compared"), steal.key))] == [NAME]
