"""A model of the user's own with its data, as a victim and a task: sizes, statistics and weights as `protect` takes."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import NamedTuple

from torch import nn

from stealguard import data as sets
from stealguard.auditing.plan import LIKE
from stealguard.auditing.remote import Remote
from stealguard.auditing.victim import Given
from stealguard.data.reading import fitted
from stealguard.errors import Invalid, require
from stealguard.nets import Statistic, build, give, read_weights

STATISTICS = 2**25  # numbers, at most, of the inputs that a net is tried with


class Brought(NamedTuple):
    """What `audit` takes as its victim and its data."""

    victim: Given | Remote | str
    task: sets.Task


def brought(
    model: str | Remote, data: str | None, *, size: int | None = None, fit: str | None = None,
    mean: Statistic | None = None, std: Statistic | None = None,
    weights: str | Path | None = None,
) -> Brought:  # fmt: skip
    """The victim and the task that these words stand for; arguments as those of `protect`.

    Args:
        model: a net where there are statistics or weights: `module:callable`, `timm:NAME`, `torchvision:NAME` or a name
            in `NETS`; else whatever `audit` takes.
        data: the task, which has to be named.

    Raises:
        Invalid: an argument breaks its rule.
    """
    require(data is not None, "data", "given: nothing else tells what the victim's classes are", "none")
    task = sets.task(data, reading=fitted(size, fit, mean))
    if mean is None and std is None and weights is None:
        return Brought(model, task)
    if isinstance(model, Remote):
        raise Invalid("victim", "a net of your own where `mean`, `std` or `weights` are given", f"`{model.name}`")
    state = None if weights is None else read_weights(weights)
    like = task.train.x[: min(LIKE, STATISTICS // math.prod(task.train.x.shape[1:]) + 2)]

    def prepare(net: nn.Module) -> None:
        for note in [] if state is None else give(net, state):
            print(f"data: {note}", file=sys.stderr)

    net = build(model, like, task.classes, seed=0, mean=mean, std=std, prepare=prepare)
    return Brought(Given(net, like.shape[1:], task.classes, names=task.names, name=model), task)
