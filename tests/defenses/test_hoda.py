"""HODA: past nets and hardness against a plain record, the distance by hand, thieves found out, honest clients not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from samples import blobs, mlp, noise
from stealguard.boxes.accounts import Remembering
from stealguard.boxes.base import Boxed, ask
from stealguard.defenses import HODA
from stealguard.defenses.hoda import Staged, pearson_distance
from stealguard.errors import Invalid, Refused

SHAPE, CLASSES = (16,), 3


def hard(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Blobs with a few inputs that lie between classes."""
    x, y = blobs(n, SHAPE, CLASSES, seed=seed)
    unclear = (torch.arange(n) % 10 == 0)[:, None]
    return torch.where(unclear, 0.55 * x + 0.45 * x.roll(1, dims=0), x), y


def between(n: int) -> Tensor:
    """Inputs that all lie between classes, as a thief's who has none of the task."""
    x, _ = blobs(n, SHAPE, CLASSES, seed=7)
    return (x + x.roll(1, dims=0)) / 2


def trained(stages: int = 6, epochs: int = 8) -> tuple[Staged, dict[int, nn.Module]]:
    """The module after training, and each of its steps' nets, kept apart: those that it can have been."""
    x, y = hard(1200, seed=1)
    defense, record = HODA(stages=stages), {}
    torch.manual_seed(0)
    model = defense.build(mlp(), noise(2, (16,)))
    assert isinstance(model, Staged)
    losses = defense.objective(model, x, seed=0)

    def recorded(net: nn.Module, batch: sg.types.Batch) -> object:
        record[len(record) + 1] = copy.deepcopy(model.net).eval()
        return losses(net, batch)

    sg.fit(model, x, y, sg.Training(epochs=epochs, batch=32, lr=0.02), seed=0, objective=recorded, progress=False)  # type: ignore[arg-type]
    return model, record


@pytest.mark.parametrize(("stages", "epochs"), [(6, 8), (5, 1), (2, 3)])
def test_past_nets_are_evenly_spaced_and_what_the_net_was_then(stages: int, epochs: int) -> None:
    model, record = trained(stages, epochs)
    taken = model.taken[model.taken > 0]
    assert stages / 2 <= len(taken) <= stages
    assert torch.equal(taken, torch.arange(1, len(taken) + 1) * model.spacing)
    assert len(record) - taken[-1] < model.spacing
    x = noise(40, SHAPE)
    for weights, step in zip(model.weights, taken.tolist(), strict=False):
        now = torch.func.functional_call(model.net, model._named(weights), (x,))
        assert torch.equal(now, record[step](x))


def test_hardness_is_the_first_past_net_from_which_the_label_stays() -> None:
    model, record = trained()
    x = noise(300, SHAPE)
    steps = [step for step in model.taken.tolist() if step]
    labels = [record[step](x).argmax(1) for step in steps] + [model.net(x).argmax(1)]
    by_hand = [
        next(i for i in range(len(labels)) if all(later[n] == labels[-1][n] for later in labels[i:]))
        for n in range(len(x))
    ]
    assert model.hardness(x, labels[-1]).tolist() == by_hand
    assert len(set(by_hand)) > 2


def test_batch_norm_has_its_past_statistics_too() -> None:
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model, x = Staged(net, 4), noise(30, SHAPE)
    was = net.eval()(x)
    weights = model._now()
    net.train()(10 * x)
    assert not torch.equal(net.eval()(x), was)
    assert torch.equal(torch.func.functional_call(net, model._named(weights), (x,)), was)


def test_pearson_distance_by_hand() -> None:
    a, b = torch.tensor([5, 1, 0, 2]), torch.tensor([3.0, 3.0, 1.0, 0.0])
    by_hand = 1 - torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1]
    assert pearson_distance(a, b) == pytest.approx(by_hand.item())
    assert pearson_distance(a, 3 * a) == pytest.approx(0, abs=1e-12)
    assert pearson_distance(torch.tensor([1, 0]), torch.tensor([0, 1])) == pytest.approx(2)
    assert pearson_distance(a, torch.ones(4)) == 0


def found_after(guard: object, x: Tensor) -> int:
    return sum(len(answers) for _, answers in ask(guard, x))  # type: ignore[arg-type]


def test_far_queries_are_found_out_and_an_honest_client_is_not() -> None:
    model, _ = trained()
    (honest, _), box = hard(3000, seed=2), Boxed(model, SHAPE)
    assert found_after(HODA(delta=0.001).guard(box, model), honest) == 3000
    assert found_after(HODA(delta=0.001).guard(box, model), between(3000)) == 99, "the first histogram tells"


@pytest.mark.parametrize("size", [1, 37, 100, 512])
def test_batches_do_not_matter_and_a_restart_neither(size: int) -> None:
    model, _ = trained()
    box, (honest, _) = Boxed(model, SHAPE), hard(150, seed=2)
    x = torch.cat([honest, between(300)])
    whole = found_after(HODA(delta=0.001).guard(box, model), x)
    assert whole == 299, "the first two histograms are mostly honest"
    guard, answered = HODA(delta=0.001).guard(box, model), 0
    for part in x.split(size):
        again = HODA(delta=0.001).guard(box, model)
        assert isinstance(guard, Remembering)
        assert isinstance(again, Remembering)
        again.load_state_dict(guard.state_dict())
        guard = again
        try:
            answered += len(guard(part))  # type: ignore[operator]
        except Refused as refusal:
            answered += refusal.left
            break
    assert answered == whole


@pytest.mark.parametrize(("setting", "value"), [("delta", 2.1), ("queries", 0), ("stages", 1)])
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(Invalid, match=f"`{setting}`"):
        HODA(**{setting: value})
