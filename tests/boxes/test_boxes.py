"""Boxes: what is asked and answered, counted exactly, refused when it breaks a rule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from samples import mlp
from stealguard.boxes.base import CHUNK, Boxed, Labels, Metered, ask
from stealguard.errors import BoxFault, BudgetExhausted, Invalid, Refused


def uniform(x: Tensor) -> Tensor:
    return torch.full((len(x), 4), 0.25)


def test_a_boxed_module_answers_softmax_in_evaluation_mode() -> None:
    net = nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(), mlp()).train()
    x = torch.rand(CHUNK + 3, 16)
    answers = Boxed(net, (16,))(x)
    torch.testing.assert_close(answers, net.eval()(x).softmax(dim=1).detach())
    assert not answers.requires_grad
    assert not net.training


def test_answers_can_be_trained_on() -> None:
    answers = Boxed(mlp(), (16,))(torch.rand(4, 16))
    nn.functional.cross_entropy(mlp()(torch.rand(4, 16)), answers).backward()


@pytest.mark.parametrize(
    ("x", "rule"),
    [
        (torch.rand(2, 15), r"of shape \(N, 16\). Found \(2, 15\)"),
        (torch.rand(16), r"of shape \(N, 16\)"),
        (torch.zeros(0, 16), r"of shape \(N, ...\) with at least one row"),
        (torch.zeros(2, 16, dtype=torch.uint8), "of a floating dtype. Found torch.uint8"),
        (torch.full((2, 16), float("nan")), "free of NaN. Found 32 NaN"),
        (torch.linspace(1.5, 2.5, 32).view(2, 16), r"in \[0, 1\]. Found values from 1.5 to 2.5"),
        (torch.full((2, 16), float("inf")), r"in \[0, 1\]. Found values from inf"),
        ([[0.0] * 16], "a tensor. Found list"),
    ],
)
def test_bad_inputs_are_named(x: Tensor, rule: str) -> None:
    with pytest.raises(Invalid, match=f"`x` should be {rule}"):
        Boxed(mlp(), (16,))(x)


def test_labels_tell_the_top_class_only() -> None:
    box = Labels(lambda x: torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]]))
    assert box(torch.rand(2, 1)).tolist() == [[0, 1, 0], [1, 0, 0]]


@settings(deadline=None)
@given(st.integers(1, 60), st.lists(st.integers(1, 20), max_size=12))
def test_the_meter_counts_what_the_box_answered(budget: int, sizes: list[int]) -> None:
    asked: list[int] = []

    def box(x: Tensor) -> Tensor:
        asked.append(len(x))
        return uniform(x)

    metered = Metered(box, budget)
    for n in sizes:
        if n > metered.left:
            before = list(asked)
            with pytest.raises(BudgetExhausted, match=f"{n} queries asked with {metered.left} of {budget} left"):
                metered(torch.rand(n, 2))
            assert asked == before, "what is refused is not asked"
        else:
            assert len(metered(torch.rand(n, 2))) == n
        assert metered.spent == sum(asked) == budget - metered.left <= budget


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_is_at_least_one(budget: int) -> None:
    with pytest.raises(Invalid, match=f"`budget` should be at least 1. Found {budget}"):
        Metered(uniform, budget)


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (lambda x: uniform(x)[:-1], r"answer 3 inputs with \(3, K\) rows, K at least 2. Found \(2, 4\)"),
        (lambda x: uniform(x)[:, :1], r"K at least 2. Found \(3, 1\)"),
        (lambda x: uniform(x).tolist(), "Found list"),
        (lambda x: uniform(x) * float("nan"), "finite numbers. Found a NaN or an infinity"),
        (lambda x: uniform(x) * 2, "rows on the simplex. Found a least entry 0.5, a row sum 2"),
        (lambda x: uniform(x) + torch.tensor([-0.5, 0.5, 0, 0]), "rows on the simplex. Found a least entry -0.25"),
    ],
)
def test_an_answer_that_is_none_names_the_box(answer, rule: str) -> None:
    with pytest.raises(BoxFault, match=f"`their API` should .*{rule}"):
        Metered(answer, 10, "their API")(torch.rand(3, 2))


def test_ask_goes_through_all_rows_in_chunks() -> None:
    x = torch.rand(2 * CHUNK + 5, 4)
    metered = Metered(lambda x: x / x.sum(dim=1, keepdim=True), len(x))
    rebuilt = torch.empty_like(x)
    for rows, answers in ask(metered, x):
        rebuilt[rows] = answers
    torch.testing.assert_close(rebuilt, x / x.sum(dim=1, keepdim=True))
    assert metered.left == 0


def test_a_linear_victim_is_recovered_from_one_more_soft_answer_than_it_has_inputs() -> None:
    """What soft answers give away: log-probabilities, less their mean, are linear in the input."""
    d, k = 20, 7
    victim = nn.Linear(d, k).double()
    metered = Metered(Boxed(victim, (d,)), d + 1)
    x = torch.rand(d + 1, d, dtype=torch.float64)
    logs = metered(x).log()
    system = torch.cat([x, torch.ones(d + 1, 1, dtype=torch.float64)], dim=1)
    solved = torch.linalg.solve(system, logs - logs.mean(dim=1, keepdim=True))
    whole = torch.cat([victim.weight.T, victim.bias[None]]).detach()
    torch.testing.assert_close(solved, whole - whole.mean(dim=1, keepdim=True), rtol=0, atol=1e-6)
    assert metered.left == 0


class UpTo:
    """Answers n inputs, and refuses what has more than are left of them."""

    def __init__(self, n: int):
        self.left, self.asked = n, 0

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > self.left:
            raise Refused("no more", self.left)
        self.left -= len(x)
        self.asked += len(x)
        return uniform(x)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 60), st.lists(st.integers(1, 20), max_size=12))
def test_a_refusal_ends_the_budget_and_nothing_unanswered_is_counted(n: int, budget: int, sizes: list[int]) -> None:
    box = UpTo(n)
    metered = Metered(box, budget)
    refused = False
    for size in sizes:
        if size <= min(metered.left, n - box.asked):
            assert len(metered(torch.rand(size, 2))) == size
        elif size <= metered.left:
            with pytest.raises(Refused) as refusal:
                metered(torch.rand(size, 2))
            refused = True
            assert refusal.value.left == metered.left == n - box.asked
        else:
            with pytest.raises(Refused if refused else BudgetExhausted):
                metered(torch.rand(size, 2))
        assert metered.spent == box.asked <= budget


@pytest.mark.parametrize("n", [0, 1, 700, CHUNK, CHUNK + 700, 2 * CHUNK + 5])
def test_ask_goes_as_far_as_a_box_that_refuses(n: int) -> None:
    x, box = torch.rand(2 * CHUNK + 5, 4), UpTo(n)
    parts = list(ask(box, x))
    assert sum(len(answers) for _, answers in parts) == box.asked == n
    assert [row for rows, _ in parts for row in range(rows.start, rows.stop)] == list(range(n))
