"""Renaming of a clone's classes: closed forms, and what must be refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stealguard.errors import Invalid
from stealguard.results.metrics import accuracy
from stealguard.results.renaming import best_renaming, renamed_accuracy, renaming

Y = torch.arange(200) % 4


def test_a_permuted_clone_is_perfect_after_the_best_renaming() -> None:
    answers = F.one_hot((Y + 1) % 4, 4).float()
    assert (answers.argmax(dim=1) == Y).sum() == 0
    assert best_renaming(answers, Y) == 1.0


def test_each_class_gets_the_label_that_it_stands_for_most() -> None:
    """A clone that is right up to the names of its classes: 0 -> 1 -> 2 -> 0, and one row of five is wrong."""
    y = torch.tensor([0, 1, 2, 0, 1])
    predicted = torch.tensor([1, 2, 0, 1, 0])
    assert accuracy(torch.eye(4)[predicted], y) == 0
    assert renaming(predicted, y, 4)[1:].tolist() == [0, 1, 3]  # nothing was called 3, which keeps its name
    assert best_renaming(torch.eye(4)[predicted], y) == 0.8


def test_two_classes_may_have_one_name() -> None:
    answers = F.one_hot(torch.tensor([0, 1, 2, 2]), 3).float()
    assert best_renaming(answers, torch.tensor([1, 1, 0, 2])) == 0.75
    assert renaming(torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 0, 2]), 3).tolist() == [1, 1, 2]


def test_a_class_keeps_its_name_without_samples_and_in_a_tie() -> None:
    assert renaming(torch.tensor([0, 0]), torch.tensor([0, 1]), 3).tolist() == [0, 1, 2]


def test_the_best_renaming_is_never_below_the_accuracy() -> None:
    answers = torch.rand(200, 4, generator=torch.Generator().manual_seed(1))
    plain = (answers.argmax(dim=1) == Y).double().mean().item()
    assert plain <= best_renaming(answers, Y) <= 1


def test_a_constant_clone_has_the_share_of_the_most_frequent_class() -> None:
    y = torch.tensor([0, 1, 1, 1, 2])
    assert best_renaming(torch.eye(3)[torch.zeros(5, dtype=torch.long)], y) == pytest.approx(0.6)


def test_rows_without_a_preference_are_wrong() -> None:
    answers = torch.cat([torch.full((2, 2), 0.5), torch.eye(2)])
    assert best_renaming(answers, torch.tensor([0, 0, 1, 0])) == 0.5
    assert best_renaming(torch.full((4, 2), 0.5), torch.tensor([0, 1, 0, 1])) == 0


def test_few_samples_rename_a_permuted_clone() -> None:
    answers = F.one_hot((Y + 1) % 4, 4).float()
    assert renamed_accuracy(answers, Y, 50) == 1.0
    one = renamed_accuracy(answers, Y, 1)  # one class of four gets its name: 49 of the other 199 rows
    assert one == pytest.approx(49 / 199)
    assert one < renamed_accuracy(answers, Y, 6) <= 1.0


def test_a_right_clone_stays_right() -> None:
    for n in (1, 20):
        assert renamed_accuracy(F.one_hot(Y, 4).float(), Y, n) == 1.0


def test_it_is_the_median_over_draws_that_follow_from_the_seed() -> None:
    answers = F.one_hot((Y + 1) % 4, 4).float()
    same = [renamed_accuracy(answers, Y, 3, seed=s) for s in (0, 0)]
    assert same[0] == same[1]
    single = [renamed_accuracy(answers, Y, 3, draws=1, seed=s) for s in range(8)]
    assert len(set(single)) > 1


@pytest.mark.parametrize(("n", "draws", "name"), [(0, 5, "n"), (200, 5, "n"), (20, 0, "draws")])
def test_numbers_out_of_range_are_named(n: int, draws: int, name: str) -> None:
    with pytest.raises(Invalid, match=f"`{name}`"):
        renamed_accuracy(torch.rand(200, 4), Y, n, draws)
