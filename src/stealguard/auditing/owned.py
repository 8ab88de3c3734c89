"""What an attacker may own: labeled task samples, or labeled inputs near the task; with and without any theft."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stealguard.boxes import Boxed
from stealguard.boxes.users import everything
from stealguard.data import SETS, Split, Task
from stealguard.data import task as task_of
from stealguard.data.inputs import Stored
from stealguard.results.metrics import accuracy
from stealguard.seeds import derive, seeded
from stealguard.training import Training, fit
from stealguard.training.augment import affine

HELD_OUT = 5  # every fifth owned sample is for early stopping
SEEN = 100_000  # samples that a clone without any theft trains on, at most, all epochs together


def owned(train: Split, n: int, *, seed: int) -> Split:
    """`n` samples of the task's training split, drawn by `seed`."""
    order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(derive(seed, "owned")))[:n]
    return Split(Stored(train.x[order]), train.y[order])


def near(x: Tensor, size: int, *, seed: int) -> Tensor:
    """The samples, (n, *shape), then altered copies of them (affine; noisy where no images): (size, *shape)."""
    if size <= len(x):
        return x
    with seeded(derive(seed, "near")):
        copies = x[torch.randint(len(x), (size - len(x),))]
        altered = affine(copies) if x.dim() == 4 else copies + 0.05 * torch.randn_like(copies)
    return torch.cat([x, altered.clamp(0, 1)])


def near_task(pool: str, task: Task) -> Split | None:
    """The inputs of a near-task pool with the labels of the attacker, who made them; None for any other pool.

    Args:
        pool: the name of the pool.
        task: what is attacked; a pool of other shape, or with another number of classes, is not near it.
    """
    spec = SETS.get(pool)
    if spec is None or spec.role != "near-task":
        return None
    alike = (spec.shape, spec.classes) == (tuple(task.train.x.shape[1:]), task.classes)
    return task_of(pool).train if alike else None


def fine_tuned(clone: nn.Module, own: Split, *, seed: int) -> nn.Module:
    """The clone, trained a little further on what the attacker owns; stopped early on a fifth of it."""
    return _trained(clone, own, epochs=30, lr=0.01, seed=seed)


def no_theft_accuracy(clone: nn.Module, own: Split, test: Split, *, seed: int) -> float:
    """The no-theft accuracy, in [0, 1]: what a fresh clone gets from the owned samples, without any query."""
    alone = _trained(clone, own, epochs=min(100, max(1, SEEN // len(own.x))), lr=0.05, seed=seed)
    return accuracy(everything(Boxed(alone, tuple(test.x.shape[1:])), test.x), test.y)


def _trained(net: nn.Module, own: Split, *, epochs: int, lr: float, seed: int) -> nn.Module:
    held = torch.arange(len(own.x)) % HELD_OUT == HELD_OUT - 1
    x = own.x[:]
    training = Training(
        epochs, batch=32, lr=lr, augment="affine" if x.dim() == 4 else "none", keep="best" if held.any() else "last"
    )
    validation = (x[held], own.y[held]) if held.any() else None
    fit(net, x[~held], own.y[~held], training, seed=seed, validation=validation, progress=False)
    return net
