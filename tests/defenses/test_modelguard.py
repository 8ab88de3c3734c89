"""ModelGuard-W against a solver of linear programs; ModelGuard-S against one answer after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.modelguard_lp import solved
from torch import Tensor, nn

from samples import mlp
from stealguard.boxes.accounts import Clients
from stealguard.defenses import ModelGuardS, ModelGuardW
from stealguard.defenses.modelguard import SMALLEST, Quantized, least_likely
from stealguard.errors import Invalid


def rows(n: int, classes: int, scale: float, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(n, classes, generator=draw, dtype=torch.float64)).softmax(dim=1)


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
    assert torch.equal(ModelGuardW(eps).guard(lambda _: y, nn.Identity())(y).argmax(dim=1), y.argmax(dim=1))


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


@pytest.mark.parametrize("size", [1, 7, 200])
def test_s_is_the_published_rule_row_after_row_whatever_the_batch(size: int) -> None:
    y = rows(200, 5, 3.0)
    told, book = one_by_one(y, 0.5, 1000)
    guard = Quantized(lambda x: x, 0.5, 1000)
    torch.testing.assert_close(torch.cat([guard(part) for part in y.split(size)]), torch.stack(told))
    torch.testing.assert_close(guard.state_dict()["codewords"], torch.stack(book))
    assert 5 < len(book) < 100
    torch.testing.assert_close(guard(y), torch.stack(told)), "the same questions have the same answers"


def test_s_is_bounded_and_keeps_its_budget_when_full() -> None:
    y = rows(500, 20, 2.0)
    guard = Quantized(lambda x: x, 0.3, 12)
    told = guard(y)
    assert guard.state_dict()["codewords"].shape == (12, 20)
    assert ((told - y).abs().sum(dim=1) <= 0.3 + 1e-9).all()
    assert torch.equal(told.argmax(dim=1), y.argmax(dim=1))
    known = set(guard.state_dict()["codewords"].argmax(dim=1).tolist())
    strangers = torch.tensor([c not in known for c in y.argmax(dim=1).tolist()])
    assert strangers.any()
    assert torch.equal(told[strangers], y[strangers])
    assert not torch.equal(told[~strangers], y[~strangers])


def test_s_goes_on_from_its_state() -> None:
    y, more = rows(60, 6, 2.0), rows(60, 6, 2.0, seed=1)
    defense = ModelGuardS(eps=0.6, codewords=40)
    whole, before, after = (defense.guard(lambda x: x, nn.Identity()) for _ in "abc")
    whole(y), before(y)
    after.load_state_dict(before.state_dict())
    torch.testing.assert_close(after(more), whole(more))
    torch.testing.assert_close(after.state_dict(), whole.state_dict())


def test_s_takes_no_state_that_does_not_fit() -> None:
    guard = Quantized(lambda x: x, 0.6, 2)
    with pytest.raises(Invalid, match=r"`codewords` \(M, K\), M at most 2. Found \(3, 4\)"):
        guard.load_state_dict({"codewords": torch.zeros(3, 4)})
    with pytest.raises(Invalid, match="Found nothing"):
        guard.load_state_dict({})
    assert "1,024" in ModelGuardS().cost.state


def test_a_book_of_other_classes_is_named() -> None:
    guard = ModelGuardS().guard(lambda x: x, mlp())
    guard.load_state_dict({"codewords": torch.eye(4)})  # type: ignore[attr-defined]
    with pytest.raises(Invalid, match=r"`codewords` should be of 3 classes, as answers are\. Found 4"):
        guard(torch.eye(3))


def test_each_client_has_a_book_that_outlives_its_place_in_memory(tmp_path: Path) -> None:
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    clients = Clients(lambda: ModelGuardS(eps=0.5).guard(lambda x: x, mlp()), tmp_path, limit=1)
    first = clients("ann", rows)
    clients("bob", rows.flip(0))  # ann's book is on disk now
    assert torch.equal(clients("ann", rows), first)
    assert not torch.equal(clients("bob", rows), first)  # bob's began with another answer
