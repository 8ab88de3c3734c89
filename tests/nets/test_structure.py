"""The identity of an architecture: alike for the same one with other weights, and for nothing else."""

from __future__ import annotations

import importlib
import linecache
import sys
from pathlib import Path

import pytest
from torch import nn

from samples import mlp
from stealguard.nets import structure

NET = """
import a_helper
from torch import nn

FACTOR = 1
UNUSED = 1


def shifted(x):
    return FACTOR + a_helper.LIMIT * a_helper.twice(x)


class Net(nn.Module):
    def forward(self, x):
        return shifted(x)
"""


def of(forward: str, **settings: object) -> nn.Module:
    """A net of a class `Net` that no file holds."""
    scope: dict[str, type[nn.Module]] = {}
    exec(f"class Net(nn.Module):\n    def forward(self, x):\n        return {forward}\n", {"nn": nn}, scope)
    net = scope["Net"]()
    net.body = mlp()
    for name, value in settings.items():
        setattr(net, name, value)
    return net


def one() -> nn.Module:
    class Net(nn.Module):
        def forward(self, x):
            return x

    return Net()


def other() -> nn.Module:
    class Net(nn.Module):
        def forward(self, x):
            return 2 * x

    return Net()


def test_weights_do_not_matter() -> None:
    assert structure(mlp()) == structure(mlp().eval()) == structure(mlp().requires_grad_(False))
    assert structure(of("self.body(x)")) == structure(of("self.body(x)"))
    assert len(structure(mlp())) == 64


def test_everything_else_does() -> None:
    nets = [
        mlp(),
        mlp(inputs=5),
        nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 3)),
        nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3), nn.Dropout(0.1)),
        nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3), nn.Dropout(0.2)),
        mlp().double(),
        of("self.body(x)"),
        of("2 * self.body(x)"),
        of("3 * self.body(x)"),
        of("self.body(x).neg()"),
        of("self.body(x).abs()"),
        of("self.body(x)", scale=1),
        of("self.body(x)", scale=2),
    ]
    found = [structure(net) for net in nets]
    assert len(set(found)) == len(found)


def test_forward_passes_of_one_class_name_are_told_apart_by_their_source() -> None:
    a, b = one(), other()
    type(b).__qualname__ = type(a).__qualname__
    assert structure(a) != structure(b)
    assert structure(a) == structure(one())


def test_a_description_with_an_address_does_not_matter() -> None:
    class Told(nn.Module):
        def extra_repr(self) -> str:
            return f"{object()}"

    assert structure(Told()) == structure(Told())


@pytest.mark.parametrize(
    ("helper", "net", "alike"),
    [
        ("def twice(x): return 3 * x", NET, False),
        ("SCALE = 3\ndef twice(x): return SCALE * x", NET, False),
        ("LIMIT = 2\ndef twice(x): return 2 * x", NET, False),
        ("OTHER = 2\ndef twice(x): return 2 * x", NET, True),
        ("def twice(x): return 2 * x\n\n\ndef other(x): return x", NET, True),
        ("def twice(x): return 2 * x", NET.replace("FACTOR = 1", "FACTOR = 2"), False),
        ("def twice(x): return 2 * x", NET.replace("UNUSED = 1", "UNUSED = 2"), True),
    ],
)
def test_what_a_forward_pass_uses_of_the_users_modules_matters(
    helper: str, net: str, alike: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(helper: str, net: str, folder: Path) -> str:
        folder.mkdir()
        (folder / "a_helper.py").write_text(f"LIMIT = 1\n{helper}")
        (folder / "a_net.py").write_text(net)
        monkeypatch.syspath_prepend(folder)
        for name in ("a_helper", "a_net"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        linecache.clearcache()
        return structure(importlib.import_module("a_net").Net())

    before = found("def twice(x): return 2 * x", NET, tmp_path / "before")
    assert (found(helper, net, tmp_path / "after") == before) == alike
