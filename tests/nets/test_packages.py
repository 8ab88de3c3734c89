"""Nets of timm and torchvision, where these can be imported, and what is said where not."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from stealguard.errors import Invalid, StealguardError
from stealguard.nets import build, is_users, reinitialized


def package(name: str) -> None:
    """Skip the test where the package cannot be imported: torchvision raises a RuntimeError beside another torch."""
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError) as e:
        pytest.skip(f"{name} cannot be imported: {e}")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("timm:resnet10t", (3, 64, 64)),
        ("timm:resnet10t", (1, 48, 64)),
        ("timm:vit_tiny_patch16_224", (3, 64, 64)),
        ("torchvision:resnet18", (3, 64, 64)),
        ("torchvision:vit_b_16", (3, 32, 32)),
    ],
)
def test_nets_of_packages(name: str, shape: tuple[int, ...]) -> None:
    package(name.partition(":")[0])
    like = torch.rand(2, *shape)
    net = build(name, like, 7, seed=0, mean=0.5, std=0.25)
    assert net.eval()(like).shape == (2, 7)
    again = build(name, like, 7, seed=0, mean=0.5, std=0.25).eval()
    assert torch.equal(net(like), again(like)), "the seed draws the weights"


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:vit_tiny_patch16_224", "torchvision:resnet18"])
def test_nets_of_packages_are_drawn_anew_with_their_statistics(name: str) -> None:
    package(name.partition(":")[0])
    like = torch.rand(2, 3, 64, 64)
    net = build(name, like, 7, seed=0, mean=0.5, std=0.25).eval()
    other = reinitialized(net, seed=1).eval()
    assert not torch.equal(other(like), net(like))
    assert torch.equal(other.mean, net.mean)


@pytest.mark.parametrize("name", ["timm", "torchvision"])
def test_an_unknown_net_of_a_package_is_named(name: str) -> None:
    package(name)
    with pytest.raises(Invalid, match="did you mean `resnet18`"):
        build(f"{name}:resnet81", torch.rand(2, 3, 64, 64), 7, seed=0)


@pytest.mark.parametrize("name", ["timm", "torchvision"])
@pytest.mark.parametrize("raised", ["ImportError", "RuntimeError('operator torchvision::nms does not exist')"])
def test_a_package_that_cannot_be_imported_is_told_with_its_extra(
    name: str, raised: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for known in [one for one in sys.modules if one.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, known)
    with pytest.raises(StealguardError, match=rf"cannot be imported: pip install 'stealguard\[{name}\]'"):
        build(f"{name}:resnet18", torch.rand(2, 3, 64, 64), 7, seed=0)


def test_nets_of_packages_are_not_the_users_own_code() -> None:
    assert [is_users(net) for net in ("timm:resnet18", "torchvision:vgg11", "lenet5", "my:net")] == [*[False] * 3, True]
    with pytest.raises(Invalid, match=r"which takes images, for .4,."):
        build("timm:resnet18", torch.rand(2, 4), 7, seed=0)
