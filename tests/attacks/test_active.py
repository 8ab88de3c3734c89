"""ActiveThief and its selections: closed forms, naive oracles, and every input asked at most once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samples import mlp, noise
from stealguard.attacks import ActiveThief
from stealguard.attacks.active import STRATEGIES
from stealguard.attacks.selection import boundary_distance, class_gradients, entropy, k_center
from stealguard.boxes import Metered
from stealguard.errors import Invalid
from stealguard.training.loop import Training


class TestEntropy:
    def test_entropy_of_certain_and_uniform_answers(self) -> None:
        answers = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]])
        torch.testing.assert_close(entropy(answers), torch.tensor([0.0, 4.0]).log1p() * torch.tensor([0.0, 0.8613531]))


def naive_k_center(points: Tensor, centers: Tensor, k: int) -> list[int]:
    """All pairwise distances, each time anew."""
    picked: list[int] = []
    for _ in range(k):
        there = torch.cat([centers, points[picked]])
        nearest = (points[:, None] - there[None]).square().sum(dim=2).amin(dim=1)
        picked.append(int(nearest.argmax()))
    return picked


class TestKCenter:
    @pytest.mark.parametrize("centers", [1, 3, 40])
    def test_it_equals_the_naive_greedy_algorithm(self, centers: int) -> None:
        points, there = noise(60, (5,)).double(), noise(centers, (5,), seed=4).double()
        assert k_center(points, there, 20).tolist() == naive_k_center(points, there, 20)

    def test_points_on_a_line_by_hand(self) -> None:
        points = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
        assert k_center(points, torch.tensor([[0.0]]), 3).tolist() == [3, 2, 1]

    def test_equal_points_are_each_picked_once(self) -> None:
        assert sorted(k_center(torch.zeros(6, 2), torch.zeros(1, 2), 6).tolist()) == list(range(6))


class TestBoundaryDistance:
    def test_the_distance_to_the_boundary_of_two_linear_classes(self) -> None:
        net, x = nn.Linear(16, 2).double(), noise(300, (16,)).double()
        with torch.no_grad():
            margin = (net(x)[:, 0] - net(x)[:, 1]).abs()
            expected = margin / (net.weight[0] - net.weight[1]).norm()
        torch.testing.assert_close(boundary_distance(net, x), expected)

    def test_the_distance_of_many_linear_classes_is_that_of_the_nearest_boundary(self) -> None:
        torch.manual_seed(0)
        net, x = nn.Linear(16, 7).double(), noise(40, (16,)).double()
        with torch.no_grad():
            z = net(x)
            first = z.argmax(dim=1)
            gaps = (z - z.gather(1, first[:, None])).abs()
            lengths = (net.weight[None] - net.weight[first][:, None]).norm(dim=2)
            expected = (gaps / lengths).nan_to_num(torch.inf).amin(dim=1)
        torch.testing.assert_close(boundary_distance(net, x), expected)

    def test_a_nonlinear_net_has_one_class_within_half_the_distance(self) -> None:
        torch.manual_seed(0)
        net, x = mlp().double(), noise(1, (16,)).double()
        directions = nn.functional.normalize(torch.randn(20_000, 16).double(), dim=1)
        ball = x + 0.5 * boundary_distance(net, x, steps=50) * directions
        with torch.no_grad():
            assert (net(ball).argmax(1) == net(x).argmax(1)).all()

    def test_the_distance_of_an_image_does_not_depend_on_its_batch(self) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)).double()
        x = noise(9, (1, 8, 8)).double()
        alone = torch.cat([boundary_distance(net, one) for one in x.split(1)])
        torch.testing.assert_close(boundary_distance(net, x), alone)

    def test_a_net_with_zero_gradients_has_a_finite_distance(self) -> None:
        net = nn.Linear(4, 3)
        nn.init.zeros_(net.weight)
        assert torch.isfinite(boundary_distance(net, noise(5, (4,)))).all()


def test_class_gradients_are_rows_of_the_jacobian() -> None:
    net, x = mlp().double(), noise(4, (16,)).double()
    classes = torch.tensor([[0, 2], [1, 0], [2, 1], [0, 1]])
    values, gradients = class_gradients(net, x, classes)
    full = torch.stack([torch.autograd.functional.jacobian(net, one) for one in x])  # type: ignore[no-untyped-call]
    torch.testing.assert_close(gradients, full[torch.arange(4)[:, None], classes])
    torch.testing.assert_close(values, net(x).detach().gather(1, classes))


class Box:
    """Keeps the queries; answers by the first three values."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return (8 * x.flatten(1)[:, :3]).softmax(dim=1)


def steal(attack: ActiveThief, pool: Tensor, budget: int = 0) -> tuple[Metered, Tensor]:
    box = Box()
    metered = Metered(box, budget or attack.budget)
    torch.manual_seed(0)
    attack(metered, pool, mlp(), seed=0)
    return metered, torch.cat(box.seen)


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestStrategies:
    @pytest.mark.slow
    @pytest.mark.parametrize("budget", [1, 2, 13, 60, 100])
    def test_every_input_is_asked_at_most_once_and_the_budget_spent(self, strategy: Any, budget: int) -> None:
        attack = ActiveThief(budget=budget, strategy=strategy, rounds=4, training=Training(epochs=1, batch=16))
        metered, asked = steal(attack, noise(100, (16,)))
        assert metered.left == 0
        assert len(asked.unique(dim=0)) == len(asked) == budget

    def test_a_round_may_have_few_candidates(self, strategy: Any) -> None:
        attack = ActiveThief(40, strategy, rounds=3, candidates=20, training=Training(epochs=1, batch=16))
        _, asked = steal(attack, noise(100, (16,)))
        assert len(asked.unique(dim=0)) == 40

    def test_it_ends_when_the_box_answers_no_more(self, strategy: Any) -> None:
        attack = ActiveThief(80, strategy, rounds=3, training=Training(epochs=1, batch=16))
        assert steal(attack, noise(100, (16,)), budget=31)[0].left == 0


class TestRounds:
    def test_the_budget_is_divided_as_in_the_paper(self) -> None:
        assert ActiveThief()._parts(1000) == [200, 100, *[70] * 10]
        assert ActiveThief()._parts(1) == [0, 1]
        assert sum(ActiveThief(rounds=7)._parts(997)) == 997
        assert ActiveThief(validation=0.0, initial=0.0, rounds=3)._parts(10) == [0, 1, 3, 3, 3]

    def test_uncertainty_asks_where_the_entropy_of_the_clone_is_greatest(self) -> None:
        """Two thirds of the pool are far from the boundary; the clone learns them and asks the third near it."""
        far = torch.cat([torch.tensor([[1.0, 0.0]]).repeat(100, 1), torch.tensor([[0.0, 1.0]]).repeat(100, 1)])
        pool = torch.cat([0.9 * far, 0.5 * torch.ones(100, 2)]) + 0.1 * noise(300, (2,))
        seen: list[Tensor] = []

        def box(x: Tensor) -> Tensor:
            seen.append(x.clone())
            return (9 * x).softmax(dim=1)

        attack = ActiveThief(
            100, "uncertainty", rounds=1, initial=0.5, validation=0.0, training=Training(epochs=60, batch=16)
        )
        torch.manual_seed(0)
        attack(Metered(box, 100), pool, nn.Linear(2, 2), seed=0)
        between = [((x[:, 0] - x[:, 1]).abs() < 0.2).double().mean().item() for x in seen]
        assert between[0] < 0.6
        assert between[-1] == 1.0

    @pytest.mark.parametrize("scratch", [True, False])
    def test_the_budget_is_spent_with_and_without_validation(self, scratch: bool) -> None:
        short = Training(epochs=2, batch=16)
        for validation in (0.0, 0.2):
            attack = ActiveThief(50, "random", rounds=2, validation=validation, scratch=scratch, training=short)
            assert steal(attack, noise(60, (16,)))[0].spent == 50


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda: ActiveThief(strategy="dfl"), "strategy"),  # type: ignore[arg-type]
        (lambda: ActiveThief(rounds=0), "rounds"),
        (lambda: ActiveThief(initial=1.0), "initial"),
        (lambda: ActiveThief(validation=-0.1), "validation"),
        (lambda: ActiveThief(validation=0.6, initial=0.6), "initial, validation"),
        (lambda: ActiveThief(candidates=-1), "candidates"),
    ],
)
def test_settings_out_of_range_are_named(wrong: Any, name: str) -> None:
    with pytest.raises(Invalid, match=f"`{name}`"):
        wrong()
