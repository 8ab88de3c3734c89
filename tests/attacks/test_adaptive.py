"""KnockoffNets' bandit: its closed form, groups and rewards, and every input asked at most once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samples import mlp, noise
from stealguard.attacks import AdaptiveKnockoff
from stealguard.attacks.adaptive import Bandit, Scale, certainty, diversity, loss
from stealguard.attacks.selection import k_means
from stealguard.boxes import Metered
from stealguard.errors import Invalid
from stealguard.training.loop import Training

ALL = torch.ones(2, dtype=torch.bool)
ONE = Training(epochs=1, batch=16)


class TestBandit:
    def test_two_steps_by_hand(self) -> None:
        bandit = Bandit(2, window=25)
        bandit.learn(0, 1.0, bandit.policy(ALL))  # the first reward is its own baseline
        torch.testing.assert_close(bandit.policy(ALL), torch.tensor([0.5, 0.5], dtype=torch.double))
        bandit.learn(1, 0.0, bandit.policy(ALL))  # (0 - 1/2) (1 - 1/2) = -1/4 for it, +1/4 for the other
        torch.testing.assert_close(bandit.policy(ALL), torch.tensor([0.25, -0.25], dtype=torch.double).softmax(0))
        usual = bandit.policy(ALL)
        bandit.learn(1, 0.8, usual)  # baseline 0.6, taken twice: 0.1
        moved = torch.tensor([0.25, -0.25], dtype=torch.double) + 0.1 * (torch.tensor([0.0, 1.0]) - usual)
        torch.testing.assert_close(bandit.policy(ALL), moved.softmax(0))

    def test_it_prefers_the_action_with_the_reward(self) -> None:
        generator, bandit = torch.Generator().manual_seed(0), Bandit(3, window=25)
        for _ in range(2000):
            policy = bandit.policy(torch.ones(3, dtype=torch.bool))
            action = int(policy.multinomial(1, generator=generator))
            bandit.learn(action, float(action == 2), policy)
        assert policy.argmax() == 2
        assert policy[2] > 0.7

    def test_an_impossible_action_has_probability_0(self) -> None:
        policy = Bandit(3, window=5).policy(torch.tensor([True, False, True]))
        torch.testing.assert_close(policy, torch.tensor([0.5, 0.0, 0.5], dtype=torch.double))


class TestRewards:
    answers = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
    usual = torch.tensor([0.5, 0.25, 0.25])
    predicted = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])

    def test_rewards_by_hand(self) -> None:
        torch.testing.assert_close(certainty(self.answers, self.usual, self.predicted), torch.tensor([0.5, 1.0]))
        torch.testing.assert_close(diversity(self.answers, self.usual, self.predicted), torch.tensor([0.2, 0.75]))
        expected = -torch.tensor([0.7 * math.log(0.5) + 0.3 * math.log(0.25), math.log(0.8)])
        torch.testing.assert_close(loss(self.answers, self.usual, self.predicted), expected)

    def test_rewards_are_scaled_by_their_range_so_far_and_added(self) -> None:
        scale = Scale(2)
        torch.testing.assert_close(scale(torch.tensor([[0.0, 4.0], [1.0, 1.0]])), torch.tensor([0.0, 1.0]))
        torch.testing.assert_close(scale(torch.tensor([[1.0, 2.0], [1.0, 3.0]])), torch.tensor([0.25, 1.5]))


class TestGroups:
    def test_separate_clusters_are_found(self) -> None:
        kinds = torch.arange(300) % 3
        x = (0.4 * kinds[:, None, None, None] + 0.1 * noise(300, (1, 8, 8))).clamp(0, 1)
        groups = k_means(x, 3, seed=0)
        pairs = {(int(a), int(b)) for a, b in zip(kinds, groups, strict=True)}
        assert (
            len(pairs) == 3 or len(set(groups.tolist())) < 3
        )  # each kind is one group, unless it began with a bad draw
        assert torch.equal(groups, k_means(x, 3, seed=0))

    def test_a_sample_and_few_pixels_are_enough(self) -> None:
        x = torch.cat([0.1 * noise(500, (3, 16, 16)), 0.9 + 0.1 * noise(500, (3, 16, 16))])
        groups = k_means(x, 2, seed=1, sample=100, pixels=10)
        assert set(groups[:500].tolist()) | set(groups[500:].tolist()) == {0, 1}
        assert len(set(groups[:500].tolist())) == 1

    def test_equal_inputs_are_one_group(self) -> None:
        assert k_means(torch.zeros(7, 4), 3, seed=0).tolist() == [0] * 7


def two_kinds(n: int) -> Tensor:
    """Dark inputs and bright ones in turn, (n, 16): two groups."""
    return 0.9 * (torch.arange(n) % 2)[:, None] + 0.1 * noise(n, (16,))


class Box:
    """Certain of bright inputs; answers dark ones uniformly."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return torch.where(x[:, :1] > 0.5, torch.tensor([1.0, 0, 0]), torch.full((3,), 1 / 3))


def steal(attack: AdaptiveKnockoff, pool: Tensor, budget: int = 0) -> tuple[Metered, Tensor]:
    box = Box()
    metered = Metered(box, budget or attack.budget)
    torch.manual_seed(0)
    attack(metered, pool, mlp(), seed=0)
    return metered, torch.cat(box.seen)


def test_the_group_with_the_reward_is_asked_more() -> None:
    attack = AdaptiveKnockoff(600, groups=2, rewards=("certainty",), batch=4, online=ONE, training=ONE)
    _, asked = steal(attack, two_kinds(2000))
    assert (asked[:, 0] > 0.5).double().mean() > 0.75


@pytest.mark.parametrize("rewards", [("certainty",), ("diversity",), ("loss",), ("certainty", "diversity", "loss")])
@pytest.mark.parametrize("budget", [1, 50, 99])
def test_every_input_is_asked_at_most_once_and_the_budget_spent(rewards: Any, budget: int) -> None:
    attack = AdaptiveKnockoff(budget, rewards=rewards, batch=7, online=ONE, training=ONE)
    metered, asked = steal(attack, noise(99, (16,)))
    assert metered.left == 0
    assert len(asked.unique(dim=0)) == budget


def test_a_net_with_batch_norm_learns_from_a_last_single_query() -> None:
    clone = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    metered = Metered(Box(), 33)
    AdaptiveKnockoff(33, batch=32, groups=1, online=ONE, training=ONE)(metered, noise(40, (16,)), clone, seed=0)
    assert metered.spent == 33


def test_it_ends_with_the_box_or_with_the_pool() -> None:
    attack = AdaptiveKnockoff(80, online=ONE, training=ONE)
    assert steal(attack, noise(99, (16,)), budget=33)[0].left == 0
    assert steal(attack, noise(20, (16,)))[0].spent == 20


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda: AdaptiveKnockoff(groups=0), "groups"),
        (lambda: AdaptiveKnockoff(window=0), "window"),
        (lambda: AdaptiveKnockoff(batch=0), "batch"),
        (lambda: AdaptiveKnockoff(rewards=()), "rewards"),
        (lambda: AdaptiveKnockoff(rewards=("novelty",)), "rewards"),
    ],
)
def test_settings_out_of_range_are_named(wrong: Any, name: str) -> None:
    with pytest.raises(Invalid, match=f"`{name}`"):
        wrong()
