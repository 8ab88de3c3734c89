"""Nothing mixes devices: `protect` and `audit` run whole on a pretended second device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import stealguard as sg
from marked import NAME, Marked, MixedDevices, pretended
from samples import mlp, noise, task
from stealguard.defenses import DEFENSES, Defense, MemGuard
from stealguard.devices import choose


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


KINDS: dict[str, Defense] = {**{name: kind() for name, kind in DEFENSES.items()}, "memguard": MemGuard(steps=3)}

SAMPLE = "none", "ini-robust"


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    name if name in SAMPLE else pytest.param(name, marks=pytest.mark.thorough) for name in KINDS
])  # fmt: skip
def test_protect_and_audit_run_on_one_device(tmp_path: Path, name: str) -> None:
    data, pool = task(160, (16,), 3), noise(120, (16,), seed=8)
    with pretended() as device:
        release = sg.protect(
            mlp(), data, outliers=[noise(120, (16,))], defense=KINDS[name], out=tmp_path / "r", device=device,
            training=sg.Training(epochs=1, batch=32), progress=False,
        )  # fmt: skip
        assert all(isinstance(p, Marked) for p in release.model.parameters())
        rows = sg.audit(release, pools=[pool], budgets=40, data=data, net=mlp(), device=device, progress=False)
        assert [row.status for row in rows] == ["ok", "ok"]
