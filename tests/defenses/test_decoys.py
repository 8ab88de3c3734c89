"""Decoys: no class stands for itself, and the weights of both answers are those of the formula."""

from __future__ import annotations

import pytest
import torch

from samples import mlp, noise
from stealguard.defenses.decoys import DOUBT, LENGTH, SHARPNESS, SIDE, STEEPNESS, Decoyed, Decoys, _flat, derangement


@pytest.mark.parametrize("classes", [2, 3, 10, 199])
def test_a_derangement_moves_every_class(classes: int) -> None:
    wrong = derangement(classes, seed=5)
    assert wrong.sort().values.tolist() == list(range(classes))
    assert (wrong != torch.arange(classes)).all()
    assert torch.equal(wrong, derangement(classes, seed=5))
    assert classes == 2 or not torch.equal(wrong, derangement(classes, seed=6))


@pytest.mark.parametrize("shape", [(5,), (1, 28, 28), (3, 100, 90)])
def test_decoys_read_inputs_centered_and_of_one_length(shape: tuple[int, ...]) -> None:
    x = noise(4, shape)
    flat = _flat(x)
    assert flat.shape[1] == (3 * SIDE * SIDE if shape[0] == 3 else x[0].numel())
    torch.testing.assert_close(flat.norm(dim=1), torch.full((4,), LENGTH))
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(_flat(0.3 * x + 0.2), flat, atol=1e-4, rtol=0)
    assert not _flat(torch.ones(2, *shape)).isnan().any()


def filled(x: torch.Tensor, classes: int) -> Decoys:
    decoys = Decoys(x, classes, seed=1)
    torch.nn.init.normal_(decoys.linear.weight)
    return decoys.double()


def test_an_answer_is_the_sum_of_both_masses_by_hand() -> None:
    net, x = mlp().double(), noise(20, (16,)).double()
    decoys = filled(x, 3)
    with torch.no_grad():
        v, d = net(x), SHARPNESS * decoys(x)
        answers = Decoyed(net, decoys, 0.5)(x).softmax(dim=1)
    for i in range(len(x)):
        honest = v[i].argmax().item()
        others = [k for k in range(3) if k != honest]
        odds = (v[i].exp().sum() / torch.tensor(0.5).double().exp()) ** STEEPNESS
        mass = odds * v[i].exp() / v[i].exp().sum() + DOUBT / 3
        for k in others:
            mass[k] += (1 - DOUBT) * d[i, k].exp() / sum(d[i, j].exp() for j in others)
        torch.testing.assert_close(answers[i], mass / mass.sum())


@pytest.mark.parametrize("strictness", [60.0, 1e6, 1e38])
def test_at_extreme_strictness_only_the_net_or_only_the_decoys_answer(strictness: float) -> None:
    net, x = mlp(), noise(50, (16,))
    decoys = filled(x, 3).float()
    with torch.no_grad():
        honest, lenient, strict = net(x), Decoyed(net, decoys, -strictness)(x), Decoyed(net, decoys, strictness)(x)
    torch.testing.assert_close(lenient.softmax(dim=1), honest.softmax(dim=1))
    assert (strict.argmax(dim=1) != honest.argmax(dim=1)).all()
    never = strict.softmax(dim=1).gather(1, honest.argmax(dim=1, keepdim=True))
    torch.testing.assert_close(never, torch.full((50, 1), DOUBT / 3))


def test_with_doubt_one_answers_are_uniform() -> None:
    net, x = mlp().double(), noise(50, (16,)).double()
    with torch.no_grad():
        answers = Decoyed(net, filled(x, 3), 60.0, doubt=1.0)(x).softmax(dim=1)
    torch.testing.assert_close(answers, torch.full((50, 3), 1 / 3).double())
