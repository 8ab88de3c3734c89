"""Black boxes: their answers, the meter that counts them, and the rules that both sides must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from marked import pretended
from samples import mlp
from stealguard.boxes import Boxed, Labels, Metered, Rewritten, ask, check_answers
from stealguard.boxes.base import CHUNK, in_chunks, logits
from stealguard.boxes.scaled import Scaled
from stealguard.data.scaling import Scaling
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


@pytest.mark.parametrize("kind", ["float32", "float64", ">f4"])
def test_a_box_takes_arrays_of_floats_as_tensors(kind: str) -> None:
    box = Boxed(mlp(), (16,))
    x = np.random.default_rng(0).random((5, 16), "f").astype(kind)[::-1]
    x.flags.writeable = False
    expected = box(torch.from_numpy(x.astype("f")))
    torch.testing.assert_close(box(x), expected, rtol=0, atol=0)  # type: ignore[arg-type]
    scaling = Scaling((0.0,), (1.0,))
    torch.testing.assert_close(Scaled(box, scaling)(x), expected)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match=r"of NumPy's floats\. Found ndarray"):
        box((255 * x).astype("uint8"))  # type: ignore[arg-type]


def test_a_module_is_asked_fewer_large_inputs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stealguard.boxes.base.NUMBERS", 100)
    net, sizes = mlp(), list[int]()
    net.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    x = torch.rand(20, 16)
    together = logits(net, x)
    assert sizes == [6, 6, 6, 2]
    torch.testing.assert_close(together, net(x).detach())
    assert [len(part) for part in in_chunks(torch.rand(2, 1000))] == [1, 1]
    assert [len(part) for part in in_chunks(torch.rand(0, 16))] == [0]


def test_answers_are_where_the_inputs_are_wherever_the_box_computes_them() -> None:
    with pretended() as device:
        assert Metered(lambda x: uniform(x).to(device), 5)(torch.rand(3, 16)).device.type == "cpu"
        assert Metered(lambda x: uniform(x.cpu()), 5)(torch.rand(3, 16).to(device)).is_meta


def test_a_clone_can_be_trained_on_the_answers() -> None:
    victim, clone = mlp(), mlp()
    answers = Boxed(victim, (16,))(torch.rand(4, 16))
    nn.functional.cross_entropy(clone(torch.rand(4, 16)), answers).backward()
    assert all(p.grad is not None and p.grad.any() for p in clone.parameters())
    assert [p.grad for p in victim.parameters()] == [None] * 4


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
        ([[0.0] * 16], "a tensor or an array of NumPy's floats. Found list"),
    ],
)
def test_bad_inputs_are_named(x: Tensor, rule: str) -> None:
    with pytest.raises(Invalid, match=f"`x` should be {rule}"):
        Boxed(mlp(), (16,))(x)


@pytest.mark.parametrize("asked", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_inputs_and_weights_of_any_floating_dtype_are_taken(asked: torch.dtype, weights: torch.dtype) -> None:
    x, net = torch.rand(50, 16).to(asked), mlp(classes=40).to(weights)
    answers = Metered(Boxed(net, (16,)), 50)(x)
    assert answers.dtype == (torch.float64 if weights == torch.float64 else torch.float32)
    torch.testing.assert_close(answers.sum(dim=1), torch.ones(50, dtype=answers.dtype))
    torch.testing.assert_close(answers.float(), net.float()(x.float()).softmax(dim=1), rtol=0, atol=1e-3)


def test_a_labels_box_answers_the_most_probable_class_only() -> None:
    box = Labels(lambda x: torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]]))
    assert box(torch.rand(2, 1)).tolist() == [[0, 1, 0], [1, 0, 0]]


@given(st.integers(1, 60), st.lists(st.integers(1, 20), max_size=12))
def test_the_meter_counts_the_answered_inputs(budget: int, sizes: list[int]) -> None:
    asked: list[int] = []

    def box(x: Tensor) -> Tensor:
        asked.append(len(x))
        return uniform(x)

    metered = Metered(box, budget)
    for n in sizes:
        if n > metered.left:
            before = list(asked)
            with pytest.raises(BudgetExhausted, match=f"{n} quer.* asked with {metered.left} of {budget} left"):
                metered(torch.rand(n, 2))
            assert asked == before, "the box is not asked past the budget"
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
def test_an_answer_that_breaks_a_rule_names_the_box(answer, rule: str) -> None:
    with pytest.raises(BoxFault, match=f"`their API` should .*{rule}"):
        Metered(answer, 10, "their API")(torch.rand(3, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_answers_of_half_precision_are_made_exact(dtype: torch.dtype) -> None:
    exact = (3 * torch.randn(200, 1000, generator=torch.Generator().manual_seed(0))).softmax(dim=1)
    answers = check_answers(exact.to(dtype), 200, "box")
    assert answers.dtype == torch.float32
    torch.testing.assert_close(answers.sum(dim=1), torch.ones(200))
    torch.testing.assert_close(answers, exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    with pytest.raises(BoxFault, match="rows on the simplex"):
        check_answers((1.02 * exact).to(dtype), 200, "box")


def test_exact_answers_are_returned_unchanged() -> None:
    for answers in (uniform(torch.rand(3, 1)), uniform(torch.rand(3, 1)).double()):
        assert check_answers(answers, 3, "box", 4) is answers
    assert check_answers(torch.eye(3, dtype=torch.int64), 3, "box").tolist() == torch.eye(3).tolist()


@pytest.mark.parametrize("classes", [3, 5])
def test_the_number_of_classes_is_checked_where_it_is_known(classes: int) -> None:
    with pytest.raises(BoxFault, match=rf"`API` should answer 2 inputs with \(2, {classes}\) rows. Found \(2, 4\)"):
        check_answers(uniform(torch.rand(2, 1)), 2, "API", classes)


def test_an_error_of_the_box_names_it_and_an_error_of_stealguard_is_kept() -> None:
    def broken(x: Tensor) -> Tensor:
        raise KeyError("token")

    def invalid(x: Tensor) -> Tensor:
        raise Invalid("x", "other", "this")

    with pytest.raises(BoxFault, match=r"`API` should answer. Found KeyError: 'token'"):
        Metered(broken, 3, "API")(torch.rand(2, 2))
    with pytest.raises(Invalid, match="Parameter `x` should be other"):
        Metered(invalid, 3, "API")(torch.rand(2, 2))


def test_a_rewritten_box_answers_by_its_rule() -> None:
    x = torch.tensor([[0.2, 0.8]])
    assert Rewritten(lambda x: x, lambda answers: answers.flip(1))(x).tolist() == x.flip(1).tolist()


def test_ask_goes_through_all_rows_in_chunks() -> None:
    x = torch.rand(2 * CHUNK + 5, 4)
    metered = Metered(lambda x: x / x.sum(dim=1, keepdim=True), len(x))
    rebuilt = torch.empty_like(x)
    for rows, answers in ask(metered, x):
        rebuilt[rows] = answers
    torch.testing.assert_close(rebuilt, x / x.sum(dim=1, keepdim=True))
    assert metered.left == 0


def test_a_linear_victim_is_recovered_from_one_more_soft_answer_than_it_has_inputs() -> None:
    """Logarithms of the answers, minus their mean over the classes, are linear in the input."""
    d, k = 20, 7
    victim = nn.Linear(d, k).double()
    metered = Metered(Boxed(victim, (d,)), d + 1)
    x = torch.rand(d + 1, d)
    logs = metered(x).log()
    system = torch.cat([x.double(), torch.ones(d + 1, 1, dtype=torch.float64)], dim=1)
    solved = torch.linalg.solve(system, logs - logs.mean(dim=1, keepdim=True))
    whole = torch.cat([victim.weight.T, victim.bias[None]]).detach()
    torch.testing.assert_close(solved, whole - whole.mean(dim=1, keepdim=True), rtol=0, atol=1e-6)
    assert metered.left == 0


class UpTo:
    """Answers n inputs, and refuses a question that has more than are left."""

    def __init__(self, n: int):
        self.left, self.asked = n, 0

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > self.left:
            raise Refused("no more", self.left)
        self.left -= len(x)
        self.asked += len(x)
        return uniform(x)


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
