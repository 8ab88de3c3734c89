"""The rules that every registered attack must keep, on stub boxes; and KnockoffNets' closed form.

Attacks that open accounts have no meaning with a box of one account: their own tests hold them to the same rules.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marked import pretended
from samples import noise
from stealguard.attacks import ATTACKS, Knockoff
from stealguard.attacks.base import Attack, OpeningAttack
from stealguard.attacks.jacobian import JacobianAttack
from stealguard.attacks.treatments import Treatment
from stealguard.boxes import Labels, Metered
from stealguard.data.inputs import Stored
from stealguard.errors import BoxFault, Invalid, NoAnswers, NotApplicable, Refused
from stealguard.training.loop import Training

SHAPES = [((1, 8, 8), 2), pytest.param((3, 8, 8), 100, marks=pytest.mark.thorough), ((16,), 5)]


def quick(name: str, budget: int) -> Attack:
    """The attack with a small budget, and one epoch wherever it trains."""
    attack: Any = ATTACKS[name]()
    names = [f.name for f in fields(attack)]
    short: dict[str, Any] = {
        name: Training(epochs=1, batch=16) for name in names if isinstance(getattr(attack, name), Training)
    }
    if "least" in names:  # steps of a training, however few epochs it has
        short["least"] = 1
    return replace(attack, budget=budget, **short)  # type: ignore[no-any-return]


class Stub:
    """A box that is not a module: it answers by a fixed random projection and counts its answers."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        self.projection = noise(classes, shape, seed=8).flatten(1) - 0.5
        self.asked = 0

    def __call__(self, x: Tensor) -> Tensor:
        assert not x.requires_grad
        self.asked += len(x)
        return (x.flatten(1) @ self.projection.T).softmax(dim=1)


class Refusing:
    """A box that answers its client no more than `n` inputs."""

    def __init__(self, box: Stub, n: int):
        self.box, self.left = box, n

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > self.left:
            raise Refused("no more", self.left)
        self.left -= len(x)
        return self.box(x)


def clone_for(shape: tuple[int, ...], classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), classes))


def steal(name: str, box: Any, shape: tuple[int, ...], classes: int, budget: int = 50, seed: int = 0) -> nn.Module:
    """The clone; if the attack says before its first query that it is not applicable, the test is skipped."""
    metered = box if isinstance(box, Metered) else Metered(box, budget, "stub")
    try:
        return quick(name, budget)(metered, noise(60, shape), clone_for(shape, classes), seed=seed)
    except NotApplicable as e:
        if metered.spent:
            raise
        pytest.skip(str(e))


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Stolen(NamedTuple):
    """A clone, what the meter counted, and what the box answered."""

    clone: nn.Module
    spent: int
    asked: int


@cache
def stolen(name: str, shape: tuple[int, ...], classes: int) -> Stolen | None:
    """A theft with a budget of 50 and seed 0, which several tests look at; None if the attack is not applicable."""
    box = Stub(shape, classes)
    metered = Metered(box, 50)
    try:
        clone = quick(name, 50)(metered, noise(60, shape), clone_for(shape, classes), seed=0)
    except NotApplicable:
        assert metered.spent == 0
        return None
    return Stolen(clone, metered.spent, box.asked)


@pytest.fixture
def usual(name: str, shape: tuple[int, ...], classes: int) -> Stolen:
    found = stolen(name, shape, classes)
    return pytest.skip("The attack is not applicable to these inputs.") if found is None else found


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("shape", "classes"), SHAPES)
class TestContract:
    @pytest.mark.slow
    def test_the_meter_counts_what_the_box_answered(self, usual: Stolen) -> None:
        assert usual.spent == usual.asked
        assert 0 < usual.asked <= 50

    @pytest.mark.slow
    def test_it_ends_when_the_budget_of_the_box_is_smaller(
        self, name: str, shape: tuple[int, ...], classes: int
    ) -> None:
        box = Stub(shape, classes)
        steal(name, Metered(box, 23), shape, classes)
        assert 0 < box.asked <= 23

    def test_it_ends_when_the_box_refuses(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        box = Stub(shape, classes)
        metered = Metered(Refusing(box, 23), 50)
        clone = steal(name, metered, shape, classes)
        assert box.asked == metered.spent <= 23
        assert metered.left == 23 - metered.spent
        assert clone(noise(3, shape)).shape == (3, classes)

    def test_it_trains_the_clone_and_returns_a_net(self, usual: Stolen, shape: tuple[int, ...], classes: int) -> None:
        assert not torch.equal(weights(usual.clone), weights(clone_for(shape, classes)))
        assert usual.clone(noise(3, shape)).shape == (3, classes)

    @pytest.mark.slow
    def test_everything_follows_from_the_seed(
        self, usual: Stolen, name: str, shape: tuple[int, ...], classes: int
    ) -> None:
        again, other = (weights(steal(name, Stub(shape, classes), shape, classes, seed=s)) for s in (0, 1))
        assert torch.equal(weights(usual.clone), again)
        assert not torch.equal(weights(usual.clone), other)

    def test_it_works_on_labels_alone(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        try:
            clone = steal(name, Labels(Stub(shape, classes)), shape, classes)
        except NotApplicable:  # it needs probabilities
            return
        assert not torch.equal(weights(clone), weights(clone_for(shape, classes)))

    @pytest.mark.slow
    def test_a_pool_read_by_row_gives_the_same_clone_as_a_tensor(
        self, name: str, shape: tuple[int, ...], classes: int
    ) -> None:
        stored = (255 * noise(60, shape)).to(torch.uint8)
        clones = []
        for pool in (stored.float() / 255, Stored(stored)):
            try:
                clones.append(
                    quick(name, 50)(Metered(Stub(shape, classes), 50), pool, clone_for(shape, classes), seed=0)
                )
            except NotApplicable as e:
                pytest.skip(str(e))
        assert torch.equal(*map(weights, clones))

    @pytest.mark.slow
    @pytest.mark.parametrize("elsewhere", ["clone", "pool"])
    def test_clone_and_pool_may_be_on_different_devices_and_the_box_on_the_processor(
        self, usual: Stolen, name: str, shape: tuple[int, ...], classes: int, elsewhere: str
    ) -> None:
        box, pool, clone = Stub(shape, classes), noise(60, shape), clone_for(shape, classes)
        with pretended() as device:
            pool, clone = (pool.to(device), clone) if elsewhere == "pool" else (pool, clone.to(device))
            found = quick(name, 50)(Metered(lambda x: box(x.cpu()), 50), pool, clone, seed=0)
            there = weights(found)
            assert there.is_meta == (elsewhere == "clone")
            torch.testing.assert_close(there.cpu(), weights(usual.clone))


class Watched(Stored):
    """A pool that records the greatest number of inputs read at once."""

    most = 0

    def rows(self, index: Tensor, /) -> Tensor:
        self.most = max(self.most, len(index))
        return super().rows(index)


@pytest.mark.parametrize("name", [name for name, kind in ATTACKS.items() if not issubclass(kind, OpeningAttack)])
def test_no_attack_reads_the_whole_pool_at_once(name: str) -> None:
    pool = Watched(noise(6000, (1, 4, 4)))
    quick(name, 50)(Metered(Stub((1, 4, 4), 3), 50), pool, clone_for((1, 4, 4), 3), seed=0)
    assert pool.most <= 5000


def test_an_attack_without_its_own_step_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        JacobianAttack()  # type: ignore[abstract]
    with pytest.raises(TypeError, match="abstract"):
        Treatment(Metered(Stub((16,), 3), 1))  # type: ignore[abstract]


@pytest.mark.parametrize("name", ATTACKS)
class TestBoxesThatFail:
    @pytest.mark.parametrize(
        "spoil", [lambda a: a * float("nan"), lambda a: 2 * a, lambda a: a[:-1]], ids=["nan", "simplex", "count"]
    )
    def test_an_invalid_answer_names_the_box(self, name: str, spoil: Any) -> None:
        inner = Stub((1, 8, 8), 5)
        with pytest.raises(BoxFault, match="`stub`"):
            steal(name, lambda x: spoil(inner(x)), (1, 8, 8), 5)

    def test_an_exception_of_the_box_names_the_box(self, name: str) -> None:
        def broken(x: Tensor) -> Tensor:
            raise ConnectionError("gone")

        with pytest.raises(BoxFault, match=r"`stub` should answer. Found ConnectionError: gone"):
            steal(name, broken, (1, 8, 8), 5)

    @pytest.mark.parametrize("spent", [False, True], ids=["refused", "spent"])
    def test_a_box_that_answers_nothing_is_told_in_one_line(self, name: str, spent: bool) -> None:
        metered = Metered(Refusing(Stub((1, 8, 8), 5), 0), 50)
        if spent:
            metered.left = 0
        with pytest.raises(NoAnswers, match=r"^None of the attack's queries was answered\.$"):
            steal(name, metered, (1, 8, 8), 5)

    def test_a_budget_is_at_least_one(self, name: str) -> None:
        with pytest.raises(Invalid, match=r"`budget` should be at least 1. Found 0"):
            quick(name, 0)

    def test_it_is_a_frozen_dataclass(self, name: str) -> None:
        attack = ATTACKS[name]()
        assert is_dataclass(attack)
        with pytest.raises(FrozenInstanceError):
            attack.budget = 3  # type: ignore[misc]


class TestKnockoff:
    @pytest.mark.slow
    def test_a_linear_victim_is_learned(self) -> None:
        victim, pool = Stub((16,), 3), noise(4000, (16,))
        attack = Knockoff(budget=4000, training=Training(epochs=30, lr=0.5))
        clone = attack(Metered(victim, 4000), pool, clone_for((16,), 3), seed=0)
        fresh = noise(500, (16,), seed=9)
        torch.testing.assert_close(clone(fresh).softmax(1).detach(), victim(fresh), atol=0.02, rtol=0)

    def test_it_asks_each_input_once_and_spends_the_budget(self) -> None:
        seen: list[Tensor] = []
        stub = Stub((16,), 3)
        Knockoff(budget=50, training=Training(epochs=1))(
            Metered(lambda x: seen.append(x) or stub(x), 50), noise(60, (16,)), clone_for((16,), 3), seed=0
        )
        asked = torch.cat(seen)
        assert len(asked) == len(asked.unique(dim=0)) == 50

    def test_the_authors_budget(self) -> None:
        assert (Knockoff().budget, Knockoff().training.epochs) == (20_000, 8)
        assert (Knockoff.authors().budget, Knockoff.authors().training.epochs) == (50_000, 50)

    def test_hard_labels_are_what_cross_entropy_takes(self) -> None:
        rows = Labels(Stub((16,), 3))(noise(5, (16,)))
        logits = torch.randn(5, 3)
        torch.testing.assert_close(F.cross_entropy(logits, rows), F.cross_entropy(logits, rows.argmax(1)))
