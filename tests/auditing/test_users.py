"""Benign accuracy: what many users get, each from an account of its own, in an audit as where a release is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from samples import blobs, linear, mlp, noise
from stealguard.attacks import Knockoff
from stealguard.auditing import run as auditing
from stealguard.data import Split
from stealguard.data.inputs import Stored
from stealguard.defenses.base import Defense, Plain
from stealguard.releases.protection import validation_split
from stealguard.results import Row
from stealguard.types import Guard, Scope, State

SHORT = Knockoff(budget=30, training=sg.Training(epochs=1, batch=32))


class Counting(Plain):
    """Answers an account's first forty inputs and refuses more."""

    scope: ClassVar[Scope] = "account"

    def start(self) -> State:
        return {"seen": torch.tensor(0)}

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        left = 40 - int(state["seen"])
        answers = self.answer(outputs, x)
        return (answers[:left], state) if left < len(x) else (answers, {"seen": state["seen"] + len(x)})


@dataclass(frozen=True)
class Brief(Defense):
    """Refuses an account that asks more than forty inputs."""

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        return Counting()


def audit(victim: Any, data: Any, store: Path) -> Row:
    (row,) = sg.audit(
        victim, [SHORT], [noise(50, (16,))], "soft", data=data, clone=linear(16, 3), store=store, progress=False
    )
    return row


def test_an_audit_and_protect_measure_alike_what_users_get(tmp_path: Path) -> None:
    """The test inputs are those that `protect` holds out: 300, of which accounts of a hundred get forty answers."""
    x, y = blobs(3000, (16,), 3)
    held_out = validation_split(Split(Stored(x), y), seed=0)[1]
    data = (x, y, held_out.x[:], held_out.y)
    training = sg.Training(epochs=1, batch=32)
    release = sg.protect(mlp(), data, defense=Brief(), training=training, out=tmp_path / "a", progress=False)
    row, found = audit(release, data, tmp_path / "rows.sqlite"), release.recipe["honest"]
    assert (found["inputs"], found["refused"]) == (300, 0.6)
    assert row.benign_accuracy == found["served"], "refused inputs are wrong in both"
    assert 0.2 < found["served"] <= 0.4
    assert row.victim.metrics["user_queries"] == 100
    assert row.victim.metrics["one_account_accuracy"] <= 40 / 300


def test_rows_follow_from_how_many_inputs_a_user_asks_only_where_accounts_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (*blobs(300, (16,), 3), *blobs(60, (16,), 3, seed=2))
    for defense, differs in (Brief(), True), ("none", False):
        release = sg.protect(mlp(), data, defense=defense, epochs=1, out=tmp_path / str(differs), progress=False)
        row = audit(release, data, tmp_path / "a.sqlite")
        assert ("user_queries" in row.victim.metrics) == differs
        with monkeypatch.context() as patch:
            patch.setattr(auditing, "ACCOUNT", 50)
            assert (audit(release, data, tmp_path / "a.sqlite").key != row.key) == differs
