"""Fetching: what is present is whole and right, also when several processes fetch and when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from small import write_idx

from stealguard import data
from stealguard.data import formats, store
from stealguard.data.sets import SetSpec
from stealguard.data.sources import Site, Source, Unavailable, local
from stealguard.errors import FetchError, Invalid
from waiting import CAP, until

Register = Callable[..., SetSpec]


def left(root: Path) -> list[str]:
    """What is in the store, but for locks."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_fetch_from_a_folder_in_the_store(root: Path, register: Register) -> None:
    register("digits")
    write_idx(root / "digits" / "raw")
    path = data.get("digits", progress=False)
    assert path == root / "digits.safetensors"
    assert store.note(path).source == "folder digits/raw"
    task = data.task("digits")
    assert (task.name, task.classes, task.train.x.shape) == ("digits", 10, (20, 1, 28, 28))
    assert len(data.images("digits")) == 20
    assert not list((root / ".work").glob("digits/*"))


def test_fetch_from_a_folder_elsewhere(root: Path, register: Register, tmp_path: Path, monkeypatch) -> None:
    register("digits")
    write_idx(tmp_path / "mine" / "digits" / "raw")
    monkeypatch.setenv("STEALGUARD_LOCAL", os.pathsep.join(["/nowhere", str(tmp_path / "mine")]))
    assert data.get("digits", root=tmp_path / "other", progress=False).parent == tmp_path / "other"


def test_stored_sets_are_not_fetched_again(root: Path, register: Register) -> None:
    register("digits")
    folder = write_idx(root / "digits" / "raw")
    data.get("digits")
    for path in folder.iterdir():
        path.unlink()
    data.get("digits")


def test_all_that_was_tried_and_what_to_do(root: Path, register: Register) -> None:
    def offline(site: Site) -> formats.Arrays:
        raise Unavailable("no network")

    register("digits", local("digits/raw", formats.mnist), Source("npm digits@1", offline))
    with pytest.raises(FetchError) as caught:
        data.get("digits", progress=False)
    said = str(caught.value)
    assert "\n" not in said
    for part in f"folder digits/raw: not in {root}", "npm digits@1: no network", "put idx files into digits/raw in":
        assert part in said
    assert "run `stealguard data get digits` again" in said
    assert left(root) == []


def test_wrong_hash_leaves_nothing(root: Path, register: Register) -> None:
    register("digits", sha256="0" * 64)
    write_idx(root / "digits" / "raw")
    before = left(root)
    with pytest.raises(FetchError, match=f"folder digits/raw: expected SHA-256 {'0' * 64}, found [0-9a-f]{{64}}"):
        data.get("digits", progress=False)
    assert left(root) == before


def test_the_next_source_is_tried_after_a_wrong_one(root: Path, register: Register, tmp_path: Path) -> None:
    right = store.digest(formats.mnist(lambda name: (write_idx(tmp_path / "right") / name).read_bytes()))
    write_idx(root / "wrong", first=1)
    write_idx(root / "good")
    register("digits", local("wrong", formats.mnist), local("good", formats.mnist), sha256=right)
    assert store.note(data.get("digits", progress=False)) == store.Note(right, "folder good", right)
    assert [row.state for row in data.verify()] == ["verified"]


def test_truncated_file_says_which(root: Path, register: Register) -> None:
    register("digits")
    file = write_idx(root / "digits" / "raw") / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(FetchError, match="train-images-idx3-ubyte: expected 15696 bytes, found 1000"):
        data.get("digits", progress=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_x": np.zeros((19, 1, 28, 28), np.uint8)}, r"expected train_x of shape \(20, 1, 28, 28\), found \(19"),
        ({"test_y": np.full(10, 10)}, r"expected 10 labels in 0..9, found 10 in 10..10"),
        ({"test_y": np.zeros(9, int)}, r"expected 10 labels in 0..9, found 9 in 0..0"),
        ({"test_x": None}, "found none"),
        ({"test_y": None}, "found no labels"),
    ],
)
def test_sets_of_another_shape(root: Path, register: Register, tmp_path: Path, change: dict, said: str) -> None:
    folder = write_idx(tmp_path / "raw")
    arrays = formats.mnist(lambda name: (folder / name).read_bytes()) | change
    arrays = {name: array for name, array in arrays.items() if array is not None}
    register("digits", Source("a mirror", lambda site: arrays))
    with pytest.raises(FetchError, match=f"a mirror: .*{said}"):
        data.get("digits", progress=False)


def test_unknown_names_suggest_the_nearest(root: Path) -> None:
    for ask in data.get, data.task, data.images:
        with pytest.raises(Invalid, match=r"Found `minst` \(did you mean `mnist`\?\)"):
            ask("minst")


def test_listing_and_verify(root: Path, register: Register) -> None:
    register("digits")
    write_idx(root / "digits" / "raw")
    states = {row.name: row for row in data.listing()}
    assert list(states) == list(data.SETS)
    assert states["digits"].state == "absent"
    assert data.verify() == []

    path = data.get("digits", progress=False)
    assert [row.state for row in data.verify()] == [store.RECORDED]
    assert store.RECORDED.startswith("recorded, not verified")
    assert not any(row.pinned for row in data.verify())

    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (row,) = data.verify()
    assert not row.ok
    assert row.state.startswith("damaged: expected SHA-256 ")

    path.write_bytes(content[:-100])
    (row,) = data.verify()
    assert "truncated" in row.state
    assert data.get("digits", progress=False) == path  # and a damaged one is fetched again
    assert [row.ok for row in data.verify()] == [True]


def test_unreadable_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(FetchError, match="delete it and fetch the set again"):
        store.read(tmp_path / "x.safetensors")


def test_a_store_that_cannot_be(tmp_path: Path, register: Register) -> None:
    register("digits")
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="Set `digits` cannot be stored in"):
        data.get("digits", root=tmp_path / "file" / "store", progress=False)


def test_a_full_disk_leaves_nothing(root: Path, register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **options: object) -> None:
        raise SafetensorError("No space left on device")

    register("digits")
    write_idx(root / "digits" / "raw")
    before = left(root)
    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(FetchError, match=r"Set `digits` cannot be stored in .*: No space left on device"):
        data.get("digits", progress=False)
    assert left(root) == before


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STEALGUARD_DATA", raising=False)
    assert store.home().name == "stealguard"
    monkeypatch.setenv("STEALGUARD_DATA", "~/here")
    assert store.home() == Path.home() / "here"
    assert store.home(tmp_path) == tmp_path


def test_a_derived_set_fetches_what_it_is_made_of(root: Path, register: Register) -> None:
    register("digits")
    register("copy", Source("digits", lambda site: site.load("digits")))
    write_idx(root / "digits" / "raw")
    data.get("copy", progress=False)
    assert left(root)[:2] == ["copy.safetensors", "digits.safetensors"]


FETCH = """
import sys, time
from pathlib import Path
from stealguard.data import SETS, formats, get
from stealguard.data.sets import SetSpec
from stealguard.data.sources import Source, local

given = local("digits/raw", formats.mnist)

root, name = Path(sys.argv[1]), sys.argv[2]

def slowly(site):
    (site.work / "half").write_text("half")
    (root / f"started-{name}").write_text("")
    while not (root / "released").exists():
        time.sleep(0.01)
    return given.read(site)

SETS["digits"] = SetSpec("small", (1, 28, 28), (20, 10), 10, "none", (Source("slow folder", slowly),))
(root / f"asking-{name}").write_text("")
print(get("digits", root=root, progress=False))
"""


def fetching(root: Path, name: str) -> subprocess.Popen[str]:
    """A process that fetches `digits`; its source gives them once there is a file `released`."""
    return subprocess.Popen([sys.executable, "-c", FETCH, str(root), name], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_at_once_both_succeed(root: Path) -> None:
    write_idx(root / "digits" / "raw")
    both = [fetching(root, name) for name in ("a", "b")]
    until(lambda: list(root.glob("started-*")) and len(list(root.glob("asking-*"))) == 2)
    (root / "released").write_text("")
    answers = [process.communicate(timeout=CAP)[0].strip() for process in both]
    assert answers == [str(root / "digits.safetensors")] * 2
    assert len(list(root.glob("started-*"))) == 1  # the other waited and took what was there


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("ending", ["SIGKILL", "SIGINT"])
def test_an_ended_fetch_leaves_nothing_that_counts(root: Path, ending: str, register: Register) -> None:
    write_idx(root / "digits" / "raw")
    with fetching(root, "a") as process:
        until((root / "started-a").exists, process)
        process.send_signal(getattr(signal, ending))
        process.wait(CAP)
    register("digits")
    assert not (root / "digits.safetensors").exists()
    assert (ending == "SIGKILL") == bool(list((root / ".work").glob("digits/*/half")))
    data.get("digits", progress=False)
    assert not list((root / ".work").glob("digits/*"))
    assert [row.ok for row in data.verify(root)] == [True]


def test_a_listing_loads_no_torch() -> None:
    code = "import sys; from stealguard import data; data.listing(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
