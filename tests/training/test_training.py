"""The loop: seeds, schedules, resuming after SIGKILL to the same bits, and stopping on what is not finite."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from samples import blobs, mlp, noise
from stealguard.errors import Invalid, NonFiniteLoss
from stealguard.training.combine import COMBINES
from stealguard.training.loop import SCHEDULES, Training, correct, fit

QUICK = Training(epochs=2, batch=32)


def small(dropout: bool = False) -> nn.Module:
    torch.manual_seed(0)
    middle = [nn.Dropout(0.3)] if dropout else []
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), *middle, nn.Linear(16, 4))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


def data(n: int = 200) -> tuple[Tensor, Tensor]:
    return blobs(n, (1, 8, 8), 4)


def test_it_learns_and_reports_each_epoch() -> None:
    model, (x, y) = small(), data(400)
    history = fit(model, x, y, replace(QUICK, epochs=4), seed=0, validation=data(100), progress=False)
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert history[-1]["task"] < history[0]["task"]
    assert history[-1]["validation"] == correct(model, *data(100)) > 0.9
    assert not model.training


def test_soft_labels_train_like_hard_ones() -> None:
    one, other, (x, y) = small(), small(), data()
    fit(one, x, y, QUICK, seed=0, progress=False)
    fit(other, x, nn.functional.one_hot(y, 4).float(), QUICK, seed=0, progress=False)
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-4, atol=1e-5)


def test_the_seed_decides_everything() -> None:
    x, y = data()
    runs = []
    for seed in (0, 0, 1):
        model = small(dropout=True)
        torch.manual_seed(len(runs))  # what the caller drew before is no matter
        fit(model, x, y, replace(QUICK, augment="crop"), seed=seed, progress=False)
        runs.append(weights(model))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_callers_random_state_is_left_alone() -> None:
    model = small()
    before = torch.get_rng_state()
    fit(model, *data(), QUICK, seed=0, progress=False)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_at_one_and_never_rise_once_warm(name: str) -> None:
    factors = [SCHEDULES[name](done / 300) for done in range(300)]
    if name == "warm-cosine":
        assert factors[:15] == [pytest.approx(done / 15, abs=0.01) for done in range(15)]
        factors = factors[15:]
    assert factors[0] == pytest.approx(1, abs=0.01)
    assert all(a >= b for a, b in itertools.pairwise(factors))
    if name == "step":
        assert factors[::100] == [1, 0.1, pytest.approx(0.01)]


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path, keep: str) -> None:
    training = replace(QUICK, epochs=4, augment="crop", keep=keep)

    def run(model: nn.Module, epochs: int, **more: object) -> None:
        def objective(model: nn.Module, batch: sg.types.Batch) -> dict[str, Tensor]:
            if len(stops) == epochs * 6:
                raise KeyboardInterrupt
            stops.append(1)
            return sg.InI()._losses(model, batch, [surrogate])

        stops: list[int] = []
        surrogate = small().eval()
        fit(model, *data(), training, seed=3, objective=objective, combine=COMBINES["pcgrad"],
            outliers=noise(64, (1, 8, 8)), validation=data(50), progress=False, **more)  # fmt: skip

    whole, broken = small(dropout=True), small(dropout=True)
    run(whole, 99)
    with pytest.raises(KeyboardInterrupt):
        run(broken, 2, checkpoint=tmp_path / "c.pt")
    again = small(dropout=True)
    run(again, 99, checkpoint=tmp_path / "c.pt", resume=True)
    assert torch.equal(weights(whole), weights(again))


KILLED = """
import sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_training import data, small, weights
from stealguard.training.loop import Training, fit
torch.set_num_threads(1)
model = small(dropout=True)
fit(model, *data(2000), Training(epochs=40, batch=16), seed=0, checkpoint=Path({path!r}), resume=True, progress=False)
torch.save(weights(model), {path!r} + ".done")
"""


def test_a_run_that_was_sigkilled_ends_in_the_same_bits(tmp_path: Path) -> None:
    def start(path: Path) -> subprocess.Popen[bytes]:
        code = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
        return subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )

    killed, whole = tmp_path / "killed.pt", tmp_path / "whole.pt"
    process = start(killed)
    while not killed.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    epochs = len(torch.load(killed, weights_only=True)["history"])
    assert 1 <= epochs < 40, "killed in the middle"
    assert start(killed).wait() == start(whole).wait() == 0
    assert torch.equal(torch.load(f"{killed}.done"), torch.load(f"{whole}.done"))
    assert [p.name for p in tmp_path.glob(".*")] == [], "no temporary file stays once a run ends well"


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    fit(small(), *data(), QUICK, seed=0, checkpoint=path, progress=False)
    with pytest.raises(Invalid, match="`resume` should be used with the settings, seed and data"):
        fit(small(), *data(), QUICK, seed=1, checkpoint=path, resume=True, progress=False)
    path.write_bytes(b"torn")
    with pytest.raises(Invalid, match="`resume` should be the path of a checkpoint that can be read"):
        fit(small(), *data(), QUICK, seed=0, checkpoint=path, resume=True, progress=False)


def test_a_loss_that_is_not_finite_names_term_and_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    path, seen = tmp_path / "c.pt", []

    def objective(model: nn.Module, batch: sg.types.Batch) -> dict[str, Tensor]:
        seen.append(1)
        loss = nn.functional.cross_entropy(model(batch.x), batch.y)
        return {"task": loss, "induction": loss * (float("nan") if len(seen) == 9 else 1)}

    with pytest.raises(NonFiniteLoss, match="Loss `induction` is nan at step 9"):
        fit(small(), *data(), QUICK, seed=0, objective=objective, checkpoint=path, progress=False)
    assert len(torch.load(path, weights_only=True)["history"]) == 1


def test_keep_best_ends_with_the_best_validated_weights() -> None:
    model, (x, y), held = small(), data(), data(80)
    history = fit(
        model, x, y, Training(epochs=6, lr=3.0, batch=32, keep="best"), seed=0, validation=held, progress=False
    )
    assert correct(model, *held) == max(record["validation"] for record in history)


def test_outliers_go_through_what_task_inputs_go_through() -> None:
    """Or a black border would mark the task, and honest inputs, which have none, would be taken for outliers."""
    black: list[float] = []

    def objective(model: nn.Module, batch: sg.types.Batch) -> dict[str, Tensor]:
        assert batch.outliers is not None
        black.extend((part == 0).float().mean().item() for part in (batch.x, batch.outliers))
        return {"task": nn.functional.cross_entropy(model(batch.x), batch.y)}

    white = torch.ones(64, 1, 8, 8)
    fit(small(), white, torch.zeros(64).long(), replace(QUICK, augment="crop"), seed=0, objective=objective,
        outliers=white, progress=False)  # fmt: skip
    assert min(black) > 0.2


def test_outliers_come_a_batch_a_step() -> None:
    sizes = []

    def objective(model: nn.Module, batch: sg.types.Batch) -> dict[str, Tensor]:
        assert batch.outliers is not None
        sizes.append((len(batch.x), len(batch.outliers)))
        return {"task": nn.functional.cross_entropy(model(batch.x), batch.y)}

    fit(small(), *data(100), QUICK, seed=0, objective=objective, outliers=noise(5, (1, 8, 8)), progress=False)
    assert sizes == [(32, 32)] * 6


def test_fewer_rows_than_a_batch_are_one_batch() -> None:
    x, y = torch.rand(7, 16), torch.arange(7) % 3
    model = mlp()
    before = weights(model)
    fit(model, x, y, QUICK, seed=0, progress=False)
    assert not torch.equal(before, weights(model))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("epochs", 0, "a whole number of at least 1"),
        ("batch", -1, "a whole number of at least 1"),
        ("lr", float("nan"), "a positive number"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("weight_decay", -1, "at least 0"),
        ("schedule", "cosin", r"one of constant, step, cosine, warm-cosine. Found `cosin` \(did you mean `cosine`\?\)"),
        ("augment", "flip", "one of none, crop"),
        ("keep", "first", "`last` or `best`"),
    ],
)
def test_bad_settings_are_named(field: str, value: object, rule: str) -> None:
    with pytest.raises(Invalid, match=f"`{field}` should be {rule}"):
        replace(QUICK, **{field: value})


def test_best_needs_a_validation_split() -> None:
    with pytest.raises(Invalid, match="`keep` should be `last` without a validation split"):
        fit(small(), *data(), replace(QUICK, keep="best"), seed=0, progress=False)
