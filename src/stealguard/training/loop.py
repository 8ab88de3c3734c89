"""The only training loop: victims and clones both go through `fit`."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stealguard.data.inputs import Inputs, ahead, as_inputs, chunks
from stealguard.devices import PINNING, device_of
from stealguard.errors import Interrupted, NonFiniteLoss, pick, require
from stealguard.files import opened, replacing, set_aside
from stealguard.identity import tensor_hash
from stealguard.nets import seed_from, structure
from stealguard.progress import Tick, bar
from stealguard.seeds import derive, seeded
from stealguard.settings import recorded
from stealguard.training.augment import AUGMENTATIONS, Augmentation
from stealguard.training.combine import total
from stealguard.training.descent import Descent
from stealguard.training.losses import task_loss
from stealguard.training.ranks import ALONE, Ranks, present
from stealguard.training.sampler import Sampler
from stealguard.training.steps import Step, Steps
from stealguard.types import Batch, Combine, Objective

SCHEDULES: dict[str, Callable[[float], float]] = {  # share of the training done, in [0, 1) -> factor on the rate
    "constant": lambda done: 1.0,
    "step": lambda done: 0.1 ** math.floor(3 * done),
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "warm-cosine": lambda done: min(1.0, 20 * done) * (1 + math.cos(math.pi * done)) / 2,
}

UNREAD, QUEUED = 50, 2**28  # steps, at most, that a GPU may be behind the processor, and bytes of their task inputs


@dataclass(frozen=True)
class Training:
    """How to train: SGD and its schedule.

    Args:
        epochs: passes over the task data, at least 1.
        batch: task inputs a step, and as many outliers where the losses read some.
        lr, momentum, weight_decay: SGD's.
        schedule: `cosine` to 0, `warm-cosine` (which rises over the first twentieth), `step` (a tenth at each third) or
            `constant`.
        augment: a name in `AUGMENTATIONS`: what task inputs and outliers go through.
        keep: the weights after the `last` epoch, or those `best` on the validation split.
        precision: `float32`, or `bf16` for forward passes under autocast to bfloat16. The gradient terms of InI are
            computed in float32 either way. On recent NVIDIA GPUs torch multiplies float32 numbers of convolutions as
            TF32, unless `torch.backends.cudnn.allow_tf32` is off.
        batch_norm: where several processes train together: `per-rank`, each normalizes its own rows, and running
            statistics are averaged after each epoch; or `synchronized`, by the rows of all, as one process does.
    """

    epochs: int = 10
    batch: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    augment: str = "none"
    keep: Literal["last", "best"] = "last"
    precision: Literal["float32", "bf16"] = "float32"
    batch_norm: Literal["per-rank", "synchronized"] = "per-rank"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 1, name, "a whole number of at least 1", value)
        require(self.lr > 0 and math.isfinite(self.lr), "lr", "a positive number", self.lr)
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        pick(SCHEDULES, self.schedule, "schedule")
        pick(AUGMENTATIONS, self.augment, "augment")
        require(self.keep in ("last", "best"), "keep", "`last` or `best`", f"`{self.keep}`")
        require(self.precision in ("float32", "bf16"), "precision", "`float32` or `bf16`", f"`{self.precision}`")
        known = self.batch_norm in ("per-rank", "synchronized")
        require(known, "batch_norm", "`per-rank` or `synchronized`", f"`{self.batch_norm}`")

    def record(self) -> dict[str, Any]:
        """The settings as JSON data; without `batch_norm` where it is the usual one, so that older records agree."""
        settings = recorded(self)
        if self.batch_norm == "per-rank":
            del settings["batch_norm"]
        return settings

    def rate(self, done: float) -> float:
        """The learning rate when the share `done`, in [0, 1), of all steps is done."""
        return self.lr * SCHEDULES[self.schedule](done)


def fit(
    model: nn.Module,
    x: Tensor | Inputs,
    y: Tensor,
    training: Training,
    *,
    seed: int,
    objective: Objective = task_loss,
    combine: Combine = total,
    steady: bool | None = None,
    outliers: Tensor | Inputs | None = None,
    validation: tuple[Tensor | Inputs, Tensor] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    title: str = "training",
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train `model` in place on `x`, (N, ...), and `y`, labels (N,) or rows on the simplex (N, K).

    Every epoch draws from seeds of its own, so that a run resumed from `checkpoint` ends, on a CPU, in the very bits
    of one that was never interrupted. The order of rows, augmentation and what the model draws (dropout) have a seed
    each: none shifts the others.

    In a block of `ranks.joined`, several processes train together, each on its share of every batch's rows. All of them
    return the same, and only the first writes the checkpoint and shows progress.

    Args:
        steady: whether `objective` does the same operations at every step, so that a GPU may replay one that was
            recorded; if None, of the task loss alone.
        outliers: inputs (M, ...) of which a batch is drawn for each step's `Batch.outliers`.
        validation: held-out inputs and labels, for each epoch's accuracy and for `keep="best"`.
        checkpoint: file that is replaced after each epoch; with `resume`, training goes on from it if it is there.
        identity: what the result follows from beside settings, seed, data and the structure of the model: a defense,
            for example. JSON can hold it. A checkpoint with another identity is not resumed.

    Returns:
        One record an epoch: `epoch`, `lr` at its end, the mean of each named loss, `validation` accuracy, `seconds`.

    Raises:
        NonFiniteLoss: a loss is NaN or infinite; the last checkpoint stays.
        Invalid: `checkpoint` belongs to another training, or another process trains something else; the error says
            what differs.
        Interrupted: Ctrl-C, where a checkpoint is kept; the error says how to go on.

    Warns:
        UserWarning: `checkpoint` is damaged: it is set aside, and training begins anew.

    Example:
        >>> x, net = torch.rand(64, 3), nn.Linear(3, 3)
        >>> epochs = sg.fit(net, x, x.argmax(dim=1), sg.Training(epochs=5, lr=0.5), seed=0, progress=False)
        >>> epochs[-1]["task"] < epochs[0]["task"]
        True
    """
    require(training.keep == "last" or validation is not None, "keep", "`last` without a validation split", "`best`")
    require(checkpoint is not None or not resume, "resume", "left out where no checkpoint is kept", resume)
    require(len(x) >= 1, "x", "at least 1 input", "none")
    x, outliers = as_inputs(x), None if outliers is None else as_inputs(outliers)
    run, ranks = _Run(model, training), present()
    if checkpoint is not None or ranks is not ALONE:
        run.identity = _identity(model, x, y, outliers, validation, training, seed, identity or {})
        ranks.agree(run.identity | {"first weights": seed_from(model)}, _differences)
        if resume and checkpoint is not None:
            run.restore(checkpoint, ranks)
    sampler = Sampler(len(x), training.batch, outliers=0 if outliers is None else len(outliers), seed=seed)
    step = Step(model, run.descent, objective, combine, bf16=training.precision == "bf16")
    same = objective is task_loss if steady is None else steady
    steps = Steps(step, steady=same, expected=(training.epochs - len(run.history)) * sampler.steps)
    with (
        bar(title, training.epochs * sampler.steps, show=progress and ranks.first) as tick,
        _resumable(run, checkpoint),
    ):
        for epoch in range(len(run.history), training.epochs):
            start = time.perf_counter()
            batches = _batches(sampler, epoch, x, y, outliers, AUGMENTATIONS[training.augment], device_of(model), seed)
            with (
                seeded(derive(seed, "model", epoch)),
                ranks.sharing(model, synchronized=training.batch_norm == "synchronized"),
            ):
                losses = _epoch(steps, model, training, batches, epoch * sampler.steps, sampler.steps, tick)
            ranks.settle(model)
            run.finish({"epoch": epoch + 1, **losses}, validation, start, ranks)
            told = {name: value for name, value in run.history[-1].items() if name not in ("epoch", "lr", "seconds")}
            tick((epoch + 1) * sampler.steps, _line(told))
            if checkpoint is not None and ranks.first:
                run.save(checkpoint)
    if training.keep == "best":
        model.load_state_dict(run.best["weights"])
    model.eval()
    return run.history


def _identity(
    model: nn.Module, x: Inputs, y: Tensor, outliers: Inputs | None, validation: tuple[Tensor | Inputs, Tensor] | None,
    training: Training, seed: int, more: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """All that the weights at the end follow from, apart from those at the start, which a checkpoint replaces."""
    held = (
        None if validation is None else {"inputs": as_inputs(validation[0]).hash, "labels": tensor_hash(validation[1])}
    )
    return {
        **training.record(),
        "seed": seed,
        "inputs": x.hash,
        "labels": tensor_hash(y),
        "outlier inputs": None if outliers is None else outliers.hash,
        "validation": held,
        "structure": structure(model),
        **more,
    }


@contextmanager
def _resumable(run: _Run, checkpoint: Path | None) -> Iterator[None]:
    """Say upon Ctrl-C how the training can go on."""
    try:
        yield
    except KeyboardInterrupt as e:
        if checkpoint is None:
            raise
        done = len(run.history)
        told = f"stopped after epoch {done} of {run.training.epochs}; the same command with `--resume` goes on"
        raise Interrupted(told if done else "stopped in the first epoch; nothing is kept") from e


def _batches(
    sampler: Sampler, epoch: int, x: Inputs, y: Tensor, outliers: Inputs | None, augment: Augmentation,
    device: torch.device, seed: int,
) -> Iterator[Batch]:  # fmt: skip
    """The batches of an epoch, read by row and augmented, on the model's device.

    What is not in memory is read ahead, while the step before is computed; of several processes each reads its share.
    For a GPU all is read ahead into pinned memory, from which copies wait for nothing; what is on a GPU stays there.
    """
    gpu = device.type == "cuda"
    held = x.held and (outliers is None or outliers.held)
    readers = ALONE if held else present()
    generator = torch.Generator().manual_seed(derive(seed, "augmentation", epoch))

    def ready(found: Tensor) -> Tensor:
        if not gpu or not found.is_cpu:
            return found
        with PINNING:
            return found.pin_memory()

    def rows_of(inputs: Inputs, rows: Tensor) -> Tensor:
        return ready(inputs.rows(readers.share(len(rows)).take(rows)))

    def read(drawn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        rows, others = drawn
        return ready(y[rows.to(y.device)]), rows_of(x, rows), None if outliers is None else rows_of(outliers, others)

    def moved(mine: Tensor, rows: int) -> Tensor:
        return augment(readers.share(rows).join(mine.to(device, non_blocking=True)), generator=generator)

    steps = sampler.epoch(epoch)
    for labels, inputs, drawn in map(read, steps) if held and not gpu else ahead(read, steps):
        others = None if drawn is None else moved(drawn, len(labels))
        yield Batch(moved(inputs, len(labels)), labels.to(device, non_blocking=True), others)


def _epoch(
    step: Steps, model: nn.Module, training: Training, batches: Iterator[Batch], done: int, steps: int, tick: Tick
) -> dict[str, float]:
    """One pass over the task data; the mean of each loss.

    Losses are read from a GPU once in many steps, since each reading waits for it. Until then the processor holds the
    batches that the GPU has not copied yet, so large ones are fewer.
    """
    model.train()
    waits = device_of(model).type == "cpu"
    unread: list[Mapping[str, Tensor]] = []
    values: list[dict[str, float]] = []
    sums: dict[str, float] = {}

    def told(losses: Mapping[str, Tensor]) -> None:
        unread.append(losses)
        if waits or len(unread) >= min(UNREAD, QUEUED // batch.x.nbytes) or i == steps - 1:
            values[:] = _read(unread, done + i + 2 - len(unread))
            for name in losses:
                sums[name] = sums.get(name, 0.0) + sum(value[name] for value in values)
            unread.clear()

    for i, batch in enumerate(batches):
        rate = training.rate((done + i) / (training.epochs * steps))
        step(batch, rate, told)
        tick(done + i + 1, "" if unread or (done + i) % 10 else _line(values[-1]))
    return {"lr": rate, **{name: value / steps for name, value in sums.items()}}


def _read(losses: Sequence[Mapping[str, Tensor]], first: int) -> list[dict[str, float]]:
    """The losses of consecutive steps, of which `first` is the number of the first, as finite numbers."""
    rows = torch.stack([torch.stack(list(step.values())) for step in losses]).tolist()
    values = [dict(zip(losses[0], row, strict=True)) for row in rows]
    for step, value in enumerate(values, start=first):
        for name, loss in value.items():
            if not math.isfinite(loss):
                raise NonFiniteLoss(f"Loss `{name}` is {loss} at step {step}. A smaller `lr` usually mends it.")
    return values


def _line(values: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3g}" for name, value in values.items())


class _Run:
    """What a training carries from epoch to epoch, and can be saved and restored."""

    def __init__(self, model: nn.Module, training: Training):
        self.model, self.training = model, training
        trained = [p for p in model.parameters() if p.requires_grad]
        require(bool(trained), "model", "a module with weights that can be trained", "none")
        self.descent = Descent(trained, training.momentum, training.weight_decay)
        self.identity: dict[str, Any] = {}
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {"accuracy": -1.0, "weights": {}}

    def finish(
        self, record: dict[str, float], validation: tuple[Tensor | Inputs, Tensor] | None, start: float, ranks: Ranks
    ) -> None:
        """Close an epoch: measure on the validation split, and remember the best weights where they are wanted."""
        if validation is not None:
            record["validation"] = correct(self.model, *validation, ranks=ranks)
            if self.training.keep == "best" and record["validation"] > self.best["accuracy"]:
                self.best = {"accuracy": record["validation"], "weights": copy.deepcopy(self.model.state_dict())}
        self.history.append({**record, "seconds": time.perf_counter() - start})

    def save(self, path: Path) -> None:
        with replacing(path) as temporary, temporary.open("wb") as file:  # a file, so that a full disk is told as one
            torch.save({"identity": self.identity, **self._state()}, file)

    def restore(self, path: Path, ranks: Ranks = ALONE) -> None:
        """Take up a checkpoint of the same training, which the first process reads, if it is there."""
        if ranks.first and path.exists():
            self._read(path)
        if ranks is not ALONE:
            self._take(ranks.told(self._state()))

    def _read(self, path: Path) -> None:
        """Take up the checkpoint; set a damaged one aside and stay as it is."""
        before = copy.deepcopy(self._state())
        with opened(path) as file:
            try:
                state = torch.load(file, weights_only=True, map_location=device_of(self.model))
                differing = _differences(state.pop("identity"), self.identity)
                if not differing:
                    self._take(state)
                    self._check(state["weights"])
            except Exception as e:  # a damaged file fails in many ways
                self._take(before)
                message = f"`{path}` is damaged ({type(e).__name__}): it is kept as `{set_aside(path).name}`"
                warnings.warn(f"{message}, and training begins anew.", stacklevel=4)
                return
        rule = "used with the settings, seed and data of the interrupted run"
        require(not differing, "resume", rule, f"{', '.join(differing)} in `{path}`")

    def _state(self) -> dict[str, Any]:
        return {
            "history": self.history, "best": self.best,
            "weights": self.model.state_dict(), "momenta": self.descent.momenta,
        }  # fmt: skip

    def _take(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["weights"])
        parameters = self.descent.parameters  # which, in another process, may be on another GPU
        self.descent.momenta = {n: momentum.to(parameters[n].device) for n, momentum in state["momenta"].items()}
        self.history, self.best = state["history"], state["best"]

    def _check(self, weights: object) -> None:
        """Raise `TypeError` unless these weights and all that was taken up have the form that `_state` gives them."""
        own, momenta = self.model.state_dict(), self.descent.momenta
        best = own if self.history and self.training.keep == "best" else {}
        sound = [
            _alike(weights, own),
            _alike(momenta, {n: p for n, p in enumerate(self.descent.parameters) if n in momenta}),
            isinstance(self.history, list) and len(self.history) <= self.training.epochs,
            *(_is_record(record, epoch) for epoch, record in enumerate(self.history, start=1)),
            _is_number(self.best["accuracy"]),
            _alike(self.best["weights"], best),
        ]
        if not all(sound):
            raise TypeError


def _alike(found: object, own: Mapping[Any, Any]) -> bool:
    """Whether `found` has the names of `own`, and where that holds tensors, tensors of their shapes and dtypes."""
    return (
        isinstance(found, Mapping)
        and found.keys() == own.keys()
        and all(
            isinstance(found[name], Tensor) and (found[name].shape, found[name].dtype) == (held.shape, held.dtype)
            for name, held in own.items()
            if isinstance(held, Tensor)
        )
    )


def _is_record(found: Any, epoch: int) -> bool:
    """Whether `found` is what `fit` records of an epoch: named numbers, its own among them."""
    numbers = isinstance(found, dict) and all(isinstance(name, str) and _is_number(found[name]) for name in found)
    return numbers and found.get("epoch") == epoch


def _is_number(found: object) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, `name found -> wanted` each."""
    before, now = dict(_leaves(dict(found.items()))), dict(_leaves(wanted))
    names = [*now, *(name for name in before if name not in now)]
    return [
        f"{name} {_short(before.get(name))} -> {_short(now.get(name))}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested mappings and lists by their paths."""
    if isinstance(value, Mapping | list | tuple):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in parts:
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _short(value: Any) -> str:
    """A value for an error's line: hashes by their beginning."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:8]}..."


@torch.no_grad()
def correct(model: nn.Module, x: Tensor | Inputs, y: Tensor, chunk: int = 1024, *, ranks: Ranks = ALONE) -> float:
    """The model's accuracy on inputs (N, ...) and labels (N,), in evaluation mode, in [0, 1].

    Of several processes, `ranks`, each asks for its share of the chunks, and all get the accuracy.
    """
    model.eval()
    inputs, device = as_inputs(x), device_of(model)

    def read(rows: Tensor) -> tuple[Tensor, Tensor]:
        return inputs.rows(rows), y[rows.to(y.device)]

    parts = islice(chunks(inputs, chunk), ranks.number, None, ranks.size)
    hits = [
        (model(x.to(device)).argmax(dim=1) == y.to(device)).sum()
        for x, y in (map(read, parts) if inputs.held else ahead(read, parts))
    ]
    found = torch.stack([torch.zeros((), dtype=torch.long, device=device), *hits]).sum()
    return int(ranks.sum([found])[0]) / len(inputs)
