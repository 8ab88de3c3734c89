"""The user's own data: arrays, tensors, Datasets and npz files, and the error for each broken rule."""

from __future__ import annotations

import os
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import write_idx
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from marked import pretended
from stealguard import data
from stealguard.data import Task, datasets, formats
from stealguard.data.archives import KEYS
from stealguard.data.inputs import Stored
from stealguard.data.scaling import Scaling
from stealguard.errors import Invalid


def test_test_inputs_that_were_trained_on_are_told(tmp_path: Path) -> None:
    x, y = torch.rand(40, 5), torch.arange(40) % 2
    told = "3 test inputs are training inputs, too: they tell nothing about new ones."
    assert told in data.task((x[:30], y[:30], x[27:], y[27:])).notes
    assert told in data.task((100 * x[:30], y[:30], 100 * x[27:], y[27:])).notes, "in any unit"
    assert not any("training inputs, too" in note for note in data.task((x, y)).notes)
    split = {"train_x": x[:30], "train_y": y[:30], "test_x": x[27:], "test_y": y[27:]}
    np.savez(tmp_path / "a.npz", **{name: part.numpy() for name, part in split.items()})
    assert told in data.task(f"npz:{tmp_path / 'a.npz'}").notes


def test_of_many_test_inputs_some_are_looked_for_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.own, "LOOKED_FOR", 10)
    x, y = torch.rand(300, 5), torch.arange(300) % 2
    notes = data.task((x[:200], y[:200], x[100:], y[100:])).notes
    assert "5 of 10 test inputs compared are training inputs, too: they tell nothing about new ones." in notes


@pytest.mark.slow
def test_narrow_tables_of_many_rows_are_compared_in_little_time() -> None:
    """Two million rows: a hash of each by itself takes four seconds."""
    x, y = torch.rand(2_000_000, 4), torch.arange(2_000_000) % 2
    parts = Task("a", data.Split(Stored(x), y), data.Split(Stored(x[:2000]), y[:2000]), 2)
    start = time.process_time()
    assert data.own._seen(parts)[0].startswith("2,000 test inputs are training inputs, too")
    assert time.process_time() - start < 2


def four(n: int = 12, m: int = 6, shape: tuple[int, ...] = (5,), classes: int = 3) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    x, z = torch.rand(n, *shape, generator=rng), torch.rand(m, *shape, generator=rng)
    return x, torch.arange(n) % classes, z, torch.arange(m) % classes


@pytest.mark.parametrize("shape", [(5,), (1, 28, 28), (3, 4, 5, 6)])
def test_tensors_of_any_shape(shape: tuple[int, ...]) -> None:
    given = four(shape=shape)
    task = data.task(given)
    assert (task.classes, task.train.x.shape, task.test.y.dtype) == (3, (12, *shape), torch.int64)
    again = data.task(task)
    assert all(torch.equal(a[:], b) for a, b in zip(again.train + again.test, given, strict=True))
    assert task.name == data.label(given) == data.label(task)
    for same in given, task, list(given), (given[:2], given[2:]), tuple(part.numpy() for part in given):
        assert torch.equal(data.images(same)[:], given[0])  # the training inputs, and no test inputs
    assert torch.equal(data.images(given[0])[:], given[0])


def test_inputs_by_row_are_taken_again() -> None:
    x, y, z, w = four()
    task = data.task((x, y, z, w))
    again = data.task((task.train.x, y, task.test.x, w))
    assert torch.equal(again.train.x[:], x)
    assert again.hash == task.hash
    assert torch.equal(data.images(task.train.x)[:], x)
    assert data.label(task.train.x) == data.label(data.task((x.clone(), y, z, w)).train.x)
    assert data.label(task.train.x) != data.label(task.test.x)


def test_tensors_of_another_device_are_read_to_the_processor() -> None:
    given = four()
    here = data.task(given)
    with pretended() as device:
        there = data.task(tuple(part.to(device) for part in given))
        items = data.images(TensorDataset(given[0].to(device)))
    for one, other in ((here.train, there.train), (here.test, there.test)):
        assert torch.equal(one.x[:], other.x[:])
        assert torch.equal(one.y, other.y)
    assert there.hash == here.hash
    assert torch.equal(items[:], given[0])


def test_float64_and_small_integers_are_converted() -> None:
    x, y, z, w = four()
    task = data.task((x.double(), y.to(torch.uint8), z.half(), w.int()))
    assert (task.train.x[:].dtype, task.test.x[:].dtype) == (torch.float32, torch.float32)
    assert task.train.y.dtype == torch.int64
    assert torch.equal(data.task((x.bfloat16(), y, z.bfloat16(), w)).train.x[:], x.bfloat16().float())


def test_labels_of_data_without_a_name_tell_data_apart() -> None:
    x, y, z, w = four()
    words = [
        data.label(x),
        data.label(z),
        data.label((x, y, z, w)),
        data.label(TensorDataset(x)),
        data.label((TensorDataset(x, y), TensorDataset(z, w))),
    ]
    assert len(set(words)) == len(words)
    assert [word.split("-")[0] for word in words] == ["tensors", "tensors", "tensors", "dataset", "dataset"]
    assert data.label(x.clone()) == words[0]
    assert data.label("folder:here") == "folder:here"
    with pytest.raises(Invalid, match="Found list of int, str"):
        data.label([1, "a"])
    with pytest.raises(Invalid, match="Found int"):
        data.label(3)


def changed(position: int, value: Tensor) -> tuple[Tensor, ...]:
    return tuple(value if number == position else part for number, part in enumerate(four()))


NAN = torch.full((12, 5), torch.nan)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (changed(0, four()[0].mul(300)), r"`test_x` .*in the units of the training split.*values from"),
        (changed(0, four()[0].long()), r"`train_x` .*float.*torch.int64"),
        (changed(0, torch.randint(1000, (12, 5))), r"`train_x` .*tokens are not supported.*torch.int64"),
        (changed(0, torch.full((12, 5), torch.inf)), r"`train_x` .*finite.*values from inf"),
        (changed(2, four()[2] - 1), r"`test_x` .*in \[0, 1\].*values from -"),
        (changed(0, NAN), r"`train_x` .*free of NaN. Found 60"),
        (changed(2, torch.zeros(0, 5)), r"`test_x` .*not empty. Found \(0, 5\)"),
        (changed(0, torch.zeros(12)), r"`train_x` .*of shape \(N, ...\)"),
        (changed(2, torch.zeros(6, 4)), r"`test_x` .*of the shape of `train_x`'s inputs, \(5,\). Found \(4,\)"),
        (changed(1, torch.zeros(11).long()), r"`train_y` .*of shape \(12,\). Found \(11,\)"),
        (changed(1, torch.zeros(0).long()), r"`train_y` .*of shape \(12,\). Found \(0,\)"),
        (changed(1, torch.zeros(12)), r"`train_y` .*integer.*torch.float32"),
        (changed(1, torch.arange(12) - 1), r"`train_y` .*in 0"),
        (changed(1, torch.arange(12) % 3 + 1), r"`train_y` .*every class with inputs.*Found labels 1, 2, 3"),
        (changed(1, torch.tensor([0, 1, 255] * 4)), r"`train_y` .*Found labels 0, 1, 255"),
        (changed(1, torch.arange(12) % 3 * 5_000_000), r"`train_y` .*Found labels 0, 5000000, 10000000"),
        (changed(1, np.array(["a", "b", "c"] * 4)), r"`train_y` .*name the words.*Found words such as \['a'\]"),
        (changed(1, torch.zeros(12).long()), r"`train_y` .*at least 2 classes. Found 1"),
        (changed(3, torch.arange(6)), r"`test_y` .*in 0 .. 2. Found labels from 0 to 5"),
        (Task("mine", *data.task(four())[1:3], 2), r"`train_y` .*in 0 .. 1"),
        (four()[:3], r"`data` .*Found tuple of Tensor, Tensor, Tensor"),
        (3, r"`data` .*Found int"),
        ((TensorDataset(four()[0]), TensorDataset(four()[2])), r"`data` .*Found items without y"),
    ],
)
def test_rules_of_tasks(given: Any, said: str) -> None:
    with pytest.raises(Invalid, match=f"Parameter {said}"):
        data.task(given)


@pytest.mark.parametrize(
    "given", [NAN, torch.zeros(3), torch.zeros(0, 3), torch.ones(2, 2).long(), 3, [NAN], (1, 2, 3)]
)
def test_rules_of_images(given: Any) -> None:
    with pytest.raises(Invalid):
        data.images(given)


# --- numbers in units of their own, flags, pixels ------------------------------------------------------------------


def test_a_table_in_raw_units_is_scaled_by_column() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=rng).double() * torch.tensor([1.0, 50.0, 0.0]) + torch.tensor([0.0, 1e9, 7.0])
    y = torch.arange(40) % 2
    task = data.task((x[:30], y[:30], x[30:], y[30:]))
    assert task.scaling is not None
    assert task.scaling.low == tuple(x[:30].amin(dim=0).tolist())
    found = task.train.x[:]
    assert (found.dtype, found.min(), found.max()) == (torch.float32, 0, 1)
    assert torch.allclose(found[:, 1], ((x[:30, 1] - x[:30, 1].min()) / (x[:30, 1].max() - x[:30, 1].min())).float())
    assert not found[:, 2].any()  # a constant column
    assert ((task.test.x[:] >= 0) & (task.test.x[:] <= 1)).all()
    beyond = ((x[30:] < x[:30].amin(dim=0)) | (x[30:] > x[:30].amax(dim=0))).sum().item()
    assert beyond > 0
    assert f"Values of test_x beyond the bounds of the scaling, which are clamped to them: {beyond}." in task.notes
    again = data.task(task)
    assert torch.equal(again.train.x[:], found)
    assert (again.scaling, again.notes, again.hash) == (task.scaling, task.notes, task.hash)
    same = data.task((x[:30], y[:30], x[30:], y[30:]), scaling=Scaling.of(task.scaling.state()))
    assert (same.scaling, same.hash) == (task.scaling, task.hash)
    assert torch.equal(same.test.x[:], task.test.x[:])
    with pytest.raises(Invalid, match=r"in \[0, 1\]"):
        data.images(x)  # a pool in raw units needs the scaling of the task


def test_images_in_raw_units_have_one_pair_of_bounds() -> None:
    x, y, z, w = four(shape=(3, 4, 4))
    task = data.task((4 * x - 2, y, 3.9 * z - 1.9, w))
    assert task.scaling is not None
    assert (task.scaling.low, task.scaling.high) == (((4 * x - 2).min().item(),), ((4 * x - 2).max().item(),))
    assert torch.allclose(task.scaling.raw(task.train.x[:]), 4 * x - 2, atol=1e-6)


def test_data_in_the_unit_range_have_no_scaling() -> None:
    task = data.task(four())
    assert (task.scaling, task.notes) == (None, ())
    x, y, z, w = four()
    clamped = data.task((x, y, z * 1.1, w))  # only the test set leaves [0, 1]
    assert clamped.scaling is not None
    assert clamped.test.x[:].max() <= 1


@pytest.mark.parametrize("kind", ["u1", "?"])
def test_flags_are_zero_and_one(kind: str, tmp_path: Path) -> None:
    x = (four()[0] > 0.5).numpy().astype(kind)
    given = x, four()[1].numpy(), x[:6], four()[3].numpy()
    for task in data.task(given), data.task(saved(tmp_path / "a.npz", **dict(zip(KEYS, given, strict=True)))):
        assert sorted(task.train.x[:].unique().tolist()) == [0, 1]
        assert sorted(task.test.x[:].unique().tolist()) == [0, 1]
        assert task.scaling is None
    assert data.images(x)[:].max() == 1
    assert data.images(np.zeros((2, 3), kind))[:].max() == 0


def test_small_grades_in_uint8_are_scaled_as_numbers_are() -> None:
    x = torch.arange(60).view(12, 5).remainder(7).byte()
    task = data.task((x, four()[1], x[:6], four()[3]))
    assert torch.allclose(task.train.x[:], data.task((x.float(), four()[1], x[:6].float(), four()[3])).train.x[:])
    assert task.train.x[:].max() == 1


def test_pixels_of_the_test_split_are_read_as_those_of_the_training_split() -> None:
    x = torch.arange(12 * 5, dtype=torch.uint8).view(12, 5) * 4
    task = data.task((x, four()[1], x[:6].clamp_max(1), four()[3]))
    assert torch.equal(task.train.x[:], x.float() / 255)
    assert task.test.x[:].max() == torch.tensor(1 / 255)
    with pytest.raises(Invalid, match=r"`test_x` .*numbers in the units of `train_x`. Found pixels"):
        data.task((x.float(), four()[1], x[:6], four()[3]))


def test_arrays_in_any_layout() -> None:
    x, y, z, w = (part.numpy() for part in four())
    x.flags.writeable = False
    task = data.task((x[::-1], y[::-1], z.astype(">f8")[:, ::-1], w.astype(">i2")))
    assert np.array_equal(task.train.x[:], x[::-1])
    assert np.array_equal(task.test.x[:], z[:, ::-1])
    assert np.array_equal(task.train.y, y[::-1])
    assert data.task((x, y[:, None], z, w[:, None])).train.y.tolist() == y.tolist()
    assert data.images(x[:1][::-1]).shape == (1, 5)
    with pytest.raises(Invalid, match=r"an array of numbers. Found datetime64"):
        data.label(x.astype("M8[s]"))
    with pytest.raises(Invalid, match="without masked values"):
        data.task((np.ma.masked_array(x, x > 0.5), y, z, w))
    with pytest.raises(Invalid, match=r"at most 64 bits. Found float128"):
        data.task((x.astype(np.longdouble), y, z, w))


# --- one split, and names of classes -------------------------------------------------------------------------------


def test_inputs_without_a_test_split_are_divided_four_to_one_within_each_class() -> None:
    x = torch.rand(100, 3)
    y = torch.tensor([0] * 50 + [1] * 40 + [2] * 9 + [3])
    task = data.task((x, y), seed=3)
    assert task.train.y.bincount().tolist() == [40, 32, 7, 1]
    assert task.test.y.bincount().tolist() == [10, 8, 2]
    assert task.notes == ("The test set is 20 of 100 inputs, one in five of each class (seed 3).",)
    assert len(torch.unique(torch.cat([task.train.x[:], task.test.x[:]]), dim=0)) == 100
    assert torch.equal(task.test.x[:], data.task((x.numpy(), y.numpy()), seed=3).test.x[:])
    assert not torch.equal(task.test.x[:], data.task((x, y), seed=4).test.x[:])
    assert torch.equal(data.images((x, y), seed=3)[:], task.train.x[:])
    one = data.task(TensorDataset(x, y), seed=3)
    assert torch.equal(one.test.x[:], task.test.x[:])
    assert data.task((x * 9, y), seed=3).scaling is not None
    with pytest.raises(Invalid, match="occurs twice"):
        data.task((x[:4], torch.arange(4)))


def test_classes_name_the_labels_or_say_which_values_there_are() -> None:
    x, y, z, w = four()
    named = data.task((x, y, z, w), classes=["cat", "dog", "eel"])
    assert (named.names, named.classes) == (("cat", "dog", "eel"), 3)
    words = np.array(["cat", "dog", "eel"])
    for given, classes in [
        ((words[y], words[w]), ["cat", "dog", "eel"]),
        ((y + 1, w + 1), [1, 2, 3]),
        ((y * 5_000_000, w * 5_000_000), [0, 5_000_000, 10_000_000]),
    ]:
        task = data.task((x, given[0], z, given[1]), classes=classes)
        assert (task.train.y.tolist(), task.test.y.tolist()) == (y.tolist(), w.tolist())
        assert task.names == tuple(map(str, classes))
    gap = data.task((x, y * 2, z, w * 2), classes=5)
    assert (gap.classes, gap.names) == (5, ())
    assert gap.notes == ("Classes without training inputs: 2 of 5.",)
    assert data.task(named).names == named.names
    assert named.hash != data.task((x, y, z, w)).hash
    for classes, said in [
        (["cat", "cat", "dog"], "different from each other"),
        (["cat", "dog"], r"`train_y` .*in 0 .. 1"),
        ([1, 2, 3], r"`train_y` .*labels of `classes`, 1, 2, 3. Found 0"),
        ("cat", "a number, or a list of names"),
        (1, "at least 2 classes"),
    ]:
        with pytest.raises(Invalid, match=said):
            data.task((x, y, z, w), classes=classes)


def test_the_hash_follows_from_every_value_and_label() -> None:
    x, y, z, w = four()
    task = data.task((x, y, z, w))
    assert task.hash == data.task((x.clone(), y.clone(), z, w)).hash
    other = x.clone()
    other[3, 2] = 0.123
    hashes = {task.hash, data.task((other, y, z, w)).hash, data.task((x, y, z, (w + 1) % 3)).hash}
    assert len(hashes) == 3
    assert data.task((x, y, z, (w + 1) % 3)).train.hash == task.train.hash


# --- Datasets ------------------------------------------------------------------------------------------------------


class Items(Dataset[Any]):
    def __init__(self, *items: Any):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(int, 1)


def test_datasets() -> None:
    x, y, z, w = four()
    task = data.task((TensorDataset(x, y), Items(*[(z[i].numpy(), int(w[i])) for i in range(6)])))
    assert torch.equal(task.test.x[:], z)
    assert torch.equal(task.test.y, w)
    assert torch.equal(data.images((TensorDataset(x, y), TensorDataset(z, w)))[:], x)
    for without in TensorDataset(x, y), TensorDataset(x), Items(*x):
        assert torch.equal(data.images(without)[:], x)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Items(), "Found a Dataset of 0 items"),
        (Endless(), "a Dataset with a length. Found Endless"),
        (Items(Image.new("L", (2, 2))), "give it a transform that makes tensors. Found items of Image"),
        (Items((torch.ones(2), 1, 2)), r"Found items of tuple of Tensor, int, int"),
        (Items(torch.ones(2), torch.ones(3)), r"Found \(2,\) torch.float32 and \(3,\) torch.float32"),
        (Items((torch.ones(2), 1), torch.ones(2)), "all with labels or none"),
    ],
)
def test_rules_of_datasets(given: Any, said: str) -> None:
    with pytest.raises(Invalid, match=said.replace("give it a transform that makes tensors.", ".*")):
        data.images(given)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("a", r"name the words in order with `classes`"),
        (None, "integer labels. Found labels such as None"),
        (0.5, "integer labels. Found labels such as 0.5"),
    ],
)
def test_labels_of_items_that_are_no_integers(label: Any, said: str) -> None:
    x, y, *_ = four()
    with pytest.raises(Invalid, match=said):
        data.task((Items(*[(one, label) for one in x]), TensorDataset(x, y)))


def test_items_in_any_layout_and_streams_with_a_length() -> None:
    x, y, z, w = four()
    arrays = x.numpy()
    test = TensorDataset(z, w)
    for items in [(v[::-1], i) for v, i in zip(arrays, y.tolist(), strict=True)], list(zip(x.flip(1), y, strict=True)):
        assert torch.equal(data.task((Items(*items), test)).train.x[:], x.flip(1))
    big = Items(*[(v.astype(">f4"), np.int16(i)) for v, i in zip(arrays, y.tolist(), strict=True)])
    assert torch.equal(data.task((big, test)).train.x[:], x)
    assert torch.equal(data.task((Stream(x, y), test)).train.x[:], x)
    with pytest.raises(Invalid, match=r"a Dataset of 12 items, as its length says. Found 11"):
        data.task((Stream(x, y[:-1]), test))
    with pytest.raises(Invalid, match=r"an array of numbers. Found object"):
        data.task((Items(*[(v.astype(object), 0) for v in arrays]), test))


class Stream(IterableDataset[Any]):
    """A stream that knows its length."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(self.x, self.y, strict=False))


class Random(Dataset[Any]):
    """Other inputs at every reading, drawn by torch; counts its readings."""

    def __init__(self, n: int = 10):
        self.n, self.read = n, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        self.read += 1
        return torch.rand(4), i % 2


def test_a_random_dataset_is_read_once_and_keeps_its_rows() -> None:
    ours = Random()
    word, x, task = data.label(ours), data.images(ours), data.task((ours, Random()))
    assert ours.read == 10
    assert torch.equal(x[:], task.train.x[:])
    assert torch.equal(x[:], data.images(ours)[:])
    assert word == data.label(ours)
    torch.manual_seed(99)
    assert word == data.label(Random())  # and in another process: it is read under a seed of its own
    read = len(datasets._READ)
    del ours
    assert len(datasets._READ) < read


# --- npz files -----------------------------------------------------------------------------------------------------


def saved(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_npz(tmp_path: Path) -> None:
    x, y, z, w = (part.numpy() for part in four())
    name = saved(tmp_path / "a.npz", train_x=x, train_y=y.astype("u2"), test_x=z.astype(">f8"), test_y=w.astype("u1"))
    task = data.task(name)
    assert task.name == name
    assert np.allclose(task.test.x[:], z)
    assert task.test.y.tolist() == w.tolist()
    mixed = np.round(z * 255).astype(np.uint8)
    assert data.task(saved(tmp_path / "b.npz", train_x=x, train_y=y, test_x=mixed, test_y=w)).test.x[:].max() <= 1


def test_npz_of_inputs_alone(tmp_path: Path) -> None:
    assert data.images(saved(tmp_path / "a.npz", x=np.full((2, 3), 255, np.uint8)))[:].tolist() == [[1.0] * 3] * 2
    with pytest.raises(Invalid, match="a labeled set"):
        data.task(f"npz:{tmp_path / 'a.npz'}")


def test_rules_of_npz(tmp_path: Path) -> None:
    keys = "arrays train_x, train_y, test_x, test_y, or x alone"
    with pytest.raises(Invalid, match=f"{keys}. Found .*nowhere.npz"):
        data.images(f"npz:{tmp_path}/nowhere.npz")
    with pytest.raises(Invalid, match=f"{keys}. Found train_x, y in "):
        data.images(saved(tmp_path / "a.npz", train_x=np.zeros((2, 2)), y=np.zeros(2)))
    with pytest.raises(Invalid, match="pickle"):
        data.images(saved(tmp_path / "b.npz", x=np.array([{}], object)))
    with pytest.raises(Invalid, match=r"an array of numbers. Found <U1"):
        data.images(saved(tmp_path / "c.npz", x=np.array([["a"]])))
    (tmp_path / "d.npz").write_text("nonsense")
    with pytest.raises(Invalid, match=keys):
        data.images(f"npz:{tmp_path}/d.npz")
    np.save(tmp_path / "e.npy", np.zeros((2, 2)))
    with pytest.raises(Invalid, match=keys):
        data.images(f"npz:{tmp_path}/e.npy")
    x, y, z, w = (part.numpy() for part in four())
    name = saved(tmp_path / "f.npz", train_x=x, train_y=y, test_x=z[:, :4], test_y=w)
    for ask in data.images, data.task:
        with pytest.raises(Invalid, match=r"inputs of one shape. Found \(4,\) and \(5,\)"):
            ask(name)


def test_damaged_archives_are_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **dict(zip(KEYS, (part.numpy() for part in four()), strict=True)))
    whole, rng, said = path.read_bytes(), np.random.default_rng(0), []
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.integers(len(content), size=3):
            content[place] = rng.integers(256)
        cut = rng.integers(len(content) // 2, len(content)) if rng.random() < 0.3 else len(content)
        path.write_bytes(bytes(content[:cut]))
        try:
            data.task(f"npz:{path}")
        except Invalid as error:
            said.append(str(error))
    assert len(said) > 100
    assert not any("\n" in one for one in said)


def test_archives_that_would_unpack_to_more_than_they_warrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = saved(tmp_path / "a.npz", x=np.zeros((100, 1000), np.uint8))
    np.savez_compressed(tmp_path / "b.npz", x=np.zeros((100, 1000), np.uint8))
    monkeypatch.setattr(formats, "SMALL", 1000)
    assert len(data.images(name)) == 100  # it is as large as its arrays
    with pytest.raises(Invalid, match=r"100,000 bytes of arrays in [0-9]+ bytes of file"):
        data.images(f"npz:{tmp_path}/b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as file:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000), }"
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n")
    with pytest.raises(Invalid, match="x has another size than its header says"):
        data.images(f"npz:{tmp_path}/c.npz")


def test_paths_that_are_no_names_of_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table").write_text("")
    for given in "bc.csv", "/somewhere/x", "table", "a" * 5000 + "/":
        said = f"`{given}` is not the name of a set. For a file, write `npz:{given}`"
        for ask in data.task, data.images:
            with pytest.raises(Invalid) as caught:
                ask(given)
            assert str(caught.value).startswith(said)
    for given in "npz:", "folder:", "npz:~no-such-user/x", "folder:~no-such-user", "npz:a\0b", f"folder:{'a' * 5000}":
        with pytest.raises(Invalid):
            data.images(given)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_refused_and_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for given in tmp_path / "pipe", Path("/dev/zero"), tmp_path:
        with pytest.raises(Invalid, match="no regular file"):
            data.images(f"npz:{given}")
    with pytest.raises(Invalid, match="a folder"):
        data.images(f"folder:{tmp_path / 'pipe'}")


def test_unlabeled_sets_are_no_task(root: Path, register: Any) -> None:
    from stealguard.data.sets import SETS

    spec = register("digits")
    write_idx(root / "digits" / "raw")
    assert data.task("digits").classes == spec.classes
    assert [name for name, spec in SETS.items() if not spec.labeled][:2] == ["letters", "glyphs"]
