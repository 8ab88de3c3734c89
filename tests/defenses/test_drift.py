"""Drift against the formulas, and against a slow way that looks at one query after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samples import noise
from stealguard.defenses.drift import FEW, MOST, NEAR, NOISE, STEP, Drift, centers, followed, has_drifted

D = 3


def test_centers_whiten_what_is_left_of_logits_without_the_means_of_their_classes() -> None:
    v = 5 * noise(4000, (D,)).double() @ noise(D, (D,), seed=4).double()
    named = torch.nn.functional.one_hot(v.argmax(dim=1), D)
    means, whitening, weights = centers(v, named)
    apart = (v - means[v.argmax(dim=1)]) @ whitening
    torch.testing.assert_close(apart.T @ apart / len(v), torch.eye(D, dtype=torch.float64))
    torch.testing.assert_close(whitening, whitening.T)
    counts = named.sum(dim=0)
    torch.testing.assert_close(weights, (counts / (counts + FEW)).double().sqrt())


def test_a_direction_without_variance_and_a_class_without_inputs_count_nothing() -> None:
    v = torch.tensor([[1.0, 0.0, 5.0], [3.0, 0.0, 5.0], [2.0, 0.0, 5.0]])
    means, whitening, weights = centers(v, torch.tensor([[0, 0, 1]] * 3))
    assert means.tolist() == [[0, 0, 0], [0, 0, 0], [2, 0, 5]]
    assert weights.tolist()[:2] == [0, 0]
    torch.testing.assert_close(whitening.diagonal(), torch.tensor([1.5**0.5, 0, 0], dtype=torch.float64))
    overflowed = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0]])
    assert not any(part.any() for part in centers(overflowed, torch.tensor([[1, 0], [1, 0]]))), "nothing is known"
    assert not centers(torch.zeros(4, 2), torch.tensor([[1, 0]] * 4)).whitening.any(), "nothing differs"


@pytest.mark.parametrize("counts", [(100, 0), (50, 50), (0.25, 199.75)])
def test_drift_is_what_chance_does_not_explain(counts: tuple[float, float]) -> None:
    """Squared means by groups, weighted by their numbers, against 2 and 1.5 for each of three columns of each group."""
    number = sum(counts)
    limit = (NEAR + NOISE * 2 * D / number) ** 0.5
    for share, drifted in ((0.99, False), (1.01, True)):
        means = share * limit * np.array([[0.6, 0.0, -0.8], [0.0, 1.0, 0.0]])
        sums = np.array([[*(mean * count), count] for mean, count in zip(means, counts, strict=True)])
        assert has_drifted(sums, np.eye(D), NEAR) == drifted
        assert not has_drifted(sums, np.zeros((D, D)), NEAR), "before anything is measured"


def slowly(known: Drift, rows: np.ndarray, groups: np.ndarray, whitening: np.ndarray) -> tuple[list[bool], Drift]:
    sums, inliers, drifted, flags = known.sums.copy(), known.inliers, known.drifted, []
    for row, group in zip(rows, groups, strict=True):
        flags.append(drifted)
        sums[group] += row
        inliers += int(row[-1])
        if row[-1] and inliers in (STEP, MOST):
            means = [part[:-1] @ whitening / part[-1] for part in sums if part[-1]]
            weights = [part[-1] for part in sums if part[-1]]
            squared = sum(weight * mean @ mean for weight, mean in zip(weights, means, strict=True)) / sum(weights)
            drifted = bool(squared > NEAR + NOISE * sums[:, :-1].size / sum(weights))
            if inliers == MOST:
                sums, inliers = sums / 2, inliers // 2
    return flags, Drift(sums, inliers, drifted)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 300), max_size=5), st.floats(0, 3), st.floats(0, 1))
def test_queries_are_followed_one_by_one_however_they_are_batched(
    seed: int, sizes: list[int], shift: float, share: float
) -> None:
    generator = np.random.default_rng(seed)
    rows = np.ones((sum(sizes), D + 1))
    rows[:, :D] = generator.normal(size=(len(rows), D)) + shift
    rows *= (generator.random(len(rows)) < share)[:, None]
    groups, whitening = generator.integers(0, 4, len(rows)), generator.normal(size=(D, D))
    known, flags, start = Drift(np.zeros((4, D + 1)), 0, False), list[bool](), 0
    told, expected = slowly(known, rows, groups, whitening)
    for size in sizes:
        part = slice(start, start + size)
        more, known = followed(known, rows[part], groups[part], whitening, NEAR)
        flags, start = flags + more, start + size
    assert flags == told
    assert np.array_equal(known.sums, expected.sums), "to the bit"
    assert known[1:] == expected[1:]
