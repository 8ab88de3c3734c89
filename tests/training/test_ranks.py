"""Several processes that train together: real ones, connected by gloo."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import stealguard as sg
from grids import environment
from ranked import CASES, USUAL, chained, drawn, fitted, free_port, started, state, together, trainings
from samples import blobs
from stealguard.cli import main
from stealguard.errors import Invalid
from stealguard.training.combine import COMBINES
from stealguard.training.ranks import ALONE, LOST, _norms, joined, present
from waiting import until

CODE = """
import json, pathlib, torch
torch.set_num_threads(1)
import ranked
print(json.dumps(ranked.everything(pathlib.Path({folder!r}))))
"""


@pytest.fixture(scope="module")
def work(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Where two processes left what they found, and their checkpoints."""

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        for number, output in enumerate(together(CODE.format(folder=str(folder)))):
            (folder / f"{number}.json").write_text(output)

    return once("ranks", make)


@pytest.fixture(scope="module")
def told(work: Path) -> list[dict[str, Any]]:
    """What each of two processes found."""
    return [json.loads((work / f"{number}.json").read_text()) for number in (0, 1)]


def apart(a: list[float], b: list[float]) -> float:
    return float((torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)).abs().max())


@pytest.mark.long
@pytest.mark.thorough
def test_two_processes_have_the_gradients_of_one_on_the_joint_batch(told: list[dict[str, Any]]) -> None:
    """For every trained defense, with and without synchronized batch normalization, and every way to combine."""
    for found in told:
        assert len(found["differences"]) == 2 * len(CASES) * len(COMBINES)
        assert {case: value for case, value in found["differences"].items() if not value <= 1e-9} == {}


@pytest.mark.thorough
def test_two_processes_train_as_one_does(told: list[dict[str, Any]]) -> None:
    """Augmentation, PCGrad's orders, outliers, validation and the best epoch are those of one process."""
    for case, alone in trainings().items():
        assert told[0]["trainings"][case] == told[1]["trainings"][case], "all hold the same bits"
        assert apart(told[0]["trainings"][case], alone) < 1e-9


@pytest.mark.thorough
def test_batch_normalization_per_rank_differs_and_ends_alike(told: list[dict[str, Any]]) -> None:
    assert told[0]["per-rank"] == told[1]["per-rank"]
    assert apart(told[0]["per-rank"], state(fitted(True, USUAL))) > 1e-4


@pytest.mark.thorough
def test_what_two_processes_began_goes_on_in_two_and_in_one(told: list[dict[str, Any]], work: Path) -> None:
    whole, checkpoint = state(fitted(True, USUAL)), work / "alone.pt"
    assert len(torch.load(checkpoint, weights_only=True)["history"]) == 1
    assert apart(state(fitted(True, USUAL, checkpoint=checkpoint)), whole) < 1e-9
    assert len(torch.load(checkpoint, weights_only=True)["history"]) == 2
    assert apart(told[0]["resumed"], whole) < 1e-9
    assert told[0]["resumed"] == told[1]["resumed"]


@pytest.mark.thorough
def test_gradients_pass_shared_nets_in_a_row(told: list[dict[str, Any]]) -> None:
    for found in told:
        assert apart(found["chained"], chained(ALONE)) < 1e-12


@pytest.mark.thorough
def test_dropout_draws_apart_in_each_process_and_shifts_nothing_else(told: list[dict[str, Any]]) -> None:
    (rows, after), same = told[0]["drawn"], told[1]["drawn"]
    assert [rows, after] == same
    assert len({tuple(row) for row in rows}) == 8, "no two rows have the same mask"
    torch.manual_seed(4)
    assert after == torch.rand(()).item() != drawn(ALONE)[1]


@pytest.mark.thorough
def test_processes_that_train_something_else_are_told(told: list[dict[str, Any]]) -> None:
    for found in told:
        assert "Found seed 0 -> 1 from process 0 to process 1." in found["other seed"]
        assert "Found first weights" in found["other net"]
        assert (
            "a row for each input, to be trained by several processes. Found tuple from `Pair`" in found["two tensors"]
        )


def test_one_process_is_alone() -> None:
    with joined() as ranks:
        assert ranks is ALONE is present()
    assert (ranks.number, ranks.size, ranks.first) == (0, 1, True)
    assert ranks.told("a") == "a"


@pytest.mark.parametrize(
    "set_", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two", "RANK": "0"}, {"WORLD_SIZE": "2", "RANK": "2"}]
)
def test_a_number_of_processes_that_torchrun_did_not_set_is_named(
    monkeypatch: pytest.MonkeyPatch, set_: dict[str, str]
) -> None:
    """Other launchers, and notebooks on clusters, set `WORLD_SIZE` too."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Invalid, match="`WORLD_SIZE` should be set by `torchrun`"), joined():
        pytest.fail("Training began.")


def test_alone_batch_norm_changes_neither_result_nor_record() -> None:
    assert "batch_norm" not in sg.Training().record()
    assert sg.Training(batch_norm="synchronized").record()["batch_norm"] == "synchronized"
    with pytest.raises(Invalid, match="`batch_norm` should be `per-rank` or `synchronized`"):
        sg.Training(batch_norm="none")  # type: ignore[arg-type]


class Activated(nn.BatchNorm1d):
    """Batch normalization with an activation, as timm has it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def test_batch_normalization_that_does_more_is_not_synchronized() -> None:
    plain = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm2d(2))
    assert _norms(plain) == list(plain)
    with pytest.raises(Invalid, match=r"`per-rank` for a net .* Found `synchronized` with `Activated`"):
        _norms(nn.Sequential(nn.BatchNorm1d(2), Activated(2)))


# The command ------------------------------------------------------------------------------------------------


def arguments(folder: Path, out: str, epochs: int) -> list[str]:
    """Of `protect`, for a table."""
    x, y = blobs(300, (16,), 3)
    np.savez(folder / "table.npz", train_x=x[:200], train_y=y[:200], test_x=x[200:], test_y=y[200:])
    return [
        "protect", "mlp", f"npz:{folder / 'table.npz'}", "--out", str(folder / out), "--defense", "ini",
        "--epochs", str(epochs), "--train", "batch=16", "--device", "cpu",
    ]  # fmt: skip


def answers(release: sg.Release) -> torch.Tensor:
    return release.box(blobs(50, (16,), 3, seed=7)[0])


CLOSING = """
import atexit, pathlib, sys, torch
threads = lambda: [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
atexit.register(lambda: print(sorted(name for name in threads() if "gloo" in name)))
from stealguard.training.ranks import joined
for last in (False, True):
    try:
        with joined() as ranks:
            import torch.distributed.nn
            ranks.sum([torch.ones(2)])
            assert any("gloo" in name for name in threads())
            assert not (last and {fails})
    except AssertionError:
        print("failed")
"""


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="The threads of a process are listed by Linux.")
@pytest.mark.parametrize("fails", [False, True])
def test_no_thread_of_the_group_is_left_when_a_process_exits(fails: bool) -> None:
    """One that still holds a tensor then would abort the process."""
    for output in together(CLOSING.format(fails=fails)):
        assert output.split("\n") == [*["failed"] * fails, "[]", ""]


@pytest.mark.long
@pytest.mark.thorough
def test_protect_under_torchrun_writes_one_release(tmp_path: Path) -> None:
    several, alone = (arguments(tmp_path, out, 2) for out in ("several", "alone"))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "stealguard"]
    done = subprocess.run([*run, *several], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, "only the first process tells"
    main(alone)
    one, other = sg.load(tmp_path / "several"), sg.load(tmp_path / "alone")
    assert (one.recipe["processes"], other.recipe["processes"]) == (2, 1)
    assert one.recipe["data"] == other.recipe["data"]
    torch.testing.assert_close(answers(one), answers(other), atol=1e-4, rtol=0)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []


LOSING = """
import sys, torch
torch.set_num_threads(1)
from stealguard.training import ranks
ranks.SILENT = 10.0
from stealguard.cli import main
main({arguments!r})
"""


@pytest.mark.long
@pytest.mark.thorough
@pytest.mark.parametrize("lost", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_the_others_and_one_alone_goes_on(tmp_path: Path, lost: signal.Signals) -> None:
    command = arguments(tmp_path, "lost", 30)
    checkpoint, port = tmp_path / "lost.partial" / "checkpoint.pt", free_port()
    first, second = (started(LOSING.format(arguments=command), number, 2, port) for number in (0, 1))
    until(checkpoint.exists, first)
    second.send_signal(lost)
    _, errors = first.communicate(timeout=600)
    second.kill()
    second.communicate()
    assert first.returncode == 2
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert said[0].endswith(f"{LOST}.")
    done = len(torch.load(checkpoint, weights_only=True)["history"])
    assert 1 <= done < 30
    main([*command, "--resume"])
    release = sg.load(tmp_path / "lost")
    assert len(release.recipe["history"]) == 30
