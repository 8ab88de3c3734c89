"""What an audit says of the victim's answers themselves."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import stealguard as sg
from samples import blobs, nearest, noise, rolled
from stealguard.auditing.utility import milliseconds, utility
from stealguard.boxes.users import everything, served
from stealguard.data.inputs import Stored
from stealguard.errors import Invalid, Refused
from stealguard.results.honest import PoorAnswers
from stealguard.results.metrics import accuracy
from stealguard.types import BlackBox

Answering = Callable[[Tensor], Tensor]


def test_without_a_guard_the_answers_are_the_models_own(ini_release: sg.Release) -> None:
    x, y = blobs(300, seed=2)
    facts = utility(ini_release, everything(ini_release.box, x), Stored(x), y)
    assert facts["top_1_kept"] == 1
    assert facts["distortion"] == 0
    assert 0 < facts["calibration_error"] < 1
    assert min(facts["ms_1"], facts["ms_64"], facts["plain_ms_1"], facts["plain_ms_64"]) > 0


def test_a_guard_that_permutes_answers_is_measured(ini_release: sg.Release) -> None:
    x, y = blobs(300, seed=2)
    own = everything(ini_release.box, x)
    facts = utility(ini_release, own.roll(1, dims=1), Stored(x), y)
    assert facts["top_1_kept"] == 0
    assert facts["distortion"] == pytest.approx((own.roll(1, dims=1) - own).abs().sum(dim=1).mean().item(), rel=1e-5)


def test_an_audit_warns_of_a_victim_that_is_no_better_than_chance(tmp_path: Path) -> None:
    def audit(victim: Answering) -> None:
        given = {"data": (*blobs(90, (16,), 3), *blobs(60, (16,), 3, seed=1)), "store": tmp_path / "rows.sqlite"}
        sg.audit(victim, sg.attacks.Knockoff(budget=20), [noise(20, (16,))], "soft", **given, progress=False)

    with warnings.catch_warnings():
        warnings.simplefilter("error", PoorAnswers)
        audit(nearest)
    for _ in range(2):  # the second one takes all from the store
        with pytest.warns(PoorAnswers, match=r"right on 0.0 % of 60 test inputs, .* the order of the model's classes"):
            audit(rolled)


def test_times_are_per_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that each call of a box moves on: by 4 milliseconds, and by one."""
    now = 0.0

    def asked(seconds: float) -> BlackBox:
        def box(x: Tensor) -> Tensor:
            nonlocal now
            now += seconds
            return torch.full((len(x), 2), 0.5)

        return box

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    ms, plain = milliseconds(asked(0.004), asked(0.001), torch.rand(4, 1), repeats=2)
    assert ms == pytest.approx(1.0)  # 4 ms shared by 4 inputs
    assert plain == pytest.approx(0.25)


def test_an_honest_account_that_is_refused_has_uniform_answers_from_then_on() -> None:
    left = 1500

    def box(x: Tensor) -> Tensor:
        nonlocal left
        if len(x) > left:
            raise Refused("no more", left)
        left -= len(x)
        return torch.nn.functional.one_hot(torch.arange(len(x)) % 4, 4).float()

    answers = everything(box, torch.rand(4000, 2))
    assert answers.shape == (4000, 4)
    assert (answers[:1500].amax(dim=1) == 1).all()
    assert (answers[1500:] == 0.25).all()


def test_an_honest_account_that_is_refused_at_once_has_uniform_answers() -> None:
    def box(x: Tensor) -> Tensor:
        raise Refused("no more", 0)

    assert torch.equal(everything(box, torch.rand(3, 2), 4), torch.full((3, 4), 0.25))
    with pytest.raises(Invalid, match="`classes` should be given for a box that refuses the first input"):
        everything(box, torch.rand(3, 2))


def test_each_user_has_an_account_and_what_is_refused_is_wrong() -> None:
    asked: dict[str, int] = {}

    def connect(account: str) -> BlackBox:
        def box(x: Tensor) -> Tensor:
            left = 40 - asked.get(account, 0)
            if len(x) > left:
                raise Refused("no more", left)
            asked[account] = asked.get(account, 0) + len(x)
            return torch.eye(2)[[0] * len(x)]

        return box

    y = torch.zeros(250, dtype=torch.long)
    assert accuracy(served(connect, torch.rand(250, 2), 2), y) == 120 / 250
    assert asked == {"user 0": 40, "user 1": 40, "user 2": 40}
    refusing = accuracy(served(lambda account: lambda x: refuse(), torch.rand(250, 2), 2), y)
    assert refusing == 0, "a refused input is no right answer, though its class is the first"


def refuse() -> Tensor:
    raise Refused("no more", 0)
