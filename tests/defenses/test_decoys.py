"""Decoys: no class stands for itself, and the clusters of a class have names that no renaming makes right."""

from __future__ import annotations

import pytest
import torch

from samples import blobs, noise
from stealguard.defenses.decoys import CLUSTERS, COARSE, LENGTH, SIDE, Clusters, Decoys, _flat, wrong_names
from stealguard.results.renaming import best_renaming


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 199])
@pytest.mark.parametrize("clusters", [1, 3, 9])
def test_every_cluster_has_the_name_of_another_class(classes: int, clusters: int) -> None:
    wrong = wrong_names(classes, clusters, seed=5)
    assert wrong.shape == (classes, clusters)
    assert (wrong != torch.arange(classes)[:, None]).all()
    assert all(len(set(row.tolist())) == min(clusters, classes - 1) for row in wrong)
    assert (wrong.flatten().bincount(minlength=classes) == clusters).all(), "every name is given equally often"
    assert torch.equal(wrong, wrong_names(classes, clusters, seed=5))
    assert classes == 2 or not torch.equal(wrong, wrong_names(classes, clusters, seed=7))


@pytest.mark.parametrize("shape", [(5,), (1, 28, 28), (3, 100, 90)])
def test_decoys_read_inputs_centered_and_of_one_length(shape: tuple[int, ...]) -> None:
    x = noise(4, shape)
    for side in (SIDE, COARSE):
        flat = _flat(x, side)
        large = len(shape) == 3 and shape[1] > side
        assert flat.shape[1] == (shape[0] * side * side if large else x[0].numel())
        torch.testing.assert_close(flat.norm(dim=1), torch.full((4,), LENGTH))
        torch.testing.assert_close(flat.mean(dim=1), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(_flat(0.3 * x + 0.2, side), flat, atol=1e-4, rtol=0)
        assert not _flat(torch.ones(2, *shape), side).isnan().any()


def test_a_class_starts_with_its_first_inputs_as_centers() -> None:
    clusters, points = Clusters(3, 2), noise(20, (3,))
    y = torch.arange(20) % 2
    own = clusters.learn(points, y)
    assert torch.equal(own[:18], torch.arange(18) // 2)
    assert torch.equal(clusters.counts.sum(dim=1), torch.tensor([10.0, 10.0]))
    for k in range(2):
        for c in range(CLUSTERS):
            here = (y == k) & (own == c)
            torch.testing.assert_close(clusters.centers[k, c], points[here].mean(dim=0))


def test_a_center_is_the_mean_of_all_points_that_were_assigned_to_it() -> None:
    clusters, sums, counts = Clusters(4, 3), torch.zeros(3, CLUSTERS, 4), torch.zeros(3, CLUSTERS)
    for step in range(10):
        points, y = noise(30, (4,), seed=step), torch.randint(3, (30,))
        for point, k, c in zip(points, y, clusters.learn(points, y), strict=True):
            sums[k, c] += point
            counts[k, c] += 1
    assert torch.equal(clusters.counts, counts)
    torch.testing.assert_close(clusters.centers, sums / counts[:, :, None].clamp_min(1))


def test_points_go_to_the_nearest_center_of_their_own_class() -> None:
    clusters = Clusters(2, 3)
    clusters.learn(noise(300, (2,)), torch.arange(300) % 3)
    centers, points, y = clusters.centers.clone(), noise(50, (2,), seed=8), torch.arange(50) % 3
    nearest = torch.stack([(centers[k] - point).norm(dim=1).argmin() for point, k in zip(points, y, strict=True)])
    assert torch.equal(clusters.learn(points, y), nearest)


def test_no_renaming_makes_the_right_names_of_the_decoys() -> None:
    """Nine clusters of a class have nine names, and a name stands for a cluster of each of nine classes."""
    x, y = blobs(2000, (24,), 10)
    decoys = Decoys(x, 10, seed=1)
    parts = zip(_flat(x, COARSE).split(50), y.split(50), strict=True)
    own = torch.cat([decoys.clusters.learn(*part) for part in parts])
    names = torch.eye(10)[decoys.wrong[y, own]]
    assert best_renaming(names, y) < 0.5
    assert (decoys.wrong[y, own] != y).all()
    permuted = torch.eye(10)[decoys.wrong[y, 0]]
    assert best_renaming(permuted, y) == 1.0, "one name a class is renamed exactly"


def test_the_loss_is_the_cross_entropy_to_the_wrong_names() -> None:
    x, y = blobs(40, (16,), 3)
    decoys = Decoys(x, 3, seed=1)
    torch.nn.init.normal_(decoys.linear.weight)
    loss = decoys.loss(x, y)
    again = Decoys(x, 3, seed=1)
    own = again.clusters.learn(_flat(x, COARSE), y)
    by_hand = -decoys(x).log_softmax(dim=1)[torch.arange(40), decoys.wrong[y, own]].mean()
    torch.testing.assert_close(loss, by_hand)
    assert torch.equal(decoys.clusters.counts, again.clusters.counts)
