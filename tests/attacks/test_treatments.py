"""Treatments of answers: closed forms, and the rules that every treatment keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from marked import pretended
from samples import mlp, noise
from stealguard.attacks.recovery import Resources
from stealguard.attacks.treatments import TREATMENTS, Smoothed, treated
from stealguard.boxes import Metered
from stealguard.errors import Invalid, NotApplicable
from stealguard.seeds import seeded

ROWS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]])


def box(rows: Tensor, budget: int = 1000) -> Metered:
    return Metered(lambda x: rows[: len(x)], budget)


FITTED = ("d-dae", "p-bayes")  # they train shadow models


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in FITTED else n for n in TREATMENTS])
def test_rows_stay_on_the_simplex_or_are_zeros(name: str) -> None:
    @settings(max_examples=2 if name in FITTED else 25, deadline=None)
    @given(st.integers(2, 100), st.integers(1, 9), st.integers(0, 1000), st.booleans())
    def check(k: int, n: int, seed: int, one_hot: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        rows = (5 * torch.randn(n, k, generator=generator)).softmax(dim=1)
        rows = torch.eye(k)[rows.argmax(dim=1)] if one_hot else rows
        resources = Resources(noise(200, (1, 6, 6)), lambda *, seed: nn.Sequential(nn.Flatten(), mlp(36, k)), seed)
        got = treated(box(rows), [name], resources)(noise(n, (1, 6, 6)))
        assert got.shape == rows.shape
        assert torch.isfinite(got).all()
        assert got.min() >= 0
        sums = got.sum(dim=1)
        assert (((sums - 1).abs() < 1e-4) | (sums == 0)).all()

    check()


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", ["nets", "pool", "both"])
@pytest.mark.parametrize("name", TREATMENTS)
def test_nets_and_pool_may_be_on_different_devices(name: str, elsewhere: str) -> None:
    rows, x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).softmax(dim=1), noise(50, (1, 6, 6))

    def told(nets: str, pool: str) -> Tensor:
        def fresh(*, seed: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), mlp(36, 3)).to(nets)

        with seeded(0):
            resources = Resources(noise(200, (1, 6, 6)).to(pool), fresh, 0)
            return treated(box(rows), [name], resources)(x.to(pool))

    expected = told("cpu", "cpu")
    with pretended() as device:
        found = told("cpu" if elsewhere == "pool" else device, "cpu" if elsewhere == "nets" else device)
        assert found.is_meta == (elsewhere != "nets")
        torch.testing.assert_close(found.cpu(), expected)


def test_sharpen_and_top_by_hand() -> None:
    sharp = treated(box(torch.tensor([[0.8, 0.2]])), ["sharpen"])(noise(1))
    torch.testing.assert_close(sharp, torch.tensor([[256 / 257, 1 / 257]]))
    assert treated(box(ROWS), ["top-1"])(noise(4)).argmax(1).tolist() == ROWS.argmax(1).tolist()


def test_standardizing_undoes_a_constant_shift_of_the_logits() -> None:
    """The same number added to one class's logits in every row changes little."""
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    shifted = logits + torch.tensor([9.0, 0.0, 0.0, 0.0])
    # in log-probabilities the shift also moves each row's normalizer: compare the classes that are left
    one, other = (treated(box(rows.softmax(1)), ["z-score"])(noise(50)) for rows in (logits, shifted))
    assert (one.argmax(1) == other.argmax(1)).double().mean() > 0.5
    assert other.argmax(1).bincount(minlength=4).max() < 30, "no class is answered too often any more"
    assert shifted.argmax(1).bincount(minlength=4).max() == 50


def test_debiasing_divides_by_the_prior() -> None:
    rows = torch.tensor([[0.5, 0.5]] * 3 + [[0.9, 0.1]])
    got = treated(box(rows), ["debias"])(noise(4))
    prior = rows.sum(0)
    torch.testing.assert_close(got, (rows / prior) / (rows / prior).sum(1, keepdim=True))


def test_confident_keeps_the_more_confident_half() -> None:
    got = treated(box(ROWS), ["confident"])(noise(4))
    assert got.sum(dim=1).tolist() == pytest.approx([1, 1, 0, 1]), "the median itself is kept"
    assert torch.equal(got[1], ROWS[1])


def test_smoothing_counts_every_copy() -> None:
    metered = box(ROWS.repeat(10, 1), budget=41)
    smooth = treated(metered, ["smooth"])
    assert smooth.left == 10
    smooth(noise(4))
    assert metered.spent == 4 * Smoothed.copies
    assert smooth.left == 6
    with pytest.raises(NotApplicable, match="Smoothing turns and shifts images"):
        smooth(noise(2, (16,)))


def test_the_first_treatment_is_nearest_to_the_answers() -> None:
    one = treated(box(ROWS), ["sharpen", "top-1"])(noise(4))
    assert set(one.flatten().tolist()) == {0, 1}
    other = treated(box(ROWS), ["top-1", "smooth"])
    assert other.left == 250


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(Invalid, match=r"`treatments`.*did you mean `z-score`"):
        treated(box(ROWS), ["zscore"])
