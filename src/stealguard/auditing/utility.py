"""What a victim's answers are worth to honest users, and how long they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import torch
from torch import Tensor

from stealguard.auditing.remote import Remote
from stealguard.auditing.victim import Victim, renewed
from stealguard.boxes.base import Boxed, logits
from stealguard.boxes.scaled import Unscaled
from stealguard.boxes.users import BLOCK
from stealguard.data.inputs import Inputs
from stealguard.data.scaling import Scaling
from stealguard.errors import Refused
from stealguard.releases import Release
from stealguard.results.metrics import accuracy, agreement, calibration_error, distortion
from stealguard.types import BlackBox

ROUNDS = 7  # of each timing; the median counts


def utility(victim: Victim, answers: Tensor, x: Inputs, y: Tensor, scaling: Scaling | None = None) -> dict[str, float]:
    """The metrics of a victim's answers, by name; what only a release can tell is left out for others.

    A remote victim is not timed: each of these answers would be paid for, and most of the time be the network's.

    Args:
        answers: the victim's to `x`, (N, K).
        x: the test inputs, (N, *shape) in [0, 1].
        y: their labels, (N,).
        scaling: the units in which the victim takes inputs, if these are not [0, 1].
    """
    found = {"benign_accuracy": accuracy(answers, y), "calibration_error": calibration_error(answers, y)}
    found["test_inputs"] = len(y)
    if isinstance(victim, Remote):
        return found
    accounts, fresh = count(), renewed(victim)

    def guarded(part: Tensor) -> Tensor:  # an account of its own for each request: none is refused for being repeated
        return boxed(fresh, f"timing {next(accounts)}", scaling)(part)

    plain = Boxed(victim.model.net, victim.shape) if isinstance(victim, Release) else guarded
    ms_1, plain_ms_1 = milliseconds(guarded, plain, x[:1], repeats=20)
    ms_64, plain_ms_64 = milliseconds(guarded, plain, x[:64], repeats=3)
    found |= {"ms_1": ms_1, "ms_64": ms_64}
    if isinstance(victim, Release):
        own = logits_of(victim, x).softmax(dim=1)
        found |= {"top_1_kept": agreement(answers, own), "distortion": distortion(answers, own)}
        found |= {"plain_ms_1": plain_ms_1, "plain_ms_64": plain_ms_64}
    return found


def boxed(victim: Victim, account: str, scaling: Scaling | None) -> BlackBox:
    """One account's box, as it looks to an attack, whose inputs are in [0, 1]."""
    box = victim.connect(account)
    return box if scaling is None else Unscaled(box, scaling)


def logits_of(victim: Release, x: Inputs) -> Tensor:
    """The logits of the released model, (N, K), before its guard."""
    return torch.cat([logits(victim.model, x[start : start + BLOCK]) for start in range(0, len(x), BLOCK)])


def milliseconds(box: BlackBox, other: BlackBox, x: Tensor, repeats: int) -> tuple[float, float]:
    """Milliseconds an input of both boxes, asked in turn: the median of `ROUNDS`, each of `repeats` calls.

    A request that is refused counts as one that is answered: the model and the guard have run.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for times, asked in zip(taken, (box, other), strict=True):
            times.append(_seconds(lambda asked=asked: asked(x), repeats))  # type: ignore[misc]
    first, second = (1000 * statistics.median(times[1:]) / len(x) for times in taken)
    return first, second


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        with suppress(Refused):
            call()
    return (time.perf_counter() - start) / repeats
