"""The training loop: seeds, schedules, resuming after SIGKILL to the same bits, and stopping on what is not finite."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from grids import environment
from marked import pretended
from samples import blobs, mlp, noise
from stealguard.data.inputs import Stored
from stealguard.errors import Interrupted, Invalid, NonFiniteLoss
from stealguard.training.augment import AUGMENTATIONS
from stealguard.training.combine import COMBINES
from stealguard.training.loop import SCHEDULES, Training, _Run, correct, fit
from stealguard.training.losses import task_loss
from stealguard.types import Objective

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


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path, keep: str) -> None:
    training = replace(QUICK, epochs=4, augment="crop", keep=keep)

    def run(model: nn.Module, epochs: int, **more: object) -> None:
        def objective(model: nn.Module, batch: sg.types.Batch) -> Mapping[str, Tensor]:
            if len(stops) == epochs * 6:
                raise KeyboardInterrupt
            stops.append(1)
            return model.losses(batch)

        stops: list[int] = []
        x, y = data()
        fit(sg.InI().build(model, x[:2]), x, y, training, seed=3, objective=objective, combine=COMBINES["pcgrad"],
            outliers=noise(64, (1, 8, 8)), validation=data(50), progress=False, **more)  # fmt: skip

    whole, broken = small(dropout=True), small(dropout=True)
    run(whole, 99)
    with pytest.raises(Interrupted, match="stopped after epoch 2 of 4; the same command with `--resume` goes on"):
        run(broken, 2, checkpoint=tmp_path / "c.pt")
    again = small(dropout=True)
    run(again, 99, checkpoint=tmp_path / "c.pt", resume=True)
    assert torch.equal(weights(whole), weights(again))


def long_run(checkpoint: Path, objective: Objective = task_loss) -> Tensor:
    """The weights after six epochs of 25 steps, begun or resumed."""
    model = small(dropout=True)
    fit(model, *data(400), Training(epochs=6, batch=16), seed=0, objective=objective, checkpoint=checkpoint,
        resume=True, progress=False)  # fmt: skip
    return weights(model)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from itertools import count
from pathlib import Path
from typing import Any
import torch
from test_training import long_run
from stealguard.training.losses import task_loss
from stealguard.types import Objective
torch.set_num_threads(1)
step = count()
def dying(model, batch):
    if next(step) == 60:
        os.kill(os.getpid(), signal.SIGKILL)
    return task_loss(model, batch)
long_run(Path({path!r}), dying)
"""


@pytest.mark.thorough
@pytest.mark.slow
def test_a_run_that_was_sigkilled_ends_in_the_same_bits(tmp_path: Path) -> None:
    killed = tmp_path / "killed.pt"
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(killed))
    assert subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == -signal.SIGKILL
    assert len(torch.load(killed, weights_only=True)["history"]) == 2, "killed in the third epoch"
    assert torch.equal(long_run(killed), long_run(tmp_path / "whole.pt"))
    assert [p.name for p in tmp_path.glob(".*")] == [], "no temporary file stays once a run ends well"


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    fit(small(), *data(), QUICK, seed=0, checkpoint=path, progress=False)
    with pytest.raises(Invalid, match="`resume` should be used with the settings, seed and data"):
        fit(small(), *data(), QUICK, seed=1, checkpoint=path, resume=True, progress=False)


OTHERS: dict[str, dict[str, object]] = {
    "epochs 2 -> 3": {"training": replace(QUICK, epochs=3)},
    "seed 0 -> 1": {"seed": 1},
    "precision float32 -> bf16": {"training": replace(QUICK, precision="bf16")},
    r"labels \w{8}... -> \w{8}...": {"y": (data()[1] + 1) % 4},
    r"inputs \w{8}... -> \w{8}...": {"x": data()[0].flip(0)},
    r"outlier inputs None -> \w{8}...": {"outliers": noise(9, (1, 8, 8))},
    r"validation.inputs \w{8}... -> None, validation.labels": {"validation": None},
    r"structure \w{8}... -> \w{8}...": {"model": lambda: small(dropout=True)},
    "defense.name none -> ini, defense.gamma None -> 0.3": {"identity": {"defense": {"name": "ini", "gamma": 0.3}}},
}


@pytest.mark.parametrize("found", OTHERS)
def test_what_differs_from_the_interrupted_run_is_named(tmp_path: Path, found: str) -> None:
    path, (x, y) = tmp_path / "c.pt", data()
    usual = {
        "model": small, "x": x, "y": y, "training": QUICK, "seed": 0, "validation": data(50),
        "identity": {"defense": {"name": "none"}},
    }  # fmt: skip

    def run(model, x: Tensor, y: Tensor, training: Training, **more: object) -> None:
        fit(model(), x, y, training, checkpoint=path, progress=False, **more)

    run(**usual)
    run(**usual, resume=True)
    with pytest.raises(Invalid, match=f"`resume` should be used with .* interrupted run. Found {found}.* in `"):
        run(**usual | OTHERS[found], resume=True)


@pytest.mark.parametrize("damage", [lambda b: b"torn", lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b[:-40]])
def test_a_damaged_checkpoint_is_set_aside_and_training_begins_anew(tmp_path: Path, damage) -> None:
    path, whole, again = tmp_path / "c.pt", small(), small()
    fit(whole, *data(), QUICK, seed=0, checkpoint=path, progress=False)
    path.write_bytes(damage(path.read_bytes()))
    damaged = path.read_bytes()
    with pytest.warns(
        UserWarning, match=r"c.pt` is damaged .*: it is kept as `c.pt.damaged`, and training begins anew"
    ):
        fit(again, *data(), QUICK, seed=0, checkpoint=path, resume=True, progress=False)
    assert torch.equal(weights(whole), weights(again))
    assert (tmp_path / "c.pt.damaged").read_bytes() == damaged
    assert len(torch.load(path, weights_only=True)["history"]) == 2


def test_a_checkpoint_of_another_form_is_damaged(tmp_path: Path) -> None:
    path, model = tmp_path / "c.pt", small()
    fit(small(), *data(), QUICK, seed=0, checkpoint=path, progress=False)
    state = torch.load(path, weights_only=True)
    for broken in ({**state, "identity": "0123"}, {**state, "weights": {}}, {**state, "momenta": [1]}, [state]):
        torch.save(broken, path)
        before = weights(small())
        with pytest.warns(UserWarning, match="is damaged"):
            history = fit(model := small(), *data(), QUICK, seed=0, checkpoint=path, resume=True, progress=False)
        assert len(history) == 2
        assert not torch.equal(weights(model), before)


ILL_TYPED = {
    "identity": ["0123", 3, None, []],
    "history": [{}, {0: 1.0}, "text", None, 2, (1, 2), [1], [{}], [{"epoch": "1"}], [{"epoch": 1, "lr": "fast"}],
                [{"epoch": 2}], [{"epoch": 1}, {"epoch": 2}]],
    "best": [{}, [], "text", None, {"accuracy": "high", "weights": {}}, {"accuracy": 0.5, "weights": [1]},
             {"accuracy": 0.5, "weights": {"bias": 1}}, {"accuracy": 0.5}],
    "weights": [{}, [], "text", None, 1.0, torch.zeros(3)],
    "momenta": [[1], "text", None, 1.0, torch.zeros(3), {"0": torch.zeros(3)}, {99: torch.zeros(3)}, {-1: None}],
}  # fmt: skip


def spoiled(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A checkpoint with one part of another type or shape."""
    for part, values in ILL_TYPED.items():
        for value in values:
            yield {**state, part: value}
    weights = dict(state["weights"])
    name, value = next(iter(weights.items()))
    for other in (value.long(), value[:1], value.tolist(), None):
        yield {**state, "weights": {**weights, name: other}}
    best = {"accuracy": 0.5, "weights": {**weights, name: value[:1]}}
    yield {**state, "best": best}
    for other in ([1.0], value[:1], value.tolist(), None, "text", {"momentum_buffer": value}):
        yield {**state, "momenta": {**state["momenta"], 0: other}}


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_checkpoint_with_a_part_of_another_type_is_damaged(tmp_path: Path, keep: str) -> None:
    """Each part is tried with several wrong types; the training ends as one that had no checkpoint."""
    path, whole, training = tmp_path / "c.pt", small(), replace(QUICK, epochs=1, keep=keep)
    again = {"seed": 0, "validation": data(16), "checkpoint": path, "progress": False}
    told = fit(whole, *data(48), training, **again)
    state = torch.load(path, weights_only=True)
    for broken in spoiled(state):
        torch.save(broken, path)
        with pytest.warns(UserWarning, match="is damaged"):
            history = fit(model := small(), *data(48), training, resume=True, **again)
        assert torch.equal(weights(whole), weights(model))
        assert [epoch["task"] for epoch in history] == [epoch["task"] for epoch in told]


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_sound_checkpoint_is_taken_up(tmp_path: Path, keep: str, momentum: float) -> None:
    path, whole, training = tmp_path / "c.pt", small(), replace(QUICK, keep=keep, momentum=momentum)
    again = {"seed": 0, "validation": data(50), "checkpoint": path, "progress": False}
    told = fit(whole, *data(), training, **again)
    assert fit(model := small(), *data(), training, resume=True, **again) == told  # seconds and all
    assert torch.equal(weights(whole), weights(model))


def test_momenta_are_taken_up_where_the_weights_are() -> None:
    with pretended() as device:
        run = _Run(small().to(device), QUICK)
        run._take({**run._state(), "momenta": {0: torch.ones(run.descent.parameters[0].shape)}})
        assert run.descent.momenta[0].is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_inputs_on_a_gpu_train_as_those_of_the_processor(augment: str) -> None:
    (x, y), training = data(), replace(QUICK, augment=augment)
    clones = [small().cuda(), small().cuda()]
    fit(clones[0], x, y, training, seed=0, outliers=x, progress=False)
    fit(clones[1], x.cuda(), y.cuda(), training, seed=0, outliers=x.cuda(), progress=False)
    torch.testing.assert_close(*map(weights, clones), atol=1e-4, rtol=1e-3)


def test_ctrl_c_without_a_checkpoint_says_nothing_of_resuming() -> None:
    def objective(model: nn.Module, batch: sg.types.Batch) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as told:
        fit(small(), *data(), QUICK, seed=0, objective=objective, progress=False)
    assert not isinstance(told.value, Interrupted)


def test_a_loss_that_is_not_finite_names_term_and_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    path, seen = tmp_path / "c.pt", []

    def objective(model: nn.Module, batch: sg.types.Batch) -> dict[str, Tensor]:
        seen.append(1)
        loss = nn.functional.cross_entropy(model(batch.x), batch.y)
        return {"task": loss, "induction": loss * (float("nan") if len(seen) == 9 else 1)}

    with pytest.raises(NonFiniteLoss, match="Loss `induction` is nan at step 9"):
        fit(small(), *data(), QUICK, seed=0, objective=objective, checkpoint=path, progress=False)
    assert len(torch.load(path, weights_only=True)["history"]) == 1


def test_a_run_stops_before_the_weights_take_a_loss_that_is_not_finite() -> None:
    model = small()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NonFiniteLoss, match=r"Loss `task` is nan at step 1. A smaller `lr` usually mends it."):
        fit(model, torch.full((64, 1, 8, 8), torch.nan), data(64)[1], QUICK, seed=0, progress=False)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_keep_best_ends_with_the_best_validated_weights() -> None:
    model, (x, y), held = small(), data(), data(80)
    history = fit(
        model, x, y, Training(epochs=6, lr=3.0, batch=32, keep="best"), seed=0, validation=held, progress=False
    )
    assert correct(model, *held) == max(record["validation"] for record in history)


def test_outliers_go_through_what_task_inputs_go_through() -> None:
    """Otherwise a black border would mark the task, and benign inputs, which have none, would be taken for outliers."""
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


@pytest.mark.parametrize("rows", [1, 3])
def test_a_batch_of_one_row_passes_batch_normalization(rows: int) -> None:
    model, training = small(), replace(QUICK, batch=1)
    history = fit(model, *data(rows), training, seed=0, outliers=noise(2, (1, 8, 8)), progress=False)
    assert math.isfinite(history[-1]["task"])


def test_inputs_are_read_by_row() -> None:
    """uint8 inputs train as their floats do, and none of them is read but the rows of a batch."""
    x, y = data()
    x = (255 * x).to(torch.uint8)

    class Counted(Stored):
        most = 0

        def rows(self, index: Tensor, /) -> Tensor:
            Counted.most = max(Counted.most, len(index))
            return super().rows(index)

    one, other = small(), small()
    history = fit(one, Counted(x), y, QUICK, seed=0, validation=(Counted(x[:40]), y[:40]), progress=False)
    same = fit(other, x / 255, y, QUICK, seed=0, validation=(x[:40] / 255, y[:40]), progress=False)
    assert torch.equal(weights(one), weights(other))
    assert history[-1]["validation"] == same[-1]["validation"]
    assert Counted.most == 40


def seen(model: nn.Module, training: Training, outliers: Tensor | None = None) -> list[Tensor]:
    """The task inputs and outliers of each step."""
    found: list[Tensor] = []

    def objective(model: nn.Module, batch: sg.types.Batch) -> dict[str, Tensor]:
        found.extend([batch.x] if batch.outliers is None else [batch.x, batch.outliers])
        return {"task": nn.functional.cross_entropy(model(batch.x), batch.y)}

    fit(model, *data(), training, seed=0, objective=objective, outliers=outliers, progress=False)
    return found


def test_what_the_model_draws_shifts_neither_order_nor_augmentation() -> None:
    for training in (QUICK, replace(QUICK, augment="crop-flip")):
        one, other = (seen(small(dropout), training, noise(64, (1, 8, 8))) for dropout in (False, True))
        assert len(one) == 24
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_augmentation_does_not_shift_the_order() -> None:
    moved = seen(small(), replace(QUICK, augment="half-affine"))
    for a, b in zip(seen(small(), QUICK), moved, strict=True):
        assert torch.equal(a[16:], b[16:])
        assert not torch.equal(a[:16], b[:16])


def test_bf16_computes_forward_passes_in_bfloat16_and_keeps_float32_weights() -> None:
    kinds = set()

    def objective(model: nn.Module, batch: sg.types.Batch) -> dict[str, Tensor]:
        logits = model(batch.x)
        kinds.add(logits.dtype)
        return {"task": nn.functional.cross_entropy(logits, batch.y)}

    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        kinds.clear()
        model = small()
        training = replace(QUICK, epochs=4, precision=precision)
        history = fit(model, *data(), training, seed=0, objective=objective, progress=False)
        assert kinds == {dtype}
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert history[-1]["task"] < history[0]["task"]


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
        ("precision", "fp16", "`float32` or `bf16`"),
    ],
)
def test_bad_settings_are_named(field: str, value: object, rule: str) -> None:
    with pytest.raises(Invalid, match=f"`{field}` should be {rule}"):
        replace(QUICK, **{field: value})


def test_best_needs_a_validation_split() -> None:
    with pytest.raises(Invalid, match="`resume` should be left out where no checkpoint is kept"):
        fit(small(), *data(), QUICK, seed=0, resume=True, progress=False)
    with pytest.raises(Invalid, match="`keep` should be `last` without a validation split"):
        fit(small(), *data(), replace(QUICK, keep="best"), seed=0, progress=False)


def test_a_training_needs_inputs() -> None:
    with pytest.raises(Invalid, match=r"`x` should be at least 1 input\. Found none"):
        fit(nn.Linear(3, 3), torch.zeros(0, 3), torch.zeros(0), Training(epochs=1), seed=0, progress=False)
