"""The only training loop: victims and thieves both go through `fit`."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stealguard.errors import Invalid, NonFiniteLoss, pick, require
from stealguard.files import replacing
from stealguard.identity import fingerprint
from stealguard.progress import Tick, bar
from stealguard.seeds import derive, seeded
from stealguard.training.augment import AUGMENTATIONS
from stealguard.training.combine import total
from stealguard.training.losses import task_loss
from stealguard.types import Batch, Combine, Objective

SCHEDULES: dict[str, Callable[[float], float]] = {  # share of the training done, in [0, 1) -> factor on the rate
    "constant": lambda done: 1.0,
    "step": lambda done: 0.1 ** math.floor(3 * done),
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "warm-cosine": lambda done: min(1.0, 20 * done) * (1 + math.cos(math.pi * done)) / 2,
}


@dataclass(frozen=True)
class Training:
    """How to train: SGD and its schedule.

    Args:
        epochs: passes over the task data, at least 1.
        batch: task inputs a step; as many outliers beside them where they are wanted.
        lr, momentum, weight_decay: SGD's.
        schedule: `cosine` to 0, `warm-cosine` (which rises over the first twentieth), `step` (a tenth at each third) or
            `constant`.
        augment: a name in `AUGMENTATIONS`: what task inputs and outliers go through.
        keep: the weights after the `last` epoch, or those `best` on the validation split.
    """

    epochs: int = 10
    batch: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    augment: str = "none"
    keep: Literal["last", "best"] = "last"

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


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    training: Training,
    *,
    seed: int,
    objective: Objective = task_loss,
    combine: Combine = total,
    outliers: Tensor | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    title: str = "training",
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train `model` in place on `x`, (N, ...), and `y`, labels (N,) or rows on the simplex (N, K).

    Every epoch draws from a seed of its own, so that a run resumed from `checkpoint` ends, on a CPU, in the very bits
    of one that was never interrupted.

    Args:
        outliers: inputs (M, ...) of which a batch is drawn for each step's `Batch.outliers`.
        validation: held-out inputs and labels, for each epoch's accuracy and for `keep="best"`.
        checkpoint: file that is replaced after each epoch; with `resume`, training goes on from it if it is there.

    Returns:
        One record an epoch: `epoch`, `lr` at its end, the mean of each named loss, `validation` accuracy, `seconds`.

    Raises:
        NonFiniteLoss: a loss is NaN or infinite; the last checkpoint stays.
        Invalid: `checkpoint` belongs to another training.
    """
    require(training.keep == "last" or validation is not None, "keep", "`last` without a validation split", "`best`")
    run = _Run(model, training, fingerprint([asdict(training), seed, list(x.shape), list(y.shape)]))
    if resume and checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
    steps = max(1, len(x) // training.batch)
    with bar(title, training.epochs * steps, show=progress) as tick:
        for epoch in range(len(run.history), training.epochs):
            start = time.perf_counter()
            with seeded(derive(seed, "epoch", epoch)):
                losses = _epoch(run, x, y, outliers, objective, combine, epoch * steps, tick)
            run.finish({"epoch": epoch + 1, **losses}, validation, start)
            told = {name: value for name, value in run.history[-1].items() if name not in ("epoch", "lr", "seconds")}
            tick((epoch + 1) * steps, " ".join(f"{name} {value:.3g}" for name, value in told.items()))
            if checkpoint is not None:
                run.save(checkpoint)
    if training.keep == "best":
        model.load_state_dict(run.best["weights"])
    model.eval()
    return run.history


def _epoch(
    run: _Run, x: Tensor, y: Tensor, outliers: Tensor | None, objective: Objective, combine: Combine, done: int,
    tick: Tick,
) -> dict[str, float]:  # fmt: skip
    """One pass over the task data in a fresh order; the mean of each loss."""
    model, training = run.model.train(), run.training
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    augment = AUGMENTATIONS[training.augment]
    size = min(training.batch, len(x))
    order = torch.randperm(len(x))[: len(x) // size * size].view(-1, size)
    sums: dict[str, Tensor] = {}
    for step, rows in enumerate(order, start=done):
        rate = training.lr * SCHEDULES[training.schedule](step / (training.epochs * len(order)))
        run.optimizer.param_groups[0]["lr"] = rate
        drawn = None if outliers is None else outliers[torch.randint(len(outliers), (size,))]
        others = None if drawn is None else augment(drawn.to(device))
        batch = Batch(augment(x[rows].to(device)), y[rows].to(device), others)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            losses = objective(model, batch)
        _check_finite(losses, step)
        combine(list(losses.values()), parameters)
        run.optimizer.step()
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0) + loss.detach()
        tick(step + 1, "" if step % 10 else " ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items()))
    return {"lr": rate, **{name: (value / len(order)).item() for name, value in sums.items()}}


def _check_finite(losses: Mapping[str, Tensor], step: int) -> None:
    if not torch.isfinite(torch.stack([loss.detach() for loss in losses.values()])).all():
        name, value = next((n, v.item()) for n, v in losses.items() if not torch.isfinite(v))
        raise NonFiniteLoss(f"Loss `{name}` is {value} at step {step + 1}. A smaller `lr` usually mends it.")


class _Run:
    """What a training carries from epoch to epoch, and can be saved and restored."""

    def __init__(self, model: nn.Module, training: Training, identity: str):
        self.model, self.training, self.identity = model, training, identity
        self.optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay,
        )  # fmt: skip
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {"accuracy": -1.0, "weights": {}}

    def finish(self, record: dict[str, float], validation: tuple[Tensor, Tensor] | None, start: float) -> None:
        """Close an epoch: measure on the validation split, and remember the best weights where they are wanted."""
        if validation is not None:
            record["validation"] = correct(self.model, *validation)
            if self.training.keep == "best" and record["validation"] > self.best["accuracy"]:
                self.best = {"accuracy": record["validation"], "weights": copy.deepcopy(self.model.state_dict())}
        self.history.append({**record, "seconds": time.perf_counter() - start})

    def save(self, path: Path) -> None:
        state = {
            "identity": self.identity, "history": self.history, "best": self.best,
            "weights": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        with replacing(path) as temporary, temporary.open("wb") as file:  # a file, so that a full disk is told as one
            torch.save(state, file)

    def restore(self, path: Path) -> None:
        try:
            state = torch.load(path, weights_only=True, map_location=next(self.model.parameters()).device)
        except Exception as e:
            raise Invalid(
                "resume", "the path of a checkpoint that can be read", f"`{path}` ({type(e).__name__})"
            ) from e
        same = isinstance(state, dict) and state.get("identity") == self.identity
        require(same, "resume", "used with the settings, seed and data of the interrupted run", f"others in `{path}`")
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.best = state["history"], state["best"]


@torch.no_grad()
def correct(model: nn.Module, x: Tensor, y: Tensor, chunk: int = 1024) -> float:
    """The model's accuracy on inputs and labels, in evaluation mode, in [0, 1]."""
    model.eval()
    device = next(model.parameters()).device
    hits = [
        (model(a.to(device)).argmax(dim=1) == b.to(device)).sum()
        for a, b in zip(x.split(chunk), y.split(chunk), strict=True)
    ]
    return torch.stack(hits).sum().item() / len(x)
