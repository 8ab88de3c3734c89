"""Scalings: to [0, 1] and back, constant columns, large numbers, and what is written as JSON."""

from __future__ import annotations

import json

import pytest
import torch

from stealguard.data.scaling import Scaling
from stealguard.errors import Invalid

TABLE = Scaling((0.0, -5.0, 3.0), (1.0, 5.0, 3.0))


def test_numbers_go_to_the_unit_range_and_back() -> None:
    x = torch.tensor([[0.0, -5.0, 3.0], [0.25, 0.0, 3.0], [1.0, 5.0, 3.0]])
    assert TABLE.to01(x).tolist() == [[0, 0, 0], [0.25, 0.5, 0], [1, 1, 0]]
    assert torch.equal(TABLE.raw(TABLE.to01(x)), x)
    assert TABLE.to01(x.double()).dtype == TABLE.raw(x).dtype == torch.float32


def test_numbers_beyond_the_bounds_are_clamped() -> None:
    x = torch.tensor([[-1.0, 9.0, 4.0]])
    assert TABLE.to01(x).tolist() == [[0, 1, 0]]
    assert TABLE.outside(x).tolist() == [[True, True, True]]


def test_one_pair_of_bounds_holds_for_inputs_of_any_shape() -> None:
    scaling = Scaling((-2.0,), (2.0,))
    x = torch.linspace(-2, 2, 24).view(2, 3, 4, 1)
    assert torch.allclose(scaling.raw(scaling.to01(x)), x, atol=1e-6)


def test_large_numbers_that_differ_by_little_stay_apart() -> None:
    x = torch.tensor([[1.7e9], [1.7e9 + 1], [1.7e9 + 2]], dtype=torch.float64)
    assert Scaling((1.7e9,), (1.7e9 + 2,)).to01(x).tolist() == [[0], [0.5], [1]]


def test_a_scaling_is_written_and_read_to_the_last_bit() -> None:
    scaling = Scaling((0.1, 1 / 3), (0.7, 2e20 / 3))
    assert Scaling.of(json.loads(json.dumps(scaling.state()))) == scaling
    assert hash(Scaling.of(scaling.state())) == hash(scaling)


@pytest.mark.parametrize(
    "state",
    [
        {"low": [0], "high": [1, 2]}, {"low": [], "high": []}, {"low": [1], "high": [0]}, {"low": ["a"], "high": [1]},
        {"low": [float("nan")], "high": [1]}, {"low": [0], "high": [float("inf")]}, {"low": 0, "high": 1}, {}, [],
    ],
)  # fmt: skip
def test_states_that_are_no_scaling_are_refused(state: object) -> None:
    with pytest.raises(Invalid, match="`scaling`"):
        Scaling.of(state)  # type: ignore[arg-type]


def test_tables_of_another_number_of_columns_are_refused() -> None:
    with pytest.raises(Invalid, match=r"of 3 columns. Found \(2, 4\)"):
        TABLE.to01(torch.zeros(2, 4))
