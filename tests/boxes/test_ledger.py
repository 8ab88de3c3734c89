"""Journals: what was answered once is not asked again, torn ends are dropped, and other questions start anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stealguard.boxes.ledger import Journal


class Counting:
    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return torch.cat([x, 1 - x], dim=1)


QUESTIONS = [torch.rand(n, 1, generator=torch.Generator().manual_seed(n)) for n in (3, 1, 5)]


def ask(path: Path, questions: list[Tensor] = QUESTIONS, discard: bool = False) -> tuple[list[Tensor], int]:
    box = Counting()
    journal = Journal(box, path)
    answers = [journal(x) for x in questions]
    journal.close(discard=discard)
    return answers, box.asked


def test_a_second_run_asks_nothing_and_hears_the_same(tmp_path: Path) -> None:
    first, asked = ask(tmp_path / "j")
    again, none = ask(tmp_path / "j")
    assert (asked, none) == (9, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_longer_run_asks_what_is_new(tmp_path: Path) -> None:
    ask(tmp_path / "j", QUESTIONS[:2])
    assert ask(tmp_path / "j")[1] == 5
    assert ask(tmp_path / "j")[1] == 0


@pytest.mark.parametrize("cut", [1, 30, 70, 75])
def test_a_torn_end_is_asked_again(tmp_path: Path, cut: int) -> None:
    ask(tmp_path / "j")
    os.truncate(tmp_path / "j", (tmp_path / "j").stat().st_size - cut)
    answers, asked = ask(tmp_path / "j")
    assert asked == 5
    assert torch.equal(answers[2], Counting()(QUESTIONS[2]))
    assert ask(tmp_path / "j")[1] == 0


def test_a_changed_answer_is_not_believed(tmp_path: Path) -> None:
    ask(tmp_path / "j")
    spoiled = bytearray((tmp_path / "j").read_bytes())
    spoiled[-1] ^= 1
    (tmp_path / "j").write_bytes(spoiled)
    assert ask(tmp_path / "j")[1] == 5


def test_other_questions_drop_what_follows(tmp_path: Path) -> None:
    ask(tmp_path / "j")
    assert ask(tmp_path / "j", [QUESTIONS[0], QUESTIONS[2]])[1] == 5
    assert ask(tmp_path / "j", [QUESTIONS[0], QUESTIONS[2]])[1] == 0


def test_discarded_once_the_row_is_safe(tmp_path: Path) -> None:
    ask(tmp_path / "deep" / "j", discard=True)
    assert not (tmp_path / "deep" / "j").exists()
