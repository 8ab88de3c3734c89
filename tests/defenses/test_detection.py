"""Detectors: queries count one by one, a request with the revealing query is refused, and nothing is examined then."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from stealguard.boxes.accounts import Accounts
from stealguard.defenses.detection import NOT_DETECTED, Detector
from stealguard.errors import Refused
from stealguard.types import State


class Bright(Detector):
    """Detects at the third query whose first value is above one half."""

    def blank(self) -> State:
        return {"bright": torch.tensor(0)}

    def examine(
        self, answers: Tensor, outputs: Mapping[str, Tensor], x: Tensor, state: State
    ) -> tuple[State, int | None]:
        bright = int(state["bright"])
        for i, first in enumerate(x[:, 0].tolist()):
            bright += first > 0.5
            if bright == 3:
                return {"bright": torch.tensor(bright)}, i
        return {"bright": torch.tensor(bright)}, None


def accounts() -> Accounts:
    return Accounts({"logits": nn.Linear(1, 3)}, Bright(), (1,))


def inputs(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def test_a_detector_needs_its_two_methods() -> None:
    with pytest.raises(TypeError, match="blank"):
        Detector()  # type: ignore[abstract]


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [2, 3, 2], [4, 3]])
def test_queries_count_one_by_one_in_every_batch(sizes: list[int]) -> None:
    box, x, answered = accounts().connect("a"), inputs(0.9, 0.1, 0.9, 0.1, 0.1, 0.9, 0.9), 0
    for part in x.split(sizes):
        try:
            answered += len(box(part))
        except Refused as refusal:
            answered += refusal.left
            break
    assert answered == 5


def test_a_refused_account_gets_no_more_answers_than_it_had_left() -> None:
    known = accounts()
    box = known.connect("a")
    box(inputs(0.9, 0.9))
    with pytest.raises(Refused) as refusal:
        box(inputs(0.1, 0.2, 0.9, 0.1))
    assert refusal.value.left == 2, "two queries come before the one that reveals the attacker"
    with pytest.raises(Refused) as refusal:
        box(inputs(0.1, 0.1, 0.1))
    assert refusal.value.left == 2, "a refused request takes none of them"
    seen = known.state("a")["bright"]
    assert len(box(inputs(0.9))) == 1, "any query is answered, and none examined"
    assert torch.equal(known.state("a")["bright"], seen)
    assert len(box(inputs(0.9))) == 1
    with pytest.raises(Refused) as refusal:
        box(inputs(0.1))
    assert refusal.value.left == 0


def test_a_refused_account_does_not_affect_another() -> None:
    known = accounts()
    with pytest.raises(Refused):
        known.answer("a", inputs(0.9, 0.9, 0.9))
    assert len(known.answer("b", inputs(0.9, 0.9))) == 2
    assert int(known.state("a")["left"]) == 2
    assert int(known.state("b")["left"]) == NOT_DETECTED


def test_answers_are_the_softmax_of_the_logits() -> None:
    guard, logits = Bright(), torch.randn(2, 3)
    answers, _ = guard({"logits": logits}, inputs(0.1, 0.2), guard.start())
    assert torch.equal(answers, logits.softmax(dim=1))
