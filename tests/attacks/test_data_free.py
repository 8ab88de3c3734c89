"""Attacks that make their own queries: what they minimize, what they ask, and that their clones learn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samples import blobs, mlp, noise
from stealguard.attacks import DFME, DFMSHL, MAZE, DisGUIDE
from stealguard.attacks.data_free.alternating import Alternating, Alternation, Replay, evenness, kl, l1
from stealguard.attacks.data_free.disguide import Vote, disagreement
from stealguard.attacks.transfer import labels_only
from stealguard.boxes import Boxed, Labels, Metered
from stealguard.errors import Invalid, NonFiniteLoss, NotApplicable

FAST = Alternating(batch=32, lr=0.5, generator_lr=1e-3, latent=16, width=8)
ATTACKS: list[Any] = [
    DFME(training=FAST),
    MAZE(training=FAST, directions=2, replay_steps=2),
    DisGUIDE(training=FAST),
    DFMSHL(training=FAST, synthetic=500),
]
ALL = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
ON_LABELS = pytest.mark.parametrize(
    "attack", [ATTACKS[2], pytest.param(ATTACKS[3], marks=pytest.mark.thorough)], ids=lambda a: type(a).__name__
)
POOL = torch.zeros(1, 16)


def linear_victim(classes: int = 3) -> nn.Module:
    """Its classes are sectors around the middle of the cube, so that noise sees all of them."""
    torch.manual_seed(5)
    net = nn.Linear(16, classes)
    with torch.no_grad():
        net.weight.normal_(std=1.5)
        net.bias.copy_(-net.weight.sum(dim=1) / 2)
    return net


def untrained() -> nn.Module:
    torch.manual_seed(6)
    return nn.Linear(16, 3)


def same(victim: nn.Module, clone: nn.Module, x: Tensor) -> float:
    return (victim(x).argmax(1) == clone(x).argmax(1)).double().mean().item()


class TestGaps:
    def test_l1_recovers_logits_up_to_a_constant(self) -> None:
        torch.manual_seed(0)
        true, guess = torch.randn(5, 4).double(), torch.randn(5, 4).double()
        centered = true - true.mean(dim=1, keepdim=True)
        torch.testing.assert_close(l1(guess, (true + 7).softmax(dim=1)), (guess - centered).abs().mean(dim=1))
        torch.testing.assert_close(l1(centered, true.softmax(dim=1)), torch.zeros(5).double())

    def test_kl_is_its_definition(self) -> None:
        torch.manual_seed(0)
        p, logits = torch.randn(5, 4).softmax(dim=1), torch.randn(5, 4)
        expected = (p * (p.log() - logits.log_softmax(dim=1))).sum(dim=1)
        torch.testing.assert_close(kl(logits, p), expected)

    @pytest.mark.parametrize("gap", [l1, kl])
    def test_both_are_cross_entropy_on_labels_and_have_no_gradient_on_zeros(self, gap: Any) -> None:
        rows, logits = F.one_hot(torch.arange(3)).float(), torch.randn(3, 3, requires_grad=True)
        torch.testing.assert_close(gap(logits, rows), F.cross_entropy(logits, rows, reduction="none"))
        (gradient,) = torch.autograd.grad(gap(logits, torch.zeros(3, 3)).sum(), logits)
        torch.testing.assert_close(gradient, torch.zeros(3, 3))

    def test_rows_that_are_labels_alone_are_recognized(self) -> None:
        rows = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 0]])
        assert labels_only(rows).tolist() == [True, False, True]

    def test_evenness_is_entropy_of_the_mean(self) -> None:
        assert evenness(torch.eye(4)).item() == pytest.approx(math.log(4))
        assert evenness(torch.eye(4)[[0, 0]]).item() == 0
        assert evenness(torch.eye(4).view(2, 2, 4)).item() == pytest.approx(math.log(4))

    def test_evenness_has_a_finite_gradient_if_a_class_is_never_answered(self) -> None:
        rows = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
        (gradient,) = torch.autograd.grad(evenness(rows), rows)
        assert gradient.isfinite().all()

    def test_disagreement_is_the_deviation_between_clones(self) -> None:
        assert disagreement(torch.eye(2)[:, None]).item() == pytest.approx(0.5**0.5)
        assert disagreement(torch.full((2, 5, 3), 1 / 3)).item() == 0

    def test_a_vote_is_the_mean_of_probabilities(self) -> None:
        one, two = untrained(), linear_victim()
        x = noise(7, (16,))
        expected = (one(x).softmax(dim=1) + two(x).softmax(dim=1)) / 2
        torch.testing.assert_close(Vote([one, two])(x).softmax(dim=1), expected)


class TestReplay:
    def test_replay_keeps_the_latest(self) -> None:
        replay = Replay(5)
        for start in (0, 3, 6):
            rows = torch.arange(start, start + 3.0)[:, None]
            replay.add(rows, -rows)
        assert len(replay) == 5
        x, answers = replay.draw(500)
        assert sorted(set(x[:, 0].tolist())) == [4, 5, 6, 7, 8]
        assert torch.equal(x, -answers)

    def test_replay_of_size_0_keeps_nothing(self) -> None:
        replay = Replay(0)
        replay.add(torch.zeros(7, 1), torch.zeros(7, 2))
        assert len(replay) == 0

    def test_replay_keeps_the_last_of_more_inputs_than_its_size(self) -> None:
        replay = Replay(2)
        replay.add(torch.arange(7.0)[:, None], torch.zeros(7, 2))
        assert set(replay.draw(50)[0][:, 0].tolist()) == {5, 6}


class TestRates:
    def test_the_rate_is_a_cosine_or_drops(self) -> None:
        assert [Alternating().rate(done) for done in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
        dropping = Alternating(drops=(0.1, 0.3))
        assert [dropping.rate(done) for done in (0, 0.1, 0.2, 0.9)] == pytest.approx([1, 0.3, 0.3, 0.09])

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("batch", 0),
            ("latent", 0),
            ("width", 0),
            ("lr", 0.0),
            ("generator_lr", math.inf),
            ("momentum", 1.0),
            ("weight_decay", -1.0),
            ("generator_optimizer", "adm"),
            ("drops", (0.5, 2.0)),
        ],
    )
    def test_settings_out_of_range_are_named(self, name: str, value: Any) -> None:
        with pytest.raises(Invalid, match=f"`{name}`"):
            Alternating(**{name: value})


class Box:
    """A metered linear box that keeps its queries."""

    def __init__(self, budget: int, labels: bool = False):
        plain = Boxed(linear_victim(), (16,))
        self._metered, self.seen = Metered(Labels(plain) if labels else plain, budget), list[Tensor]()

    @property
    def left(self) -> int:
        return self._metered.left

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return self._metered(x)


@ALL
class TestBudgets:
    @pytest.mark.parametrize("budget", [1, 2, 6, 7, 31, 50, 97, 500])
    def test_the_whole_budget_is_spent(self, attack: Any, budget: int) -> None:
        box = Box(budget)
        replace(attack, budget=budget)(box, POOL, mlp(), seed=0)
        assert box.left == 0

    def test_it_ends_when_the_box_answers_no_more(self, attack: Any) -> None:
        box = Box(61)
        replace(attack, budget=10_000)(box, POOL, mlp(), seed=0)
        assert box.left == 0

    def test_it_asks_no_more_than_its_own_budget(self, attack: Any) -> None:
        box = Box(1000)
        replace(attack, budget=61)(box, POOL, mlp(), seed=0)
        assert box.left == 1000 - 61

    @pytest.mark.slow
    def test_queries_and_clone_follow_from_the_seed_and_not_from_the_global_one(self, attack: Any) -> None:
        def run(seed: int, other: int) -> tuple[Tensor, Tensor]:
            box, clone = Box(300), mlp_from(1)
            torch.manual_seed(other)
            replace(attack, budget=300)(box, POOL, clone, seed=seed)
            return torch.cat(box.seen), clone(noise(9, (16,))).detach()

        one, again, other = run(0, 3), run(0, 4), run(1, 3)
        assert torch.equal(one[0], again[0])
        assert torch.equal(one[1], again[1])
        assert not torch.equal(one[0], other[0])

    def test_rows_of_zeros_and_batch_norm_give_finite_clones(self, attack: Any) -> None:
        class Doubtful(Box):
            def __call__(self, x: Tensor) -> Tensor:
                return super().__call__(x) * (torch.arange(len(x)) % 2 == 0)[:, None]

        clone = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        out = replace(attack, budget=101)(Doubtful(101), POOL, clone, seed=0)(noise(4, (16,)))
        assert out.isfinite().all()
        assert not clone.training

    def test_a_diverging_loss_is_named(self, attack: Any) -> None:
        wild = replace(attack, budget=5000, training=replace(FAST, lr=1e30))
        with pytest.raises(NonFiniteLoss, match=r"Loss `(clone|generator)` is \S+ at step \d+"):
            wild(Box(5000), POOL, mlp(), seed=0)


def mlp_from(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlp()


class TestQueriesOfARound:
    @pytest.mark.parametrize(
        ("attack", "queries"),
        [
            (DFME(training=FAST), [64, 32, 32, 32, 32, 32]),
            (MAZE(training=FAST, directions=3, clone_steps=2), [128, 32, 32]),
            (DisGUIDE(training=FAST), [32]),
            (DFMSHL(training=FAST, clone_steps=2), [32, 32]),
        ],
        ids=["DFME", "MAZE", "DisGUIDE", "DFMSHL"],
    )
    def test_the_numbers_are_exact(self, attack: Any, queries: list[int]) -> None:
        budget = 2 * sum(queries) + 1
        box = Box(budget)
        replace(attack, budget=budget)(box, POOL, mlp(), seed=0)
        assert [len(x) for x in box.seen] == [*queries, *queries, 1]

    @ALL
    def test_every_query_is_in_range_and_new(self, attack: Any) -> None:
        box = Box(400)
        replace(attack, budget=400)(box, POOL, mlp(), seed=0)
        asked = torch.cat(box.seen)
        assert asked.min() >= 0
        assert asked.max() <= 1
        assert len(asked.unique(dim=0)) == 400


class TestLabelsAlone:
    @pytest.mark.parametrize("attack", ATTACKS[:2], ids=lambda a: type(a).__name__)
    @pytest.mark.parametrize("budget", [3, 50, 1000])
    def test_labels_alone_are_not_applicable_after_one_batch(self, attack: Any, budget: int) -> None:
        box, clone = Box(budget, labels=True), mlp_from(0)
        with pytest.raises(NotApplicable, match="labels alone"):
            replace(attack, budget=budget)(box, POOL, clone, seed=0)
        assert len(box.seen) == 1
        assert torch.equal(clone(noise(2, (16,))), mlp_from(0)(noise(2, (16,))))

    def test_labels_are_enough_without_steps_of_the_generator(self) -> None:
        box = Box(100, labels=True)
        DFME(budget=100, generator_steps=0, training=FAST)(box, POOL, mlp(), seed=0)
        assert box.left == 0


class TestLearning:
    @pytest.mark.slow
    @ALL
    def test_a_linear_box_is_learned(self, attack: Any) -> None:
        victim, clone = linear_victim(), untrained()
        assert same(victim, clone, noise(2000, (16,), seed=9)) < 0.4
        budget = 12_000 if isinstance(attack, MAZE) else 6_000
        replace(attack, budget=budget)(Metered(Boxed(victim, (16,)), budget), POOL, clone, seed=0)
        assert same(victim, clone, noise(2000, (16,), seed=9)) > 0.9

    @pytest.mark.slow
    @ON_LABELS
    def test_a_linear_box_is_learned_from_labels(self, attack: Any) -> None:
        victim, clone = linear_victim(), untrained()
        replace(attack, budget=8000)(Metered(Labels(Boxed(victim, (16,))), 8000), POOL, clone, seed=0)
        assert same(victim, clone, noise(2000, (16,), seed=9)) > 0.85

    @pytest.mark.slow
    def test_two_clones_that_vote_are_one_net(self) -> None:
        victim, attack = linear_victim(), DisGUIDE(budget=4000, vote=True, training=FAST)
        pair = attack(Metered(Boxed(victim, (16,)), 4000), POOL, untrained(), seed=0)
        assert isinstance(pair, Vote)
        assert same(victim, pair, noise(2000, (16,), seed=9)) > 0.9

    @pytest.mark.thorough
    def test_the_generator_approaches_a_proxy_pool(self) -> None:
        """Without the term of the clone, the queries of the GAN come to be distributed as the pool is."""
        pool = torch.cat([0.1 * noise(400, (8,)), 0.9 + 0.1 * noise(400, (8,), seed=4)], dim=1)
        distance = {}
        for proxy in (True, False):
            box = Box(2000)
            attack = DFMSHL(
                2000, diversity=0.0, proxy=proxy, pretraining=4.0, training=replace(FAST, generator_lr=3e-3)
            )
            attack(box, pool, mlp(), seed=0)
            distance[proxy] = (torch.cat(box.seen).mean(dim=0) - pool.mean(dim=0)).abs().mean().item()
        assert distance[True] < 0.5 * distance[False]

    @pytest.mark.thorough
    def test_the_diversity_term_evens_the_classes(self) -> None:
        """It spreads the queries over the classes of a box that seldom answers some."""
        victim = linear_victim()
        with torch.no_grad():
            victim.bias[0] += 6
        shares = {}
        for weight in (0.0, 5.0):
            box, clone = Box(3000), untrained()
            box._metered = Metered(Boxed(victim, (16,)), 3000)
            DisGUIDE(3000, diversity=weight, training=FAST)(box, POOL, clone, seed=0)
            late = torch.cat(box.seen)[-1000:]
            shares[weight] = evenness(Boxed(victim, (16,))(late)).item()
        assert shares[5.0] > shares[0.0]


def test_the_papers_budgets() -> None:
    assert DFME.paper().budget == DisGUIDE.paper().budget == 20_000_000
    assert (DFME.paper().training.rate(0.6), DisGUIDE.paper().training.rate(0.5)) == pytest.approx((0.027, 0.3))
    assert (MAZE.paper().budget, MAZE.paper().replay_steps, MAZE.paper().directions) == (5_000_000, 10, 10)
    assert (DFMSHL.paper().budget, DFMSHL.paper().diversity) == (8_000_000, 500)


@pytest.mark.parametrize("kind", [DisGUIDE, DFMSHL, MAZE])
def test_without_replay_steps_no_room_is_allocated(kind: Any) -> None:
    box = Box(300)
    kind(300, replay_steps=0, replay=10**12, training=FAST)(box, POOL, mlp(), seed=0)
    assert box.left == 0


def test_the_generator_may_train_by_sgd() -> None:
    box = Box(300)
    MAZE(300, training=replace(FAST, generator_optimizer="sgd"))(box, POOL, mlp(), seed=0)
    assert box.left == 0


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda: DisGUIDE(clone_steps=0), "clone_steps"),
        (lambda: DisGUIDE(diversity=-1.0), "diversity"),
        (lambda: DisGUIDE(replay=0), "replay"),
        (lambda: DisGUIDE(loss="l2"), "loss"),  # type: ignore[arg-type]
        (lambda: DFMSHL(synthetic=0), "synthetic"),
        (lambda: DFMSHL(pretraining=-0.5), "pretraining"),
    ],
)
def test_settings_out_of_range_are_named(wrong: Any, name: str) -> None:
    with pytest.raises(Invalid, match=f"`{name}`"):
        wrong()


class TestAlternation:
    def test_a_generator_that_diverged_asks_nothing(self) -> None:
        box = Box(100)
        turns = Alternation(box, 100, POOL, [mlp()], FAST, 10, labels=True)
        with torch.no_grad():
            next(turns.generator.parameters()).fill_(torch.nan)
        with pytest.raises(NonFiniteLoss, match="`generator` made inputs that are not finite"):
            turns.train_clones(8, 1, kl)
        assert box.left == 100

    def test_a_budget_below_a_whole_round_is_for_the_clones(self) -> None:
        turns = Alternation(Metered(Boxed(linear_victim(), (16,)), 70), 1000, POOL, [mlp()], FAST, 10, labels=True)
        found = []
        for n, whole in turns.rounds(3):
            found.append((n, whole))
            turns.ask(torch.rand(n * (3 if whole else 1), 16))
        assert found == [(23, True), (1, False)]


@pytest.mark.thorough
@pytest.mark.parametrize("labels", [False, True], ids=["soft", "hard"])
def test_images_are_learned_without_a_pool(labels: bool) -> None:
    """A small net on blobs of 16 x 16 pixels: DisGUIDE's clone agrees on blobs that it never saw."""
    x, y = blobs(2000, (1, 16, 16))
    torch.manual_seed(0)
    victim = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(victim.parameters(), 1e-3)
    for _ in range(200):
        rows = torch.randint(len(x), (128,))
        loss = F.cross_entropy(victim(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clone = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10))
    plain = Boxed(victim, (1, 16, 16))
    box = Metered(Labels(plain) if labels else plain, 10_000)
    DisGUIDE(10_000, replay_steps=1, training=Alternating(batch=128, width=8))(
        box, torch.zeros(1, 1, 16, 16), clone, seed=0
    )
    assert same(victim, clone, x) > (0.6 if labels else 0.8)
