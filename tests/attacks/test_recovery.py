"""Recovery of perturbed answers: closed forms, the gain on known perturbations, and answers that must not change."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from samples import blobs, mlp, noise
from stealguard.attacks import recovery
from stealguard.attacks.recovery import (
    SUSPECTED,
    Method,
    Resources,
    d_dae,
    detect,
    mad,
    mixing,
    p_bayes,
    shadow_answers,
)
from stealguard.attacks.treatments import Recovered, treated
from stealguard.boxes import Metered, top_1
from stealguard.errors import Invalid, NotApplicable
from stealguard.seeds import seeded
from stealguard.simplex import reverse_sigmoid

METHODS = {"d-dae": d_dae, "p-bayes": p_bayes}
ONE = [pytest.param("d-dae", marks=pytest.mark.thorough), "p-bayes"]  # where a test trains much
MANY, _ = blobs(3000, (16,), classes=3)  # enough for shadow models that are certain of some classes
POOL = MANY[:1000]


def rows(n: int, k: int = 10, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(n, k, generator=generator)).softmax(dim=1)


def resources(k: int = 3, seed: int = 5, pool: Tensor = POOL) -> Resources:
    def fresh(*, seed: int) -> torch.nn.Module:
        with seeded(seed):
            return mlp(classes=k)

    return Resources(pool, fresh, seed)


@cache
def clean_answers(seed: int, pool: Tensor) -> Tensor:
    return shadow_answers(resources(seed=seed, pool=pool))


def similar_answers(pool: Tensor = POOL) -> Tensor:
    """What a victim answers that is similar to the shadow models, and is none of them: clean rows (300, 3)."""
    return clean_answers(8, pool)[-300:]


def l1(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().sum(dim=1).mean().item()


@pytest.mark.parametrize("name", SUSPECTED)
@pytest.mark.parametrize("k", [2, 10, 100])
def test_suspected_perturbations_give_rows_on_the_simplex(name: str, k: int) -> None:
    y = torch.cat([rows(50, k), torch.eye(k), torch.full((1, k), 1 / k)])
    got = SUSPECTED[name](y)
    assert got.shape == y.shape
    assert got.min() >= 0
    torch.testing.assert_close(got.sum(dim=1), torch.ones(len(y)), atol=1e-5, rtol=0)


def test_suspected_perturbations_equal_their_formulas() -> None:
    y = rows(20).double()
    bent = y - 0.7 * ((0.2 * y.logit()).sigmoid() - 0.5)
    torch.testing.assert_close(reverse_sigmoid(y), bent / bent.sum(dim=1, keepdim=True))
    torch.testing.assert_close(mixing(y, 0.5), (y + 0.1) / 2)
    torch.testing.assert_close((mad(y, 0.5) - y).abs().sum(dim=1), torch.full((20,), 0.5).double())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("name", ["mixing-0.5", "mixing-0.9", "reverse-sigmoid-0.3"])
def test_known_perturbations_are_undone(method: Method, name: str) -> None:
    clean, true = rows(1500), rows(300, seed=1)
    perturbed = SUSPECTED[name](true)
    with seeded(0):
        restored = method(SUSPECTED[name], clean, perturbed)(perturbed)
    assert l1(restored, true) < l1(perturbed, true) / 2
    torch.testing.assert_close(restored.sum(dim=1), torch.ones(300))


@pytest.mark.slow
def test_the_restorer_undoes_a_permutation() -> None:
    """A change that needs more than log y': every class has another's name."""
    clean, true = rows(1500, 5), rows(300, 5, seed=1)
    with seeded(0):
        restored = d_dae(lambda y: y.roll(1, dims=1), clean, true)(true.roll(1, dims=1))
    assert l1(restored, true) < l1(true.roll(1, dims=1), true) / 4


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("k", [2, 100])
def test_recovery_works_with_two_classes_and_with_a_hundred(method: Method, k: int) -> None:
    clean, true = rows(600, k), rows(100, k, seed=1)
    perturbed = mixing(true, 0.9)
    with seeded(0):
        restored = method(SUSPECTED["mixing-0.9"], clean, perturbed)(perturbed)
    assert l1(restored, true) < l1(perturbed, true)
    assert restored.min() >= 0


def test_p_bayes_is_the_conditional_mean() -> None:
    """Three clean rows of known shares, of which the defense merges two: E[y | y'] is their weighted mean."""
    a, b, c = torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]]).double()
    clean = torch.stack([a] * 6 + [b] * 2 + [c] * 4)
    perturbed = top_1(clean)
    got = recovery.conditional_mean(perturbed, clean, torch.eye(3).double()[[2, 0]])
    torch.testing.assert_close(got, torch.stack([c, (6 * a + 2 * b) / 8]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "top-1", "reverse-sigmoid-0.7", "mixing-0.5", "mad-1.0"])
def test_the_detector_names_the_defense(name: str) -> None:
    assert detect(rows(800), SUSPECTED[name](rows(200, seed=1)), seed=0) == name


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_answers_without_a_defense_are_left_alone(method: Method) -> None:
    true = rows(100, seed=1)
    assert torch.equal(recovery.recovery(method, rows(800), true, seed=0)(true), true)


@pytest.mark.thorough
@pytest.mark.parametrize("name", METHODS)
def test_classes_that_no_shadow_model_is_certain_of_are_recovered(name: str) -> None:
    clean, true = clean_answers(5, MANY), similar_answers(MANY)
    perturbed = reverse_sigmoid(true)
    assert l1(recovery.recovery(METHODS[name], clean, perturbed, seed=0)(perturbed), true) < l1(perturbed, true) / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE)
def test_recovery_spends_no_query_of_its_own(name: str) -> None:
    true = similar_answers()
    metered = Metered(lambda x: mixing(true[: len(x)], 0.9), 500)
    box = treated(metered, [name], resources())
    assert metered.spent == 0
    got = box(noise(300, (16,)))
    assert metered.spent == 300
    assert box.left == 200
    assert l1(got, true) < l1(mixing(true, 0.9), true) / 2
    again = treated(Metered(lambda x: mixing(true[: len(x)], 0.9), 500), [name], resources())
    torch.manual_seed(77)  # what an attack draws beside it makes no difference
    assert torch.equal(again(noise(300, (16,))), got)


@pytest.mark.slow
def test_recovery_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    box = treated(Metered(lambda x: mixing(rows(len(x), 3), 0.9), 500), ["d-dae"], resources())
    assert isinstance(box, Recovered)
    box(noise(40, (16,)))
    monkeypatch.setattr("stealguard.attacks.treatments.recovery", None)
    box(noise(1, (16,)))


@pytest.mark.slow
def test_rows_of_zeros_stay_zeros() -> None:
    box = treated(Metered(lambda x: F.one_hot(torch.arange(len(x)) % 3, 3).float(), 500), [], None)
    recovered = Recovered(box, resources(), method=p_bayes)
    answers = torch.cat([torch.zeros(2, 3), mixing(rows(20, 3), 0.9)])
    assert torch.equal(recovered.treat(torch.zeros(4, 3)), torch.zeros(4, 3))
    treated_rows = recovered.treat(answers)
    assert torch.equal(treated_rows[:2], answers[:2])
    torch.testing.assert_close(treated_rows[2:].sum(dim=1), torch.ones(20))


def test_recovery_without_resources_or_inputs_is_an_error() -> None:
    box = Metered(lambda x: rows(len(x), 3), 500)
    with pytest.raises(Invalid, match="`resources` should be given"):
        treated(box, ["d-dae"])
    with pytest.raises(NotApplicable, match="on at least 6 inputs, and the pool has 1"):
        treated(box, ["p-bayes"], resources(pool=POOL[:1]))
    assert box.spent == 0
