"""What a victim's answers are worth to honest users, and how long they take: the facts of a release in every row."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor

from stealguard.boxes.accounts import forgetful
from stealguard.boxes.base import Boxed, ask
from stealguard.data import Split
from stealguard.nets import build
from stealguard.releases.release import Release
from stealguard.results.metrics import agreement, calibration_error, distortion
from stealguard.types import BlackBox

ROUNDS = 7  # of each timing; the median counts


class Answering(TypedDict):
    """The columns of `Row` of the same names."""

    top_1_kept: float
    distortion: float
    calibration_error: float
    ms_1: float
    ms_64: float
    plain_ms_1: float
    plain_ms_64: float


def answering(victim: Release, answers: Tensor, test: Split) -> Answering:
    """What the guard makes of the model's own answers, and the time an answer takes beside a plain net's.

    Args:
        answers: the victim's to `test.x`, (N, K).
    """
    unguarded = everything(Boxed(victim.model, victim.shape), test.x)
    plain, guarded = _plain(victim, test.x), forgetful(victim.box)  # nothing is refused for being asked again
    ms_1, plain_ms_1 = milliseconds(guarded, plain, test.x[:1], repeats=20)
    ms_64, plain_ms_64 = milliseconds(guarded, plain, test.x[:64], repeats=3)
    return {
        "top_1_kept": agreement(answers, unguarded),
        "distortion": distortion(answers, unguarded),
        "calibration_error": calibration_error(answers, test.y),
        "ms_1": ms_1, "ms_64": ms_64, "plain_ms_1": plain_ms_1, "plain_ms_64": plain_ms_64,
    }  # fmt: skip


def everything(box: BlackBox, x: Tensor) -> Tensor:
    """The answers to all of `x`, (N, ...) -> (N, K); uniform rows from where the box refuses on.

    It must answer something first: else nothing tells K.
    """
    answers = torch.cat([answer for _, answer in ask(box, x)])
    k = answers.shape[1]
    return torch.cat([answers, answers.new_full((len(x) - len(answers), k), 1 / k)])


def _plain(victim: Release, like: Tensor) -> BlackBox:
    """An undefended net of the victim's architecture: the protected net itself where it is the user's own."""
    net = victim.recipe["net"]
    named = not net.startswith("given:") and ":" not in net
    model = build(net, like[:2], victim.recipe["classes"], seed=0) if named else victim.defense.plain(victim.model)
    return Boxed(model.to(next(victim.model.parameters()).device), victim.shape)


def milliseconds(box: BlackBox, other: BlackBox, x: Tensor, repeats: int) -> tuple[float, float]:
    """Milliseconds an input of both boxes, asked in turn: the median of `ROUNDS`, each of `repeats` calls."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for times, asked in zip(taken, (box, other), strict=True):
            times.append(_seconds(lambda asked=asked: asked(x), repeats))  # type: ignore[misc]
    first, second = (1000 * statistics.median(times[1:]) / len(x) for times in taken)
    return first, second


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
