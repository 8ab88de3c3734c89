"""Jacobian augmentation: the batched step against the slow loop in float64, doublings, and counts of queries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks import jacobian_loop
from torch import Tensor, nn

from samples import mlp, noise
from stealguard.attacks import JBDA, JBDATR
from stealguard.attacks.jacobian import jacobian_step
from stealguard.boxes import Metered
from stealguard.errors import Invalid
from stealguard.nets import build
from stealguard.nets.resnet import Residual
from stealguard.training.loop import Training

ONE = Training(epochs=1, batch=16)


def small_resnet() -> nn.Module:
    """One residual block with batch-norm, whose running statistics are those of some data."""
    body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
    stem = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    net = nn.Sequential(*stem, Residual(body, nn.Identity()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    net(noise(32))
    return net


NETS = {
    "lenet5": lambda: build("lenet5", noise(9), 5, seed=0),
    "resnet": small_resnet,
    "mlp": lambda: nn.Sequential(nn.Flatten(), mlp(784, 5)),
}


class Asked:
    """A box that keeps the queries, and answers 1 for the class of the brightest of the first pixels."""

    def __init__(self, classes: int = 5):
        self.classes, self.seen = classes, []  # type: ignore[var-annotated]

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return nn.functional.one_hot(x.flatten(1)[:, : self.classes].argmax(1), self.classes).float()


def steal(attack: JBDA | JBDATR, pool: Tensor, budget: int | None = None, box: Any = None) -> tuple[Metered, Tensor]:
    """The meter, and all that was asked, in order."""
    box = box or Asked()
    metered = Metered(box, budget or attack.budget)
    torch.manual_seed(0)
    attack(metered, pool, nn.Sequential(nn.Flatten(), mlp(pool[0].numel(), box.classes)), seed=0)
    return metered, torch.cat(box.seen)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("score", ["probability", "logit"])
@pytest.mark.parametrize("step", [0.1, -0.3])
def test_the_batched_step_equals_the_loop(net: str, score: Any, step: float) -> None:
    torch.manual_seed(0)
    clone, x = NETS[net]().double(), noise(12).double()
    labels = torch.arange(12) % 5
    torch.testing.assert_close(
        jacobian_step(clone, x, labels, step, score), jacobian_loop.jacobian_step(clone, x, labels, step, score)
    )


def test_a_step_of_a_linear_net_goes_along_its_weights() -> None:
    clone, x = nn.Linear(16, 3), 0.3 + 0.4 * noise(6, (16,))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    moved = jacobian_step(clone, x, labels, 0.1, "logit")
    torch.testing.assert_close(moved, x + 0.1 * clone.weight.detach()[labels].sign())


def test_a_step_stays_in_range_and_leaves_no_gradients() -> None:
    clone, x = mlp(), noise(6, (16,))
    moved = jacobian_step(clone, x, torch.zeros(6, dtype=torch.long), 0.9)
    assert 0 <= moved.min() <= moved.max() <= 1
    assert not moved.requires_grad
    assert all(p.grad is None for p in clone.parameters())


def test_a_clone_with_saturated_probabilities_still_has_a_direction() -> None:
    clone, x = nn.Linear(4, 2), noise(3, (4,))
    nn.init.constant_(clone.weight[:1].detach(), 500.0)  # softmax is one-hot in float32: its own gradient is 0
    nn.init.constant_(clone.weight[1:].detach(), -500.0)
    assert not torch.equal(jacobian_step(clone, x, torch.zeros(3, dtype=torch.long), 0.1), x)


class TestRounds:
    def test_each_round_doubles_the_set(self) -> None:
        for rounds in range(4):
            metered, asked = steal(JBDA(seeds=10, rounds=rounds, training=ONE, least=0), noise(30))
            assert metered.spent == len(asked) == 10 * 2**rounds

    def test_the_first_rows_of_the_pool_are_the_seeds(self) -> None:
        pool = noise(30)
        _, asked = steal(JBDA(seeds=10, rounds=2, training=ONE, least=0), pool)
        torch.testing.assert_close(asked[:10], pool[:10])
        torch.testing.assert_close((asked[10:20] - pool[:10]).abs().amax(), torch.tensor(0.1))
        assert (asked[20:] - asked[:20]).abs().max() <= 0.1 + 1e-6
        assert 0 <= asked.min() <= asked.max() <= 1

    @pytest.mark.parametrize("budget", [1, 7, 10, 25, 80])
    def test_it_ends_with_the_budget_or_with_the_rounds(self, budget: int) -> None:
        assert steal(JBDA(budget=budget, seeds=10, rounds=3, training=ONE, least=0), noise(30))[0].spent == budget
        assert steal(JBDA(seeds=10, rounds=3, training=ONE, least=0), noise(30), budget)[0].left == 0

    def test_a_pool_smaller_than_the_seeds_is_used_whole(self) -> None:
        assert steal(JBDA(seeds=150, rounds=1, training=ONE, least=0), noise(9))[0].spent == 18
        assert JBDA().needed == 150
        assert JBDA(budget=20).needed == 20

    @pytest.mark.slow
    def test_a_training_on_few_seeds_has_more_epochs(self) -> None:
        pool = noise(30, (16,))

        def learned(least: int) -> float:
            torch.manual_seed(0)
            clone, box = nn.Linear(16, 5), Asked()
            clone = JBDA(seeds=30, rounds=0, training=ONE, least=least)(Metered(box, 30), pool, clone, seed=0)
            return (clone(pool).argmax(1) == box(pool).argmax(1)).double().mean().item()

        assert learned(0) < learned(500)

    def test_the_step_changes_sign_with_the_period(self) -> None:
        clone, x, answers = mlp(), 0.3 + 0.4 * noise(4, (16,)), torch.eye(3)[[0, 1, 2, 0]]
        moves = [next(JBDA(period=2).augmented(clone, x, answers, number)) - x for number in range(4)]
        torch.testing.assert_close(moves[1], moves[0])
        torch.testing.assert_close(moves[2], -moves[0])
        torch.testing.assert_close(moves[3], moves[2])

    def test_a_step_toward_the_label_raises_it(self) -> None:
        clone, x, answers = nn.Linear(16, 3), 0.3 + 0.4 * noise(4, (16,)), torch.eye(3)[[0, 1, 2, 0]]

        def chosen(z: Tensor) -> Tensor:
            return (clone(z).softmax(1) * answers).sum(1)

        assert (chosen(next(JBDA().augmented(clone, x, answers, 0))) > chosen(x)).all()
        assert (chosen(next(JBDA(step=-0.1).augmented(clone, x, answers, 0))) < chosen(x)).all()


class TestRandomTargets:
    @pytest.mark.parametrize("targets", [1, 3])
    def test_each_round_adds_as_many_as_targets(self, targets: int) -> None:
        attack = JBDATR(seeds=5, rounds=2, targets=targets, steps=2, training=ONE, least=0)
        assert steal(attack, noise(30))[0].spent == 5 * (1 + targets) ** 2

    @pytest.mark.parametrize("variant", ["prada", "program"])
    def test_it_ends_with_the_budget_and_inside_the_radius(self, variant: Any) -> None:
        attack = JBDATR(budget=17, seeds=5, rounds=2, variant=variant, training=ONE, least=0)
        metered, asked = steal(attack, noise(30))
        assert metered.spent == 17
        assert torch.cdist(asked[5:].flatten(1), asked[:5].flatten(1), p=torch.inf).amin(dim=1).max() <= 0.1 + 1e-6

    def test_with_two_classes_the_target_is_the_other(self) -> None:
        clone, x, answers = nn.Linear(16, 2), 0.3 + 0.4 * noise(4, (16,)), torch.eye(2)[[0, 1, 1, 0]]
        attack = JBDATR(targets=2, steps=4)
        away = clone.weight.detach()[1 - answers.argmax(1)] - clone.weight.detach()[answers.argmax(1)]
        for moved in attack.augmented(clone, x, answers, 0):
            torch.testing.assert_close(moved, x + 0.1 * away.sign())

    def test_modelguard_has_more_seeds(self) -> None:
        attack = JBDATR.modelguard()
        assert (attack.seeds, attack.targets, attack.budget, attack.variant) == (1000, 3, 50_000, "program")


@pytest.mark.parametrize(
    "attack", [JBDA(seeds=6, training=ONE, least=0), JBDATR(seeds=6, training=ONE, least=0)], ids=["jbda", "tr"]
)
@pytest.mark.parametrize(("shape", "classes"), [((1, 8, 8), 2), ((3, 8, 8), 100), ((16,), 5)])
def test_any_shape_and_number_of_classes(attack: JBDA | JBDATR, shape: tuple[int, ...], classes: int) -> None:
    runs = [steal(attack, noise(6, shape), 50, Asked(classes))[1] for _ in range(2)]
    assert runs[0].shape == (50, *shape)
    assert torch.equal(*runs)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda: JBDA(seeds=0), "seeds"),
        (lambda: JBDA(rounds=-1), "rounds"),
        (lambda: JBDA(step=1.5), "step"),
        (lambda: JBDA(score="loss"), "score"),  # type: ignore[arg-type]
        (lambda: JBDA(period=-1), "period"),
        (lambda: JBDA(least=-1), "least"),
        (lambda: JBDATR(step=-0.1), "step"),
        (lambda: JBDATR(steps=0), "steps"),
        (lambda: JBDATR(targets=0), "targets"),
        (lambda: JBDATR(variant="both"), "variant"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_are_named(wrong: Any, name: str) -> None:
    with pytest.raises(Invalid, match=f"`{name}`"):
        wrong()
