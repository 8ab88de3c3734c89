"""ModelGuard-W against a solver of linear programs; ModelGuard-S against the published rule, answer by answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.modelguard_lp import solved
from torch import Tensor, nn

from samples import told
from stealguard.boxes.accounts import Accounts, LocalStates
from stealguard.defenses import ModelGuardS, ModelGuardW
from stealguard.defenses.modelguard import SMALLEST, Quantized, least_likely
from stealguard.errors import Invalid
from stealguard.types import State


def rows(n: int, classes: int, scale: float, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(n, classes, generator=draw, dtype=torch.float64)).softmax(dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.05, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("classes", [2, 3, 10, 30])
def test_w_solves_the_linear_program(classes: int, eps: float) -> None:
    y = torch.cat([rows(6, classes, scale) for scale in (0.3, 3.0, 12.0)])
    y[0] = torch.eye(classes, dtype=torch.float64)[-1]
    y[1] = 1 / classes
    y[2, :2] = y[2, :2].mean()
    found = least_likely(y, eps)
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(y), dtype=torch.float64))
    assert ((found - y).abs().sum(dim=1) <= eps + 1e-9).all()
    assert (found.amax(dim=1) <= found.gather(1, y.argmax(dim=1, keepdim=True))[:, 0] + 1e-12).all()
    for row, value in zip(y.numpy(), (found * (y + SMALLEST).log()).sum(dim=1), strict=True):
        expected = np.log(row + SMALLEST) @ solved(row, eps)
        assert value.item() == pytest.approx(expected, abs=1e-6)


def test_w_by_hand() -> None:
    y = torch.tensor([[0.8, 0.15, 0.05]], dtype=torch.float64)
    torch.testing.assert_close(least_likely(y, 0.4), torch.tensor([[0.6, 0.15, 0.25]], dtype=torch.float64))
    torch.testing.assert_close(least_likely(y, 2.0), torch.full_like(y, 1 / 3))
    y = torch.tensor([[0.7, 0.3, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(least_likely(y, 2.0), torch.tensor([[0.5, 0, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(least_likely(y, 0.0), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.3, 2.0])
def test_w_keeps_the_top_class(eps: float, dtype: torch.dtype) -> None:
    y = torch.cat([rows(100, 100, scale) for scale in (0.001, 0.3, 3.0, 30.0)]).to(dtype)
    y[:20, 3:5] = y[:20].amax(dim=1, keepdim=True)
    y = y / y.sum(dim=1, keepdim=True)
    assert torch.equal(told(ModelGuardW(eps), y).argmax(dim=1), y.argmax(dim=1))


def one_by_one(y: Tensor, eps: float, capacity: int) -> tuple[list[Tensor], list[Tensor]]:
    """The published rule while there is room: answers, and the book."""
    book: list[Tensor] = []
    told = []
    for row in y:
        near = [w for w in book if w.argmax() == row.argmax() and (w - row).abs().sum() <= eps]
        if not near and len(book) < capacity:
            book.append(row)
            near = [row]
        told.append(near[0] if near else row)
    return told, book


def quantized(settings: ModelGuardS, y: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """What is answered in the place of `y`, and what is remembered then."""
    guard = Quantized(settings)
    return guard({"logits": y.log()}, y, guard.start() if state is None else state)


@pytest.mark.parametrize("size", [1, 7, 200])
def test_s_is_the_published_rule_row_after_row_in_every_batch(size: int) -> None:
    y, settings, state = rows(200, 5, 3.0), ModelGuardS(0.5, 1000), None
    expected, book = one_by_one(y, 0.5, 1000)
    found = []
    for part in y.split(size):
        answers, state = quantized(settings, part, state)
        found.append(answers)
    torch.testing.assert_close(torch.cat(found), torch.stack(expected))
    assert state is not None
    torch.testing.assert_close(state["codewords"], torch.stack(book))
    assert 5 < len(book) < 100
    torch.testing.assert_close(quantized(settings, y, state)[0], torch.stack(expected))  # the same once more


def test_s_is_bounded_and_keeps_its_budget_when_full() -> None:
    y = rows(500, 20, 2.0)
    found, state = quantized(ModelGuardS(0.3, 12), y)
    assert state["codewords"].shape == (12, 20)
    assert ((found - y).abs().sum(dim=1) <= 0.3 + 1e-9).all()
    assert torch.equal(found.argmax(dim=1), y.argmax(dim=1))
    known = set(state["codewords"].argmax(dim=1).tolist())
    others = torch.tensor([c not in known for c in y.argmax(dim=1).tolist()])
    assert others.any()
    torch.testing.assert_close(found[others], y[others], rtol=0, atol=1e-15)
    assert not torch.allclose(found[~others], y[~others])


def test_s_continues_from_its_state() -> None:
    y, more = rows(60, 6, 2.0), rows(60, 6, 2.0, seed=1)
    settings = ModelGuardS(eps=0.6, codewords=40)
    _, state = quantized(settings, y)
    answers, after = quantized(settings, more, state)
    together, whole = quantized(settings, torch.cat([y, more]))
    torch.testing.assert_close(answers, together[60:])
    torch.testing.assert_close(after, whole)


def test_s_takes_no_state_that_does_not_fit() -> None:
    settings = ModelGuardS(0.6, 2)
    with pytest.raises(Invalid, match=r"`codewords` \(M, K\), M at most 2. Found \(3, 4\)"):
        quantized(settings, torch.eye(4), {"codewords": torch.zeros(3, 4)})
    with pytest.raises(Invalid, match="Found nothing"):
        quantized(settings, torch.eye(4), {})
    assert "1,024" in ModelGuardS().cost.state


def test_codewords_of_other_classes_are_named() -> None:
    with pytest.raises(Invalid, match=r"`codewords` should be of 3 classes, as answers are\. Found 4"):
        quantized(ModelGuardS(), torch.eye(3), {"codewords": torch.eye(4)})


def test_all_accounts_share_one_book_that_outlives_the_process() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6))
    x = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
    model = ModelGuardS(eps=0.5).build(net, x)

    store = dict[str, bytes]()
    states = LocalStates(store)
    accounts = Accounts(model.heads(), model.guard, (4,), states)
    first = accounts.answer("ann", x)
    assert torch.equal(accounts.answer("bob", x.flip(0)).flip(0), first), (
        "bob gets the codewords that ann's queries made"
    )
    states.flush()
    again = Accounts(model.heads(), model.guard, (4,), LocalStates(store))
    assert torch.equal(again.answer("bob", x.flip(0)).flip(0), first)
    assert not torch.equal(Accounts(model.heads(), model.guard, (4,)).answer("bob", x.flip(0)).flip(0), first)


@pytest.mark.slow
def test_w_computes_the_same_operations_for_every_answer() -> None:
    def operations(y: Tensor) -> list[str]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            least_likely(y, 1.0)
        return [event.name for event in profile.events()]

    sure, flat = torch.eye(10, dtype=torch.float64)[:1], torch.full((1, 10), 0.1, dtype=torch.float64)
    expected = operations(sure)
    for y in (flat, *(rows(1, 10, scale) for scale in (0.1, 3.0, 12.0))):
        assert operations(y) == expected
