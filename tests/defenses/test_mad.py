"""MAD without a Jacobian, against the Jacobian a sample and a class at a time, in float64."""

from __future__ import annotations

import pytest
import torch
from benchmarks import mad_jacobian
from torch import Tensor, nn

from samples import mlp, noise, told
from stealguard.boxes.base import logits, outputs_of
from stealguard.defenses import MAD
from stealguard.defenses.base import Cost
from stealguard.defenses.mad import _enumerated, _grown, _top_first, farthest_keeping_top
from stealguard.errors import Invalid
from stealguard.nets import reinitialized
from stealguard.seeds import derive


def rows(n: int, classes: int, scale: float = 2.0) -> Tensor:
    draw = torch.Generator().manual_seed(classes)
    return (scale * torch.randn(n, classes, generator=draw, dtype=torch.float64)).softmax(dim=1)


def perturbed(defense: MAD, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """What the guard of a defended net answers in the place of `y`."""
    guard = defense.build(net, x).guard
    answers, _ = guard({**outputs_of(guard.heads(), x), "logits": y.log()}, x, guard.start())
    return answers


@pytest.mark.parametrize("objmax", [False, True])
@pytest.mark.parametrize("keep_top", [False, True])
@pytest.mark.parametrize("classes", [3, 6])  # of two classes every angle is 0 or a half turn, all ties
def test_it_is_the_jacobian_s(classes: int, keep_top: bool, objmax: bool) -> None:
    x, y, model = noise(12, (16,)).double(), rows(12, classes), mlp(16, classes).double()
    defense = MAD(eps=0.7, keep_top=keep_top, objmax=objmax)
    surrogate = reinitialized(model, seed=derive(0, "mad", "surrogate")).eval()
    expected = mad_jacobian.perturbed(surrogate, x, y, 0.7, keep_top, objmax)
    torch.testing.assert_close(perturbed(defense, model, x, y), expected, rtol=0, atol=1e-5)


def test_the_angle_is_that_of_the_jacobian_s_images() -> None:
    x, y, other, net = noise(5, (16,)).double(), rows(5, 4), rows(6, 4)[1:], mlp(16, 4).double()
    q = logits(net, x).softmax(dim=1)
    short = nn.functional.cosine_similarity(q - other, q - y)
    for i in range(5):
        g = mad_jacobian.jacobian(net, x[i : i + 1])
        torch.testing.assert_close(nn.functional.cosine_similarity(other[i] @ g, y[i] @ g, dim=0), short[i])


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_the_farthest_share_is_the_farthest_of_all(classes: int) -> None:
    y = rows(20, classes, 1.0)
    found = (farthest_keeping_top(y) - y).square().sum(dim=1)
    for row, distance in zip(y, found, strict=True):
        tried = torch.stack([torch.from_numpy(vertex) for vertex in mad_jacobian.vertices(row.numpy(), keep_top=True)])
        torch.testing.assert_close((tried - row).square().sum(dim=1).max(), distance, rtol=0, atol=1e-4)


def test_growing_finds_almost_what_enumerating_does() -> None:
    y, q = rows(200, 10), rows(200, 10, 0.1).flip(0)
    order = _top_first(y)
    y, q = y.gather(1, order), q.gather(1, order)
    cosines = [nn.functional.cosine_similarity(q - vertex(y, q), q - y) for vertex in (_enumerated, _grown)]
    assert (cosines[1] >= cosines[0] - 1e-9).all(), "the grown vertices are among all vertices"
    assert (cosines[1] - cosines[0]).mean() < 0.05


@pytest.mark.parametrize("classes", [12, 60])
def test_vertices_grow_by_the_best_class_until_enough_were_tried(classes: int) -> None:
    y, q = rows(10, classes), rows(10, classes, 0.1).flip(0)
    order = _top_first(y)
    y, q = y.gather(1, order), q.gather(1, order)
    for one, other, found in zip(y, q, _grown(y, q), strict=True):
        members, least, best, tried = [0], 2.0, other, 0
        while tried < 1024 and len(members) < classes:
            grown = [[*members, k] for k in range(classes) if k not in members]
            shares = torch.zeros(len(grown), classes, dtype=y.dtype)
            for share, group in zip(shares, grown, strict=True):
                share[group] = 1.0
            shares[:, 0] += 1e-5
            shares = shares / shares.sum(dim=1, keepdim=True)
            cosines = nn.functional.cosine_similarity(other - shares, (other - one)[None])
            members, tried = grown[int(cosines.argmin())], tried + len(grown)
            if cosines.min() < least:
                least, best = cosines.min().item(), shares[cosines.argmin()]
        torch.testing.assert_close(found, best)


@pytest.mark.parametrize("classes", [2, 10, 11, 200])
@pytest.mark.parametrize("objmax", [False, True])
def test_it_keeps_the_top_class(classes: int, objmax: bool) -> None:
    y = rows(64, classes, 0.5).float()
    y[:8, :2] = y[:8, :2].amax(dim=1, keepdim=True)
    y = y / y.sum(dim=1, keepdim=True)
    x = noise(64, (16,))
    y = y.log().softmax(dim=1)  # as the guard sees it, ties included
    found = perturbed(MAD(eps=2, keep_top=True, objmax=objmax), mlp(16, classes), x, y)
    assert torch.equal(found.argmax(1), y.log().softmax(dim=1).argmax(1))


def test_only_the_angle_needs_a_surrogate() -> None:
    assert MAD(objmax=False).cost == Cost()
    assert MAD().cost == Cost(forwards=1)
    assert told(MAD(objmax=False), rows(4, 3)).shape == (4, 3)
    assert list(MAD(objmax=False).build(mlp(), noise(2, (16,))).heads()) == ["logits"]
    assert list(MAD().build(mlp(), noise(2, (16,))).heads()) == ["logits", "surrogate"]


def test_the_surrogate_follows_from_the_seed() -> None:
    x, model, y = noise(50, (16,)), mlp(16, 5), rows(50, 5).float()
    one, again, other = (perturbed(MAD(seed=seed), model, x, y) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_budget_is_an_l1_distance() -> None:
    with pytest.raises(Invalid, match=r"`eps` should be in \[0, 2\]. Found 2.5"):
        MAD(eps=2.5)
