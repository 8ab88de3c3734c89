"""Measures on answers, against counts by hand."""

from __future__ import annotations

import pytest
import torch

from stealguard.results.metrics import accuracy, agreement, calibration_error, distortion

ANSWERS = torch.tensor([[0.95, 0.05], [0.35, 0.65], [0.75, 0.25], [0.15, 0.85]])


def test_accuracy_and_agreement() -> None:
    assert accuracy(ANSWERS, torch.tensor([0, 1, 1, 1])) == 0.75
    assert agreement(ANSWERS, ANSWERS.flip(1)) == 0
    assert agreement(ANSWERS, ANSWERS) == 1


def test_a_row_that_prefers_no_class_is_wrong() -> None:
    undecided = torch.full((4, 2), 0.5)
    assert accuracy(undecided, torch.zeros(4, dtype=torch.long)) == 0
    assert agreement(ANSWERS, undecided) == agreement(undecided, ANSWERS) == agreement(undecided, undecided) == 0


def test_calibration_by_hand() -> None:
    # ten bins: .95 wrong, .65 right, .75 right, .85 right, each alone in its bin: (.95 + .35 + .25 + .15) / 4
    assert calibration_error(ANSWERS, torch.tensor([1, 1, 0, 1]), bins=10) == pytest.approx(0.425, abs=1e-6)
    sure = torch.eye(3)
    assert calibration_error(sure, torch.arange(3)) == 0
    assert calibration_error(torch.full((4, 2), 0.5), torch.tensor([0, 0, 1, 1])) == 0


def test_distortion_is_mean_l1() -> None:
    assert distortion(ANSWERS, ANSWERS) == 0
    assert distortion(torch.eye(2), torch.eye(2).flip(0)) == 2
