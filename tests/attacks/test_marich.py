"""Marich: its selections against closed forms and slow oracles, its rounds, and every input asked at most once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samples import mlp, noise
from stealguard.attacks import MARICH
from stealguard.attacks.marich import _centers, _mismatch
from stealguard.attacks.selection import entropy, entropy_gradients, k_means, near_all, near_each
from stealguard.attacks.transfer import Transfer
from stealguard.boxes import Boxed, Labels, Metered
from stealguard.errors import Invalid
from stealguard.training.loop import Training

ONE = Training(epochs=1, batch=16)


class TestEntropyGradients:
    def test_entropy_gradients_of_a_linear_net(self) -> None:
        """dH/dx = -sum_k q_k (log q_k + H) w_k."""
        net, x = nn.Linear(16, 5).double(), noise(300, (16,)).double()
        with torch.no_grad():
            q = net(x).softmax(dim=1)
            expected = -(q * (q.log() + entropy(q)[:, None])) @ net.weight
        torch.testing.assert_close(entropy_gradients(net, x), expected)

    def test_entropy_gradients_equal_finite_differences(self) -> None:
        net, x = nn.Sequential(nn.Flatten(), mlp()).double(), noise(4, (1, 4, 4)).double()
        step = 1e-6 * torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)

        def at(z: Tensor) -> Tensor:
            with torch.no_grad():
                return entropy(net(z).softmax(dim=1))

        slow = torch.stack([(at(one + step) - at(one - step)) / 2e-6 for one in x])
        torch.testing.assert_close(entropy_gradients(net, x), slow, atol=1e-7, rtol=1e-5)

    def test_the_batch_matters_only_to_the_softmax_over_the_batch(self) -> None:
        net, x = mlp().double(), noise(130, (16,)).double()
        torch.testing.assert_close(entropy_gradients(net, x)[:2], entropy_gradients(net, x[:2]))
        first = entropy_gradients(net, x, over="batch")[:2]
        assert not torch.allclose(first, entropy_gradients(net, x[:2], over="batch"))
        assert not torch.allclose(first, entropy_gradients(net, x)[:2])

    def test_entropy_gradients_leave_none_in_the_net(self) -> None:
        net = mlp()
        assert not entropy_gradients(net, noise(5, (16,))).requires_grad
        assert all(p.grad is None for p in net.parameters())


def union_of_nearest(points: Tensor, centers: Tensor, k: int) -> tuple[set[int], set[int]]:
    """The union of every center's t nearest, for the greatest t with which it has at most k, and for the next."""
    orders = [(points - center).norm(dim=1).argsort().tolist() for center in centers]
    inside: set[int] = set()
    for t in range(1, len(points) + 1):
        union = {row for order in orders for row in order[:t]}
        if len(union) > k:
            return inside, union
        inside = union
    return inside, inside


class TestNear:
    @pytest.mark.parametrize("k", [1, 7, 40, 60])
    @pytest.mark.parametrize("centers", [1, 5])
    def test_near_each_is_the_union_of_the_nearest(self, k: int, centers: int) -> None:
        points, there = noise(60, (5,)).double(), noise(centers, (5,), seed=4).double()
        picked = near_each(points, there, k).tolist()
        inside, outside = union_of_nearest(points, there, k)
        assert len(set(picked)) == k
        assert inside <= set(picked) <= outside

    def test_near_each_alternates_and_near_all_prefers_the_middle(self) -> None:
        points = torch.tensor([[0.0], [1.0], [4.0], [5.0], [9.5], [11.0]])
        centers = torch.tensor([[0.0], [10.0]])
        assert near_each(points, centers, 2).tolist() == [0, 4]
        assert near_each(points, centers, 3).tolist() == [
            0,
            4,
            1,
        ]  # the nearest of the second round: both have distance 1
        assert near_all(points, centers, 2).tolist() == [3, 2]

    def test_near_all_equals_the_slow_sum(self) -> None:
        points, there = noise(60, (5,)).double(), noise(7, (5,), seed=4).double()
        sums = torch.stack([sum((point - center).square().sum() for center in there) for point in points])  # type: ignore[misc]
        assert near_all(points, there, 20).tolist() == sums.argsort()[:20].tolist()

    @pytest.mark.parametrize("near", [near_each, near_all])
    def test_equal_points_are_each_picked_once(self, near: Any) -> None:
        assert sorted(near(torch.zeros(6, 2), torch.zeros(3, 2), 6).tolist()) == list(range(6))


class TestCenters:
    def test_centers_are_the_means_of_the_groups(self) -> None:
        points = torch.cat([noise(50, (4,)) + 5 * shift for shift in range(3)])
        groups = k_means(points, 3, seed=1)
        slow = torch.stack([points[groups == g].mean(dim=0) for g in range(3) if (groups == g).any()])
        torch.testing.assert_close(_centers(points, 3, 1), slow)

    def test_equal_points_have_one_center(self) -> None:
        torch.testing.assert_close(_centers(torch.ones(9, 4), 3, 0), torch.ones(1, 4))


class Box:
    """Keeps the queries; answers by the first values."""

    def __init__(self, classes: int = 3) -> None:
        self.classes, self.seen = classes, []  # type: ignore[var-annotated]

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return (8 * x.flatten(1)[:, : self.classes]).softmax(dim=1)


def test_mismatch_is_the_divergence_and_on_labels_the_cross_entropy() -> None:
    clone, x = mlp().double(), noise(30, (16,)).double()
    for box in (Box(), Labels(Box())):
        transfer = Transfer(30)
        p = transfer.ask(Metered(box, 30), x)
        log_q = clone(x).detach().log_softmax(dim=1)
        slow = torch.stack(
            [sum(a * (a.log() - b) for a, b in zip(*row, strict=True) if a > 0) for row in zip(p, log_q, strict=True)]
        )  # type: ignore[misc]
        torch.testing.assert_close(_mismatch(clone, transfer), slow)


def steal(attack: MARICH, pool: Tensor, budget: int = 0, classes: int = 3) -> tuple[Metered, list[Tensor]]:
    box = Box(classes)
    metered = Metered(box, budget or attack.budget)
    torch.manual_seed(0)
    attack(metered, pool, nn.Sequential(nn.Flatten(), mlp(pool[0].numel(), classes)), seed=0)
    return metered, box.seen


class TestRounds:
    @pytest.mark.parametrize("budget", [1, 2, 3, 13, 60, 100])
    @pytest.mark.parametrize("near", ["each", "all"])
    def test_every_input_is_asked_at_most_once_and_the_budget_spent(self, budget: int, near: Any) -> None:
        metered, seen = steal(MARICH(budget, rounds=4, near=near, softmax="batch", training=ONE), noise(100, (16,)))
        asked = torch.cat(seen)
        assert metered.left == 0
        assert len(asked.unique(dim=0)) == len(asked) == budget

    def test_it_ends_when_the_box_answers_no_more(self) -> None:
        metered, seen = steal(MARICH(80, rounds=4, training=ONE), noise(100, (16,)), budget=31)
        assert metered.left == 0
        assert len(torch.cat(seen).unique(dim=0)) == 31

    def test_a_round_may_have_few_candidates(self) -> None:
        metered, seen = steal(MARICH(60, rounds=4, candidates=14, training=ONE), noise(100, (16,)))
        assert metered.left == 0
        assert len(torch.cat(seen).unique(dim=0)) == 60

    def test_rounds_grow_by_the_ratio(self) -> None:
        pool = noise(400, (16,))
        _, seen = steal(MARICH(150, rounds=3, initial=0.05, growth=2.0, training=ONE), pool)
        assert [len(x) for x in seen] == [7, 20, 41, 82]
        _, seen = steal(MARICH(100, rounds=4, initial=0.2, growth=1.0, training=ONE), pool)
        assert [len(x) for x in seen] == [20, 20, 20, 20, 20]

    def test_the_rounds_of_the_published_run(self) -> None:
        """500 at first, then 550 times 1.01 and so on: the program's numbers, but for its rounding."""
        attack = MARICH(500 + round(550 * sum(1.01**r for r in range(1, 11))), initial=500 / 6312)
        assert attack._parts(attack.budget)[:3] == [500, 556, 561]

    def test_the_first_selection_keeps_the_greatest_entropy(self) -> None:
        """If the other selections keep all, a round asks the inputs of the greatest entropy."""
        pool = noise(100, (16,))
        attack = MARICH(60, rounds=1, initial=0.5, gammas=(1.0, 1.0), training=ONE)
        box = Box()
        torch.manual_seed(0)
        clone = mlp()
        before: list[Tensor] = []

        def spying(x: Tensor) -> Tensor:
            if box.seen:  # the second query: the entropy of the clone on the pool before it
                before.append(entropy(Boxed(clone, (16,))(pool)))
            return box(x)

        attack(Metered(spying, 60), pool, clone, seed=0)
        first, second = box.seen
        rest = torch.tensor([not (row == first).all(dim=1).any() for row in pool])
        expected = pool[rest][before[0][rest].topk(30).indices]
        assert sorted(second[:, 0].tolist()) == sorted(expected[:, 0].tolist())

    def test_the_last_selection_keeps_inputs_near_the_greatest_mismatch(self) -> None:
        """A pool of two clusters; the answers to one of them cannot be learned."""
        near, far = 0.1 * noise(200, (16,)), 0.9 + 0.1 * noise(200, (16,), seed=4)

        def box(x: Tensor) -> Tensor:
            odd = x.mean(dim=1) > 0.5
            rows = torch.arange(len(x))
            return torch.eye(3)[torch.where(odd, rows % 3, torch.zeros_like(rows))]  # noise there, one class here

        asked: list[Tensor] = []
        attack = MARICH(60, rounds=1, initial=0.5, gammas=(1.0, 0.3), clusters=1, training=Training(epochs=30, batch=8))
        torch.manual_seed(0)
        attack(Metered(lambda x: asked.append(x) or box(x), 60), torch.cat([near, far]), mlp(), seed=0)
        assert (asked[1].mean(dim=1) > 0.5).all()

    @pytest.mark.parametrize(("shape", "classes"), [((1, 8, 8), 2), ((3, 8, 8), 100), ((16,), 5)])
    def test_any_shape_and_number_of_classes(self, shape: tuple[int, ...], classes: int) -> None:
        attack = MARICH(60, rounds=3, training=ONE)
        runs = [torch.cat(steal(attack, noise(80, shape), classes=classes)[1]) for _ in range(2)]
        assert runs[0].shape == (60, *shape)
        assert torch.equal(*runs)


def test_a_linear_victim_is_learned() -> None:
    torch.manual_seed(1)
    victim, clone, pool = nn.Linear(16, 3), nn.Linear(16, 3), noise(4000, (16,))
    MARICH(1000, rounds=4, training=Training(epochs=20, lr=0.5))(
        Metered(Boxed(victim, (16,)), 1000), pool, clone, seed=0
    )
    fresh = noise(500, (16,), seed=9)
    torch.testing.assert_close(clone(fresh).softmax(1).detach(), victim(fresh).softmax(1).detach(), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", 0),
        ("initial", 0.0),
        ("growth", 0.0),
        ("gammas", (0.8, 0.0)),
        ("clusters", -1),
        ("candidates", -1),
        ("near", "some"),
        ("softmax", "rows"),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(Invalid, match=f"`{name}`"):
        replace(MARICH(), **{name: value})
