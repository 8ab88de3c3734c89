"""PRADA: the distances against a slow loop, batches that do not matter, thieves found out and honest clients left."""

from __future__ import annotations

import math
import statistics
import sys

import pytest
import torch
from scipy.stats import shapiro
from torch import Tensor

import stealguard as sg
from samples import blobs, mlp, noise
from stealguard.attacks import JBDA
from stealguard.boxes.accounts import Remembering
from stealguard.boxes.base import Boxed, Metered, ask
from stealguard.defenses import PRADA
from stealguard.defenses.prada import Distances
from stealguard.errors import Invalid, Refused, StealguardError

SHAPE, CLASSES = (16,), 3


def uniform_by_sum(x: Tensor) -> Tensor:
    """A box whose class is the third of [0, 1] that the input's mean lies in, stretched."""
    thirds = ((x.flatten(1).mean(dim=1) - 0.4) * 15).long().clamp(0, 2)
    return torch.nn.functional.one_hot(thirds, 3).double()


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
        return float(shapiro(d).statistic) if len(d) > 100 else None


def queries(n: int) -> Tensor:
    """Natural ones, and from the middle on the same again with a step of one length."""
    x = noise(n // 2, SHAPE)
    steps = 0.1 * (noise(n // 2, SHAPE, seed=5) - 0.5).sign()
    return torch.cat([x, (x + steps).clamp(0, 1)])


def test_it_refuses_at_the_query_at_which_a_slow_loop_finds_the_thief() -> None:
    x, slow, delta = queries(800), Slow(), 0.93
    found = None
    for i, c in enumerate(uniform_by_sum(x).argmax(dim=1).tolist()):
        slow.query(x[i], c)
        if (i + 1) % 10 == 0 and (w := slow.w()) is not None and w < delta:
            found = i
            break
    assert found is not None
    assert 400 < found < 799, "the natural half is no theft, the steps are"
    for sizes in ([800], [1] * 800, [37] * 22):
        guard = PRADA(delta=delta).guard(uniform_by_sum, mlp())
        answered = 0
        for part in x.split(sizes[: len(x)] if sum(sizes) == 800 else 37):
            try:
                answered += len(guard(part))
            except Refused as refusal:
                answered += refusal.left
                break
        assert answered == found, "however they are batched"


def test_a_client_that_is_found_out_stays_so() -> None:
    guard = PRADA(delta=0.93).guard(uniform_by_sum, mlp())
    with pytest.raises(Refused) as refusal:
        guard(queries(800))
    left = refusal.value.left
    assert len(guard(noise(left - 3, SHAPE, seed=6))) == left - 3, "it may have as many answers as were before"
    with pytest.raises(Refused, match="3 of 4 inputs are answered"):
        guard(noise(4, SHAPE))
    guard(noise(3, SHAPE))
    with pytest.raises(Refused):
        guard(noise(1, SHAPE))


def test_memory_is_bounded_and_survives_a_restart() -> None:
    settings, x = PRADA(delta=0.0, kept=50, window=150), noise(400, SHAPE)
    guard = settings.guard(uniform_by_sum, mlp())
    assert isinstance(guard, Remembering)
    guard(x[:333])
    state = guard.state_dict()
    assert state["inputs"].shape == (50, 16)
    assert state["distances"].shape == (150,)
    again = settings.guard(uniform_by_sum, mlp())
    assert isinstance(again, Remembering)
    again.load_state_dict(state)
    guard(x[333:])
    again(x[333:])
    for name, value in guard.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    fresh = PRADA().guard(uniform_by_sum, mlp())
    assert isinstance(fresh, Remembering)
    fresh.load_state_dict(PRADA().guard(uniform_by_sum, mlp()).state_dict())  # type: ignore[attr-defined]
    assert len(fresh(x)) == 400


def test_jacobian_augmentation_is_found_out_and_an_honest_client_is_not() -> None:
    (x, y), (test_x, _) = blobs(1500, SHAPE, CLASSES, seed=1), blobs(2000, SHAPE, CLASSES, seed=2)
    torch.manual_seed(0)
    victim, clone = mlp(), mlp()
    sg.fit(victim, x, y, sg.Training(epochs=10, batch=64), seed=0, progress=False)
    box = Boxed(victim, SHAPE)
    assert sum(len(answers) for _, answers in ask(PRADA().guard(box, victim), test_x)) == 2000
    metered = Metered(PRADA().guard(box, victim), 1600)
    attack = JBDA(budget=1600, seeds=100, least=20, training=sg.Training(epochs=2, batch=64))
    clone = attack(metered, x[:100], clone, seed=0)
    assert 100 < metered.spent < 800
    assert metered.left == 0
    assert clone(test_x).shape == (2000, CLASSES)


def test_a_class_with_no_room_left_counts_no_distances() -> None:
    guard = PRADA(kept=1).guard(uniform_by_sum, mlp())
    assert isinstance(guard, Distances)
    guard(noise(300, SHAPE))
    assert guard.memory()["inputs"].shape == (1, 16)
    assert set(guard.memory()["distance_classes"].tolist()) <= set(guard.memory()["classes"].tolist())


@pytest.mark.parametrize(("setting", "value"), [("delta", 1.1), ("every", 0), ("kept", 0), ("window", 100)])
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(Invalid, match=f"`{setting}`"):
        PRADA(**{setting: value})


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(StealguardError, match=r"pip install 'stealguard\[detect\]'"):
        PRADA().guard(uniform_by_sum, mlp())
