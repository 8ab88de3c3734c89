"""What every guard promises, by the registry alone: rows on the simplex within its declared limit, for any rows."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from samples import mlp, noise
from stealguard.boxes.base import outputs_of
from stealguard.boxes.metered import check_answers
from stealguard.defenses import DCP, DEFENSES, GRAD2, MAD, ModelGuardS, TopK
from stealguard.defenses.base import Defended, Defense, Plain

QUICK = {"memguard": {"steps": 10}}  # settings that take long
USUAL = [kind(**QUICK.get(name, {})) for name, kind in DEFENSES.items()]
GUARDS = [
    defense
    for defense in USUAL
    if type(defense).guard is not Defense.guard or type(defense.build(mlp(), noise(2, (16,))).guard) is not Plain
]
OTHER_SETTINGS = [
    DCP(steepness=1.0),
    GRAD2(direction="all-ones"),
    MAD(objmax=False),
    MAD(keep_top=True),
    MAD(keep_top=True, objmax=False),
    ModelGuardS(codewords=2),
    TopK(k=3, rest="spread"),
]
CASES = pytest.mark.parametrize("defense", GUARDS + OTHER_SETTINGS, ids=repr)
DTYPES = st.sampled_from([torch.float32, torch.float64])


@functools.cache
def model_of(defense: Defense, classes: int, dtype: torch.dtype = torch.float32) -> Defended:
    return defense.build(mlp(4, classes), noise(2, (4,))).to(dtype)


def outputs_for(model: Defended, y: Tensor, x: Tensor) -> dict[str, Tensor]:
    """What the heads give on `x`, but logits whose softmax is `y`."""
    return {**outputs_of(model.heads(), x), "logits": y.log()}


@st.composite
def answers(draw: st.DrawFn) -> Tensor:
    """Rows on the simplex: drawn ones, and among them one-hot, uniform, tied and saturated ones."""
    classes, dtype = draw(st.integers(2, 200)), draw(DTYPES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.0, 1e-6, 0.3, 3.0, 30.0, 300.0]))
    y = (scale * torch.randn(draw(st.integers(1, 9)), classes, generator=generator, dtype=dtype)).softmax(dim=1)
    one_hot = torch.eye(classes, dtype=dtype)[draw(st.integers(0, classes - 1))][None]
    uniform = torch.full((1, classes), 1 / classes, dtype=dtype)
    tied = torch.zeros(1, classes, dtype=dtype)
    tied[0, -2:] = 0.5
    y = torch.cat([y, one_hot, uniform, tied])
    return y[torch.randperm(len(y), generator=generator)]


@pytest.mark.slow
@pytest.mark.no_cover
@CASES
@settings(deadline=None, max_examples=60)
@given(y=answers(), strength=st.sampled_from([None, 0.0, 0.3, 1.5]))
def test_rows_stay_on_the_simplex_within_the_limit(defense: Defense, y: Tensor, strength: float | None) -> None:
    for field in ("eps", "beta"):
        if strength is not None and hasattr(defense, field):
            defense = replace(defense, **{field: strength})
    model, x = model_of(defense, y.shape[1], y.dtype), noise(len(y), (4,)).to(y)
    found, _ = model.guard(outputs_for(model, y, x), x, model.guard.start())
    assert found.dtype == y.dtype
    check_answers(found, len(y), repr(defense))
    assert (found.sum(dim=1) - 1).abs().max() < 1e-5
    assert (found - y).abs().sum(dim=1).max() <= defense.distortion_limit + 1e-5


@CASES
def test_an_answer_depends_on_its_query_and_earlier_ones_alone(defense: Defense) -> None:
    y = torch.randn(9, 7, generator=torch.Generator().manual_seed(0)).mul(2).softmax(dim=1)
    x, model = noise(9, (4,)), model_of(defense, 7)
    together, _ = model.guard(outputs_for(model, y, x), x, model.guard.start())
    apart, state = [], model.guard.start()
    for rows in torch.arange(9).split(2):
        answers, state = model.guard(outputs_for(model, y[rows], x[rows]), x[rows], state)
        apart.append(answers)
    torch.testing.assert_close(together, torch.cat(apart))
