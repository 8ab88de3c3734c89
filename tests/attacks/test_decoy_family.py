"""The decoys that an attacker fits: closed forms of the divergence, and exact recovery from soft answers."""

from __future__ import annotations

import pytest
import torch

from decoyed import DOUBT, Decoyed, K, honest, maps, own
from samples import noise
from stealguard.attacks.decoy_family import (
    DecoyFamily,
    divergence,
    features,
    fitted,
    missing,
    without_each,
    without_floor,
)
from stealguard.attacks.selectors import large_residual, small_minimum, unforeseen
from stealguard.boxes.base import top_1

X = noise(3000, (16,))


def test_features_have_mean_0_and_one_length() -> None:
    for x in (X, noise(5, (3, 8, 8)), noise(2, (1, 64, 64))):
        f = features(x)
        torch.testing.assert_close(f.mean(dim=1), torch.zeros(len(x)), atol=1e-5, rtol=0)
        torch.testing.assert_close(f.norm(dim=1), torch.full((len(x),), 10.0))
    assert f.shape == (2, 32 * 32)


def test_divergence_is_its_definition_and_leaves_out_a_class() -> None:
    torch.manual_seed(0)
    p, logits = torch.randn(5, K).softmax(dim=1), torch.randn(5, K)
    slow = (p * (p.log() - logits.log_softmax(dim=1))).sum(dim=1)
    torch.testing.assert_close(divergence(p, logits), slow)
    torch.testing.assert_close(divergence(p, logits, torch.full((5,), -1)), slow)
    rest = torch.tensor([0, 1, 3])
    part = p[:, rest] / p[:, rest].sum(dim=1, keepdim=True)
    slow = (part * (part.log() - logits[:, rest].log_softmax(dim=1))).sum(dim=1)
    torch.testing.assert_close(divergence(p, logits, torch.full((5,), 2)), slow)
    torch.testing.assert_close(without_each(p, logits)[:, 2], slow)


def test_divergence_has_finite_gradients_on_labels() -> None:
    logits = torch.randn(3, K, requires_grad=True)
    divergence(torch.eye(K)[:3], logits, torch.tensor([1, -1, 0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_floor_is_removed() -> None:
    p = torch.rand(6, K).softmax(dim=1)
    torch.testing.assert_close(without_floor(0.9 * p + 0.1 / K, 0.1), p)
    assert torch.equal(without_floor(torch.zeros(2, K), 0.1), torch.zeros(2, K))


def test_a_missing_class_is_found_and_labels_have_none() -> None:
    rows = torch.tensor([[0.5, 0.0, 0.3, 0.2], [0.4, 0.3, 0.2, 0.1], [1.0, 0, 0, 0], [0, 0, 0, 0]])
    assert missing(rows).tolist() == [1, -1, -1, -1]
    assert missing(torch.tensor([[0.99999, 0.00001]])).tolist() == [-1]


@pytest.mark.parametrize("masked", [True, False])
def test_linear_decoys_are_recovered_from_soft_answers(masked: bool) -> None:
    """The map is found up to a constant for all classes, though a tenth of the answers are none of its own."""
    answers = without_floor(Decoyed(masked)(X), DOUBT)
    family = fitted(X, answers, trim=0.15)
    decoys = ~honest(X)
    found = divergence(answers, family(X), missing(answers))
    assert found[decoys].max() < 1e-3
    assert found[honest(X)].median() > 0.1
    true = features(X) @ maps()[1].T
    gap = family(X) - true
    assert (gap - gap.mean(dim=1, keepdim=True))[decoys].abs().max() < 0.05


def test_rows_of_zeros_are_ignored() -> None:
    answers = without_floor(Decoyed()(X), DOUBT)
    half = answers * (torch.arange(len(X)) % 2 == 0)[:, None]
    family, same = fitted(X, half, trim=0.15), fitted(X[::2], answers[::2], trim=0.15)
    torch.testing.assert_close(family(X), same(X), atol=1e-2, rtol=1e-2)


def test_the_map_may_read_principal_components_alone() -> None:
    family = DecoyFamily(X, K, components=5)
    assert family.read(X).shape == (3000, 5)
    torch.testing.assert_close(family.basis.T @ family.basis, torch.eye(5), atol=1e-5, rtol=0)


class TestSelectors:
    def test_one_comparison_separates_decoys_with_a_floor(self) -> None:
        answers = Decoyed()(X)
        selected = small_minimum(0.005)(X, answers)
        assert not selected[~honest(X)].any()
        assert selected[honest(X)].double().mean() > 0.9

    @pytest.mark.parametrize(("masked", "doubt"), [(True, DOUBT), (False, DOUBT), (False, 0.0)])
    def test_the_residual_separates_decoys_with_and_without_a_floor(self, masked: bool, doubt: float) -> None:
        answers = Decoyed(masked, doubt)(X)
        select = large_residual(X, answers, share=0.08, trim=0.15, doubt=doubt)
        selected = select(X, answers)
        assert selected.double().mean() == pytest.approx(0.08, abs=0.01)
        assert honest(X)[selected].double().mean() > 0.95
        fresh = noise(1000, (16,), seed=5)
        assert honest(fresh)[select(fresh, Decoyed(masked, doubt)(fresh))].double().mean() > 0.9

    def test_labels_that_a_linear_map_predicts_are_not_selected(self) -> None:
        answers = top_1(Decoyed()(X))
        selected = unforeseen(X, answers, trim=0.15, ranks=2)(X, answers)
        assert honest(X)[selected].double().mean() > 2 * honest(X).double().mean()

    def test_rows_of_zeros_are_never_selected(self) -> None:
        answers, none = Decoyed()(X), torch.zeros(10, K)
        selectors = [
            small_minimum(0.005),
            large_residual(X, answers, share=0.1, trim=0.1, doubt=0.1),
            unforeseen(X, answers, trim=0.1, ranks=1),
        ]
        assert not any(select(X[:10], none).any() for select in selectors)

    def test_the_stub_is_honest_for_a_tenth_of_inputs_and_confident(self) -> None:
        assert 0.05 < honest(X).double().mean() < 0.15
        assert own(X).max(dim=1).values.median() > 0.9
