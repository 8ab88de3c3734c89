"""Several processes share the thefts of one audit."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from samples import linear, noise, task
from stealguard.attacks import Knockoff
from stealguard.auditing.beside import beside, helping
from stealguard.errors import Invalid
from stealguard.results import Row
from waiting import until

pytestmark = pytest.mark.slow


def say(folder: Path, number: int) -> None:
    (folder / str(os.getpid())).write_text(f"{number} {torch.get_num_threads()} {helping()}")
    time.sleep(600)


def fail() -> None:
    raise RuntimeError("never told")


def test_the_work_is_called_in_other_processes_which_end_with_the_block(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    with beside(2, say, {"folder": tmp_path, "number": 7}):
        assert torch.get_num_threads() == 2
        until(lambda: sum(bool(path.read_text()) for path in tmp_path.iterdir()) == 2)
    assert torch.get_num_threads() == 6
    torch.set_num_threads(before)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"7 2 True"}
    assert not helping()
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


def test_what_fails_beside_is_left_to_the_process_that_waits(capfd: pytest.CaptureFixture[str]) -> None:
    with beside(1, fail, {}):
        pass
    assert capfd.readouterr().err == ""


def rows_of(store: Path, **more: object) -> list[Row]:
    victim = sg.Given(linear(), shape=(1, 28, 28), classes=10)
    attacks = [Knockoff(budget=n, training=sg.Training(epochs=1)) for n in (60, 70, 80)]
    return sg.audit(
        victim, attacks, [noise(100)], data=task(300), store=store, clone="mlp", progress=False, **more
    )  # fmt: skip


def test_workers_give_the_rows_that_one_process_gives(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    alone = rows_of(tmp_path / "alone.sqlite")
    shared = rows_of(tmp_path / "shared.sqlite", workers=3)
    assert [(row.key, row.status, row.metrics) for row in shared] == [
        (row.key, row.status, row.metrics) for row in alone
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.sqlite", "shared.sqlite"]


class Local(nn.Module):
    """A net that no other process can be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)
        self.act = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layer(x.flatten(1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (0, "`workers` should be a whole number of at least 1"),
        (2, "`workers` should be 1 where an argument cannot be sent"),
    ],
)
def test_a_number_of_workers_that_is_impossible_is_named(tmp_path: Path, workers: int, message: str) -> None:
    victim = sg.Given(Local(), shape=(1, 28, 28), classes=10)
    attacks = [Knockoff(budget=n) for n in (60, 70)]
    with pytest.raises(Invalid, match=message):
        sg.audit(
            victim, attacks, [noise(100)], data=task(100), store=tmp_path / "rows.sqlite", clone="mlp",
            workers=workers, progress=False,
        )  # fmt: skip


def test_victims_are_sent_to_other_processes(tmp_path: Path) -> None:
    x = torch.rand(3, 784)
    given = sg.Given(linear(), shape=(784,), classes=10, names=tuple("abcdefghij"), name="mine")
    again = pickle.loads(pickle.dumps(given))
    assert (again.name, again.shape, again.output, again.identity) == (
        given.name, given.shape, given.output, given.identity
    )  # fmt: skip
    assert torch.equal(again.connect()(x), given.connect()(x))
    release = sg.protect(
        linear(), task(100), outliers=[noise(60)], epochs=1, out=tmp_path / "release", progress=False
    )  # fmt: skip
    sent = pickle.loads(pickle.dumps(release))
    assert torch.equal(sent.box(x.view(3, 1, 28, 28)), release.box(x.view(3, 1, 28, 28)))
