"""Truncation, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import stealguard as sg
from exported import written
from samples import mlp, noise, told
from stealguard.boxes.base import top_1
from stealguard.defenses import Rounding, TopK
from stealguard.defenses.base import Defense
from stealguard.errors import Invalid

Y = torch.tensor([[0.1, 0.6, 0.3, 0.0], [0.25, 0.25, 0.25, 0.25]])


def test_top_1_is_the_label_alone() -> None:
    assert torch.equal(told(TopK(), Y), top_1(Y))
    tied = torch.full((50, 200), 1 / 200)
    assert torch.equal(told(TopK(), tied), top_1(tied)), "among equal classes, the one that argmax names"


def test_the_rest_is_renormalized_or_spread() -> None:
    torch.testing.assert_close(told(TopK(k=2), Y)[0], torch.tensor([0, 2 / 3, 1 / 3, 0]))
    torch.testing.assert_close(told(TopK(k=2, rest="spread"), Y)[0], torch.tensor([0.05, 0.6, 0.3, 0.05]))
    assert torch.equal(told(TopK(k=4), Y), Y)


def test_as_many_classes_as_there_are_would_change_nothing(tmp_path: Path) -> None:
    TopK(k=2).check_classes(3)
    task = noise(60, (16,)), torch.arange(60) % 3
    undefended = written(tmp_path / "undefended")
    for k in (3, 10):
        rule = f"`k` should be less than 3, the number of classes. Found {k}"
        with pytest.raises(Invalid, match=rule):
            sg.protect("mlp", task, defense=TopK(k=k), out=tmp_path / "a", progress=False)
        with pytest.raises(Invalid, match=rule):
            sg.guarded(undefended, TopK(k=k), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert sg.guarded(undefended, TopK(k=2), tmp_path / "a").defense == TopK(k=2)


def test_rounding_by_hand() -> None:
    torch.testing.assert_close(told(Rounding(1), Y), torch.tensor([[0.1, 0.6, 0.3, 0.0], [0.3, 0.3, 0.2, 0.2]]))
    torch.testing.assert_close(told(Rounding(2), Y), Y)


@settings(deadline=None)
@given(st.integers(2, 200), st.integers(1, 6), st.integers(0, 1000), st.sampled_from([0.1, 1.0, 10.0]))
def test_rounded_rows_are_whole_units_each_less_than_one_off(k: int, digits: int, seed: int, scale: float) -> None:
    y = (scale * torch.randn(5, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(dim=1)
    units = told(Rounding(digits), y) * 10**digits
    torch.testing.assert_close(units, units.round(), rtol=0, atol=1e-6)
    torch.testing.assert_close(units.round().sum(dim=1), torch.full((5,), 10.0**digits, dtype=torch.float64))
    assert (units - y * 10**digits).abs().max() < 1 + 1e-3


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: TopK(k=0), "`k` should be at least 1. Found 0"),
        (lambda: TopK(rest="drop"), "`rest` should be renormalize or spread. Found `drop`"),
        (lambda: Rounding(0), "`digits` should be from 1 to 6"),
    ],
)
def test_settings_are_checked(make, rule: str) -> None:
    with pytest.raises(Invalid, match=rule):
        make()


def test_training_is_that_of_an_undefended_net() -> None:
    assert TopK().basis == Defense()
    assert told(TopK(), Y).shape == told(Rounding(), Y).shape == (2, 4)
    assert TopK().build(net := mlp(), noise(2, (16,))).net is net
