"""D-ADD: the score against matrix roots in float64, who is answered at random, and that batches do not matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from samples import blobs, boxed, mlp, noise
from stealguard.boxes.base import logits
from stealguard.defenses import DADD
from stealguard.defenses.base import Defended
from stealguard.defenses.d_add import Reference
from stealguard.errors import Invalid
from stealguard.types import Batch

SHAPE, CLASSES = (16,), 3


def trained(**settings: float) -> Defended:
    """A module that has learned blobs and was calibrated on others."""
    x, y = blobs(900, SHAPE, CLASSES, seed=1)
    torch.manual_seed(0)
    model = DADD(**settings).build(mlp(), x[:2])  # type: ignore[arg-type]
    sg.fit(model, x, y, sg.Training(epochs=4, batch=32, lr=0.02), seed=0, progress=False)
    model.calibrate(Batch(*blobs(2000, SHAPE, CLASSES, seed=2)))
    return model.eval()


def root(matrix: Tensor) -> Tensor:
    """The trace of a matrix' square root; its eigenvalues are at least 0."""
    return torch.linalg.eigvals(matrix).real.clamp(min=0).sqrt().sum()


def moments(v: Tensor) -> tuple[Tensor, Tensor]:
    return v.mean(dim=0), torch.cov(v.T, correction=0).view(v.shape[1], v.shape[1])


def test_the_score_is_the_frechet_distance_weighted_by_class() -> None:
    reference = Reference(window=9, classes=4, key=5).double()
    v = torch.randn(600, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1, 2, 3, 1]
    )
    y = torch.arange(600) % 3
    reference.measure(v, y)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(5))[:300]
    known = [moments(v[order][y[order] == c]) for c in range(3)] + [moments(v[order])]
    windows = torch.randn(7, 9, 4, dtype=torch.float64) + 1
    for window, score in zip(windows, reference.discrepancy(windows), strict=True):
        expected = torch.zeros((), dtype=torch.float64)
        for c in window.argmax(dim=1).unique().tolist():
            of_class = window[window.argmax(dim=1) == c]
            (m, s), (mean, cov) = known[c], moments(of_class)
            distance = (m - mean).square().sum() + s.trace() + cov.trace() - 2 * root(s @ cov)
            expected += len(of_class) / 9 * distance
        torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-6)


def test_what_the_task_looks_like_is_kept_with_the_module() -> None:
    model, other = trained(), DADD().build(mlp(), noise(2, SHAPE))
    other.load_state_dict(model.state_dict())
    windows = torch.randn(5, 16, CLASSES)
    assert torch.equal(model.reference.discrepancy(windows), other.reference.discrepancy(windows))
    assert model.reference.scores.isfinite().all()


def test_a_module_that_was_not_calibrated_answers_as_the_net() -> None:
    model, x = DADD().build(mlp(), noise(2, SHAPE)).eval(), noise(60, SHAPE)
    assert torch.equal(boxed(model)(x), logits(model.net, x).softmax(dim=1))


def shares(model: Defended, x: Tensor) -> float:
    """The share of an account's queries that the net does not answer itself."""
    return float((boxed(model)(x) != logits(model.net, x).softmax(dim=1)).any(dim=1).float().mean())


@pytest.mark.parametrize("held_out", [1, 2, 8, 15])
def test_with_fewer_held_out_inputs_than_a_window_has_no_query_is_judged(held_out: int) -> None:
    """Of so few, honest windows would be far from the distribution that was measured."""
    x, y = blobs(400, SHAPE, CLASSES, seed=1)
    model = DADD().build(mlp(), x[:2])
    with pytest.warns(UserWarning, match=f"d-add judges no query: .* held out were only {held_out} task input"):
        model.calibrate(Batch(x[:held_out], y[:held_out]))
    assert shares(model, x) == 0


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_window_with_a_number_that_is_not_finite_is_infinitely_far(value: float) -> None:
    reference = trained().reference
    windows = torch.randn(3, 16, CLASSES, generator=torch.Generator().manual_seed(0))
    expected = reference.discrepancy(windows)
    windows[1, 4, 2] = value
    found = reference.discrepancy(windows)
    assert found[1] == torch.inf
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_an_account_of_task_inputs_is_answered_and_one_of_outliers_is_not() -> None:
    model = trained(alarms=0.01)
    assert shares(model, blobs(3000, SHAPE, CLASSES, seed=3)[0]) == pytest.approx(0.01, abs=0.01)
    assert shares(model, noise(300, SHAPE)) > 0.9
    mixed = torch.cat([blobs(100, SHAPE, CLASSES, seed=3)[0], noise(100, SHAPE)])
    assert shares(model, mixed) > 0.4


def test_the_first_queries_of_an_account_are_not_judged() -> None:
    model, x = trained(), noise(40, SHAPE)
    plain = logits(model.net, x).softmax(dim=1)
    assert torch.equal(boxed(model)(x)[:15], plain[:15])
    accounts = torch.cat([boxed(model)(part) for part in x.split(15)])
    torch.testing.assert_close(accounts, plain)


def test_more_alarms_answer_more_at_random() -> None:
    x, rising = blobs(600, SHAPE, CLASSES, seed=3)[0], []
    model = trained()
    for alarms in (0.0, 0.1, 0.5, 1.0):
        again = DADD(alarms=alarms).build(mlp(), x[:2])
        again.load_state_dict(model.state_dict())
        rising.append(shares(again.eval(), x))
    assert rising == sorted(rising)
    assert rising[0] < 0.02
    assert rising[-1] == pytest.approx((600 - 15) / 600, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 7, 16, 100])
def test_batches_do_not_change_answers(size: int) -> None:
    model = trained()
    x = torch.cat([blobs(30, SHAPE, CLASSES, seed=3)[0], noise(70, SHAPE), blobs(40, SHAPE, CLASSES, seed=4)[0]])
    account = boxed(model)
    torch.testing.assert_close(torch.cat([account(part) for part in x.split(size)]), boxed(model)(x))


def test_no_long_request_is_kept_for_its_end() -> None:
    model = DADD().build(mlp(), noise(2, SHAPE))
    _, state = model.guard({"logits": torch.rand(1000, CLASSES)}, noise(1000, SHAPE), model.guard.start())
    assert state["latest"].untyped_storage().nbytes() == 4 * 15 * CLASSES


def test_a_repeated_query_gets_the_same_random_answer() -> None:
    model, x = trained(), noise(50, SHAPE)
    account = boxed(model)
    account(x)
    assert torch.equal(account(x[-1:].expand(30, -1)), account(x[-1:]).expand(30, -1))


def test_too_many_classes_are_refused() -> None:
    with pytest.raises(Invalid, match=r"`classes` should be at most 256 for `d-add`\. Found 300"):
        DADD().build(nn.Linear(16, 300), noise(2, SHAPE))
