"""Inputs that stay where they are: arrays in large archives, and pictures in WebDataset shards."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stealguard import data
from stealguard.data import archives, pictures
from stealguard.data.archives import KEYS
from stealguard.data.inputs import Filed, Stored, ahead
from stealguard.errors import Invalid
from stealguard.nets import build
from stealguard.training import Training, fit


def archive(path: Path, kind: str = "f4", n: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "train_x": (rng.random((n, 2, 5)) * 200).astype(kind), "train_y": np.arange(n) % 2,
        "test_x": (rng.random((10, 2, 5)) * 200).astype(kind), "test_y": np.arange(10) % 2,
    }  # fmt: skip
    np.savez(path, **arrays)
    return arrays


@pytest.mark.parametrize("kind", ["f4", "f8", ">f4", "f2", "u1"])
def test_large_inputs_of_an_archive_stay_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    archive(tmp_path / "x.npz", kind)
    whole = data.task(f"npz:{tmp_path / 'x.npz'}")
    monkeypatch.setattr(archives, "HELD", 100)
    filed = data.task(f"npz:{tmp_path / 'x.npz'}")
    assert (type(whole.train.x), type(filed.train.x)) == (Stored, Filed)
    assert (filed.hash, filed.scaling) == (whole.hash, whole.scaling)
    index = torch.tensor([31, 2, 2, 0])
    assert torch.equal(filed.train.x[index], whole.train.x[index])
    assert torch.equal(filed.test.x[:], whole.test.x[:])
    assert torch.equal(data.images(filed)[:], whole.train.x[:])
    assert (filed.train.x.held, whole.train.x.held) == (False, True)


def test_flags_are_numbers_in_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "HELD", 10)
    np.savez(tmp_path / "x.npz", x=np.eye(8, dtype=np.uint8))
    assert torch.equal(data.images(f"npz:{tmp_path / 'x.npz'}")[:], torch.eye(8))


def test_what_cannot_stay_in_the_file_is_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "HELD", 10)
    x = np.random.default_rng(0).random((9, 4))
    np.savez_compressed(tmp_path / "compressed.npz", x=x)
    np.savez(tmp_path / "fortran.npz", x=np.asfortranarray(x))
    for name in "compressed", "fortran":
        found = archives.read(tmp_path / f"{name}.npz")["x"]
        assert isinstance(found, np.ndarray)
        assert np.array_equal(found, x)


def test_a_file_that_shrinks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "HELD", 10)
    archive(tmp_path / "x.npz")
    x = data.task(f"npz:{tmp_path / 'x.npz'}").test.x
    (tmp_path / "x.npz").write_bytes(b"")
    with pytest.raises(Invalid, match="a file that stays as long as it was"):
        x[:]


def test_arrays_stay_whole_behind_a_member_with_an_extra_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "HELD", 10)
    x, raw = np.random.default_rng(0).random((9, 4)), io.BytesIO()
    np.save(raw, x)
    info = zipfile.ZipInfo("x.npy")
    info.extra = b"\x99\x99\x04\x00abcd"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as made:
        made.writestr(info, raw.getvalue())
    assert torch.equal(archives.read(tmp_path / "x.npz")["x"].numbers(torch.arange(9)), torch.from_numpy(x))  # type: ignore[union-attr]
    assert set(KEYS) == {"train_x", "train_y", "test_x", "test_y"}


# Shards -----------------------------------------------------------------------------------------------------


def picture(shade: int, form: str = "png", size: int = 8) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), (shade, 0, 0)).save(out, form)
    return out.getvalue()


def shard(path: Path, files: Iterable[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def samples(first: int, n: int = 6) -> list[tuple[str, bytes]]:
    numbers = range(first, first + n)
    return [pair for i in numbers for pair in ((f"{i:05}.png", picture(10 * i)), (f"{i:05}.cls", b"%d\n" % (i % 2)))]


def test_shards_are_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        shard(tmp_path / f"train-{number:03}.tar", samples(6 * number))
    shard(tmp_path / "val-000.tar", samples(12))
    task = data.task(f"wds:{tmp_path}/*.tar")
    assert (task.train.x.shape, task.test.x.shape, task.classes) == ((12, 3, 8, 8), (6, 3, 8, 8), 2)
    assert (task.train.x[:][:, 0, 0, 0] * 255).round().tolist() == [10.0 * i for i in range(12)]
    assert task.train.y.tolist() == [0, 1] * 6
    monkeypatch.setattr(pictures, "KEPT", 0)
    lazy = data.task(f"wds:{tmp_path}/*.tar")
    assert torch.equal(lazy.train.x[[11, 0]], task.train.x[[11, 0]])
    assert (lazy.hash, lazy.train.x.held) == (task.hash, False)
    assert data.images(f"wds:{tmp_path}/train-{{000..001}}.tar").shape == (12, 3, 8, 8)
    alone = data.task(f"wds:{tmp_path}/train-{{000..001}}.tar")
    assert len(alone.train.x) + len(alone.test.x) == 12
    with pytest.raises(Invalid, match=r"of which one is there. Found `.*train-002.tar`"):
        data.task(f"wds:{tmp_path}/train-{{000..002}}.tar")


def test_labels_are_read_from_json_and_may_be_words(tmp_path: Path) -> None:
    words = ["cat", "dog"] * 4
    files = [
        pair
        for i, word in enumerate(words)
        for pair in ((f"a/{i}.JPG", picture(20 * i, "jpeg")), (f"a/{i}.json", json.dumps({"label": word}).encode()))
    ]
    shard(tmp_path / "x.tar", [*files, ("a/odd.txt", b"no picture")])
    task = data.task(f"wds:{tmp_path}/x.tar")
    assert (task.names, task.classes) == (("cat", "dog"), 2)
    assert "Ignored samples without a picture: 1." in task.notes


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("1.png", picture(1)), ("2.png", picture(2))], "shards with labels"),
        ([("1.png", picture(1)), ("1.cls", b"1"), ("2.png", picture(2))], "samples without one"),
        ([("1.png", picture(1)), ("1.json", b'{"label": true}')], "a number or a word"),
        ([("1.png", picture(1)), ("1.json", b"[" * 5000)], "labels that can be read"),
        ([("1.png", picture(1)), ("1.cls", b"\xff")], "labels that can be read"),
        ([("1.png", picture(1)), ("1.cls", b"x" * 2**21)], "labels of at most"),
        ([("1.png", b"\x89PNG no picture"), ("1.cls", b"0")], r"readable pictures. Found .*x.tar: 1.png"),
        ([("1.txt", b"text")], "shards with pictures"),
    ],
)
def test_rules_of_shards(tmp_path: Path, files: list[tuple[str, bytes]], said: str) -> None:
    shard(tmp_path / "x.tar", files)
    with pytest.raises(Invalid, match=said):
        data.task(f"wds:{tmp_path}/x.tar")


def test_compressed_foreign_and_truncated_shards_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "gz.tar", samples(0), "w:gz")
    (tmp_path / "text.tar").write_bytes(b"no tar file" * 100)
    shard(tmp_path / "cut.tar", samples(0))
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[:600])
    for name, said in (
        ("gz", "plain tar files"),
        ("text", "plain tar files"),
        ("cut", "should be whole shards|should be plain tar"),
    ):
        with pytest.raises(Invalid, match=said):
            data.task(f"wds:{tmp_path}/{name}.tar")


def test_names_and_links_in_a_shard_lead_nowhere(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        link = tarfile.TarInfo("9.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, content in [("../../up.png", picture(5)), ("../../up.cls", b"0"), *samples(0)]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert data.images(f"wds:{tmp_path}/x.tar").shape == (7, 3, 8, 8)
    assert not (tmp_path.parent.parent / "up.png").exists()


# Reading ahead ----------------------------------------------------------------------------------------------


def test_what_is_read_ahead_comes_in_order_and_not_too_early() -> None:
    done: list[int] = []
    found = ahead(lambda i: done.append(i) or 2 * i, range(20))
    assert next(found) == 0
    assert next(found) == 2
    assert len(done) <= 5
    assert list(found) == [2 * i for i in range(2, 20)]


def test_an_error_while_reading_ahead_is_raised_where_the_batch_is_used() -> None:
    found = ahead(lambda i: 1 // (2 - i), range(9))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)


@pytest.mark.slow
def test_training_on_a_file_gives_the_weights_of_training_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(tmp_path / "x.npz", "u1")
    weights = []
    for held in 10**9, 10:
        monkeypatch.setattr(archives, "HELD", held)
        task = data.task(f"npz:{tmp_path / 'x.npz'}")
        net = build("mlp", task.train.x[:], 2, seed=0)
        history = fit(
            net, *task.train, Training(epochs=2, batch=8), seed=0, outliers=task.test.x, validation=task.test,
            progress=False,
        )  # fmt: skip
        weights.append((net.state_dict(), history[-1]["validation"]))
    (first, accuracy), (second, other) = weights
    assert accuracy == other
    assert all(torch.equal(first[key], second[key]) for key in first)
