"""Several processes share the thefts of one audit."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from samples import linear, noise, task
from stealguard.attacks import Knockoff
from stealguard.auditing.beside import beside, helping
from stealguard.devices import repeatable
from stealguard.errors import Invalid
from stealguard.results import Row
from waiting import until

pytestmark = pytest.mark.slow


def say(folder: Path, number: int) -> None:
    same_bits = torch.are_deterministic_algorithms_enabled()
    held = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    (folder / str(os.getpid())).write_text(f"{number} {torch.get_num_threads()} {helping()} {same_bits} {held}")
    time.sleep(600)


def fail() -> None:
    raise RuntimeError("no room")


@pytest.mark.thorough
def test_the_work_is_called_in_other_processes_which_end_with_the_block(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    with repeatable(), beside(2, say, {"folder": tmp_path, "number": 7}, {"a key": None}):
        assert torch.get_num_threads() == 2
        until(lambda: sum(bool(path.read_text()) for path in tmp_path.iterdir()) == 2)
    assert torch.get_num_threads() == 6
    torch.set_num_threads(before)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"7 2 {'a key': None} True True"}
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert helping() is None
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


@pytest.mark.thorough
def test_a_worker_that_fails_says_so_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    told = ""
    with beside(1, fail, {}, {}):
        while not told.endswith("\n"):
            told += capfd.readouterr().err
    assert told == "A worker has ended: RuntimeError: no room\n"


@dataclass(frozen=True)
class Together(Knockoff):
    """Where `BEGUN` names a file, the first process begins after another one has."""

    def __call__(self, *args: Any, **given: Any) -> Any:
        if begun := os.environ.get("BEGUN"):
            if helping() is None:
                until(Path(begun).exists)
            Path(begun).touch()
        return super().__call__(*args, **given)


def rows_of(store: Path, **more: object) -> list[Row]:
    victim = sg.Given(linear(), shape=(1, 28, 28), classes=10)
    attacks = [Together(budget=n, training=sg.Training(epochs=1)) for n in (60, 70, 80)]
    return sg.audit(
        victim, attacks, [noise(100)], data=task(300), store=store, clone="mlp", progress=False, **more
    )  # fmt: skip


@pytest.mark.long
def test_workers_give_the_rows_that_one_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("stealguard.auditing.owned.SEEN", 100_000)  # its usual value, as in the other processes
    alone = rows_of(tmp_path / "alone.sqlite")
    monkeypatch.setenv("BEGUN", str(tmp_path / "begun"))
    shared = rows_of(tmp_path / "shared.sqlite", workers=3)
    assert [(row.key, row.status, row.metrics) for row in shared] == [
        (row.key, row.status, row.metrics) for row in alone
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.sqlite", "begun", "shared.sqlite"]


@dataclass(frozen=True)
class Failing(Knockoff):
    """The theft of 60 inputs fails at once; any other one waits for the other processes to end first."""

    def __call__(self, *args: Any, **given: Any) -> Any:
        with Path(os.environ["TRIED"]).open("a") as file:
            file.write(f"{self.budget} ")
        if self.budget != 60:
            until(lambda: not multiprocessing.active_children())
        raise ValueError("on purpose")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_a_theft_that_fails_is_tried_once_in_each_audit(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIED", str(tmp_path / "tried"))
    victim = sg.Given(linear(), shape=(1, 28, 28), classes=10)
    for times in (1, 2):
        rows = sg.audit(
            victim, [Failing(budget=n) for n in (60, 70)], [noise(100)], "soft", data=task(300),
            store=tmp_path / "rows.sqlite", clone="mlp", workers=workers, progress=False,
        )  # fmt: skip
        assert [row.status for row in rows] == ["failed", "failed"]
        assert sorted((tmp_path / "tried").read_text().split()) == ["60"] * times + ["70"] * times


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
