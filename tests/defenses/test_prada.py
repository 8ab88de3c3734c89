"""PRADA: the distances against a slow loop, in any batches, and which accounts are refused."""

from __future__ import annotations

import math
import statistics
import sys

import pytest
import scipy
import torch
from torch import Tensor, nn

import stealguard as sg
from samples import blobs, boxed, mlp, noise
from stealguard.attacks import JBDA
from stealguard.boxes import Metered, ask
from stealguard.boxes.accounts import Account, Accounts, LocalStates
from stealguard.defenses import PRADA
from stealguard.errors import Invalid, Refused, StealguardError

SHAPE, CLASSES = (16,), 3


class Thirds(nn.Module):
    """A net whose class is the third of [0, 1] that the input's mean lies in, stretched."""

    def forward(self, x: Tensor) -> Tensor:
        thirds = ((x.flatten(1).mean(dim=1) - 0.4) * 15).long().clamp(0, 2)
        return 50 * nn.functional.one_hot(thirds, 3).float()


def account(defense: PRADA) -> Account:
    """The box of an account that has asked nothing yet."""
    return boxed(defense.build(Thirds(), noise(2, SHAPE)))


class Slow:
    """The paper's algorithm, query by query: growing sets, thresholds, distances, W."""

    def __init__(self) -> None:
        self.sets: dict[int, list[Tensor]] = {}
        self.joined: dict[int, list[float]] = {}
        self.thresholds: dict[int, float] = {}
        self.distances: dict[int, list[float]] = {}

    def query(self, x: Tensor, c: int) -> None:
        if c not in self.sets:
            self.sets[c], self.joined[c], self.thresholds[c], self.distances[c] = [x], [0.0], 0.0, []
            return
        d = min((x - z).norm().item() for z in self.sets[c])
        self.distances[c].append(d)
        if d > self.thresholds[c]:
            self.sets[c].append(x)
            self.joined[c].append(d)
            mean = sum(self.joined[c]) / len(self.joined[c])
            deviation = math.sqrt(sum((g - mean) ** 2 for g in self.joined[c]) / len(self.joined[c]))
            self.thresholds[c] = max(self.thresholds[c], mean - deviation)

    def w(self) -> float | None:
        d = [v for values in self.distances.values() if len(values) >= 10 for v in values]
        if len(d) <= 100:
            return None
        mean, deviation = statistics.fmean(d), statistics.pstdev(d)
        d = [v for v in d if abs(v - mean) < 3 * deviation]
        return float(scipy.stats.shapiro(d).statistic) if len(d) > 100 else None


def queries(n: int) -> Tensor:
    """Natural ones in the first half; in the second half the same with a step of one length added."""
    x = noise(n // 2, SHAPE)
    steps = 0.1 * (noise(n // 2, SHAPE, seed=5) - 0.5).sign()
    return torch.cat([x, (x + steps).clamp(0, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("size", [800, 1, 37])
def test_it_refuses_at_the_query_at_which_a_slow_loop_detects_the_attacker(size: int) -> None:
    x, slow, delta = queries(800), Slow(), 0.93
    found = None
    for i, c in enumerate(Thirds()(x).argmax(dim=1).tolist()):
        slow.query(x[i], c)
        if (i + 1) % 10 == 0 and (w := slow.w()) is not None and w < delta:
            found = i
            break
    assert found is not None
    assert 400 < found < 799, "the natural half is honest, the steps reveal the attacker"
    box, answered = account(PRADA(delta=delta)), 0
    for part in x.split(size):
        try:
            answered += len(box(part))
        except Refused as refusal:
            answered += refusal.left
            break
    assert answered == found


def test_an_account_that_was_detected_is_refused_from_then_on() -> None:
    box = account(PRADA(delta=0.93))
    with pytest.raises(Refused) as refusal:
        box(queries(800))
    left = refusal.value.left
    assert len(box(noise(left - 3, SHAPE, seed=6))) == left - 3, "as many answers as there were queries before"
    with pytest.raises(Refused, match="3 of 4 inputs can be answered"):
        box(noise(4, SHAPE))
    box(noise(3, SHAPE))
    with pytest.raises(Refused):
        box(noise(1, SHAPE))


def test_memory_is_bounded_and_survives_a_restart() -> None:
    model, x = PRADA(delta=0.0, kept=50, window=150).build(Thirds(), noise(2, SHAPE)), noise(400, SHAPE)
    store = dict[str, bytes]()

    def started() -> tuple[Accounts, LocalStates]:
        states = LocalStates(store)
        return Accounts(model.heads(), model.guard, SHAPE, states), states

    accounts, states = started()
    accounts.answer("a", x[:333])
    state = accounts.state("a")
    assert state["inputs"].shape == (50, 16)
    assert state["distances"].shape == (150,)
    states.flush()
    again, _ = started()
    accounts.answer("a", x[333:])
    again.answer("a", x[333:])
    assert accounts.state("a").keys() == again.state("a").keys()
    for name, value in accounts.state("a").items():
        assert torch.equal(value, again.state("a")[name]), name
    blank, states = started()
    blank.state("b")
    states.flush()
    assert len(started()[0].answer("b", x)) == 400


@pytest.mark.slow
def test_jacobian_augmentation_is_detected_and_an_honest_account_is_not() -> None:
    (x, y), (test_x, _) = blobs(1500, SHAPE, CLASSES, seed=1), blobs(2000, SHAPE, CLASSES, seed=2)
    torch.manual_seed(0)
    victim, clone = mlp(), mlp()
    sg.fit(victim, x, y, sg.Training(epochs=10, batch=64), seed=0, progress=False)
    model = PRADA().build(victim, x[:2])
    assert sum(len(answers) for _, answers in ask(boxed(model), test_x)) == 2000
    metered = Metered(boxed(model), 1600)
    attack = JBDA(budget=1600, seeds=100, least=20, training=sg.Training(epochs=2, batch=64))
    clone = attack(metered, x[:100], clone, seed=0)
    assert 100 < metered.spent < 800
    assert metered.left == 0
    assert clone(test_x).shape == (2000, CLASSES)


def test_a_class_with_no_room_left_counts_no_distances() -> None:
    model = PRADA(kept=1).build(Thirds(), noise(2, SHAPE))
    accounts = Accounts(model.heads(), model.guard, SHAPE)
    accounts.answer("a", noise(300, SHAPE))
    state = accounts.state("a")
    assert state["inputs"].shape == (1, 16)
    assert set(state["distance_classes"].tolist()) <= set(state["classes"].tolist())


@pytest.mark.parametrize(("setting", "value"), [("delta", 1.1), ("every", 0), ("kept", 0), ("window", 100)])
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(Invalid, match=f"`{setting}`"):
        PRADA(**{setting: value})


def test_without_scipy_it_says_before_training_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(StealguardError, match=r"pip install 'stealguard\[detect\]'"):
        PRADA().build(mlp(), noise(2, SHAPE))
