"""HODA: past nets and hardness against a plain record, the distance by hand, and which accounts are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from samples import blobs, boxed, mlp, noise
from stealguard.boxes.accounts import Accounts, LocalStates
from stealguard.boxes.base import Boxed, ask, outputs_of
from stealguard.defenses import HODA
from stealguard.defenses.base import Defended
from stealguard.defenses.hoda import Stages, hardness, pearson_distance
from stealguard.errors import Invalid, Refused

SHAPE, CLASSES = (16,), 3


def hard(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Blobs with some inputs that lie between classes."""
    x, y = blobs(n, SHAPE, CLASSES, seed=seed)
    unclear = (torch.arange(n) % 10 == 0)[:, None]
    return torch.where(unclear, 0.55 * x + 0.45 * x.roll(1, dims=0), x), y


def trained(stages: int = 6, epochs: int = 8) -> tuple[Defended, dict[int, nn.Module]]:
    """The module after training, and the net as it was at each step, kept apart."""
    x, y = hard(1200, seed=1)
    record: dict[int, nn.Module] = {}
    torch.manual_seed(0)
    model = HODA(stages=stages).build(mlp(), noise(2, (16,)))

    def recorded(_: nn.Module, batch: sg.types.Batch) -> object:
        record[len(record) + 1] = copy.deepcopy(model.net).eval()
        return model.losses(batch)

    sg.fit(model, x, y, sg.Training(epochs=epochs, batch=32, lr=0.02), seed=0, objective=recorded, progress=False)  # type: ignore[arg-type]
    return model, record


@pytest.mark.slow
@pytest.mark.parametrize(("stages", "epochs"), [(6, 8), (5, 1), (2, 3)])
def test_past_nets_are_evenly_spaced_and_what_the_net_was_then(stages: int, epochs: int) -> None:
    model, record = trained(stages, epochs)
    taken = model.stages.taken[model.stages.taken > 0]
    assert stages / 2 <= len(taken) <= stages
    assert torch.equal(taken, torch.arange(1, len(taken) + 1) * model.stages.spacing)
    assert len(record) - taken[-1] < model.stages.spacing
    x, past = noise(40, SHAPE), model.heads()["past"]
    assert len(past.nets) == len(taken)
    for net, step in zip(past.nets, taken.tolist(), strict=True):
        assert torch.equal(net(x), record[step](x))


def test_past_nets_share_the_memory_of_the_stages() -> None:
    model, _ = trained(5, 1)
    stored = model.stages.weights.untyped_storage().data_ptr()
    nets = model.heads()["past"].nets
    assert {p.untyped_storage().data_ptr() for p in nets.parameters()} == {stored}
    assert not any(p.requires_grad for p in nets.parameters())


@pytest.mark.slow
def test_hardness_is_the_first_past_net_from_which_the_label_stays() -> None:
    model, record = trained()
    x = noise(300, SHAPE)
    steps = [step for step in model.stages.taken.tolist() if step]
    labels = [record[step](x).argmax(1) for step in steps] + [model.net(x).argmax(1)]
    by_hand = [
        next(i for i in range(len(labels)) if all(later[n] == labels[-1][n] for later in labels[i:]))
        for n in range(len(x))
    ]
    assert hardness(model.heads()["past"](x), labels[-1]).tolist() == by_hand
    assert len(set(by_hand)) > 2


def test_batch_norm_has_its_past_statistics_too() -> None:
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    stages, x = Stages(net, 4), noise(30, SHAPE)
    was = net.eval()(x).detach()
    stages.observe(net, x)
    net.train()(10 * x)
    assert not torch.equal(net.eval()(x), was)
    assert torch.equal(stages.labels(net).nets[0](x), was)


def test_pearson_distance_by_hand() -> None:
    a, b = torch.tensor([5, 1, 0, 2]), torch.tensor([3.0, 3.0, 1.0, 0.0])
    by_hand = 1 - torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1]
    assert pearson_distance(a, b) == pytest.approx(by_hand.item())
    assert pearson_distance(a, 3 * a) == pytest.approx(0, abs=1e-12)
    assert pearson_distance(torch.tensor([1, 0]), torch.tensor([0, 1])) == pytest.approx(2)
    assert pearson_distance(a, torch.ones(4)) == 0


def degrees(model: Defended, x: Tensor) -> Tensor:
    outputs = outputs_of(model.heads(), x)
    return hardness(outputs["past"], outputs["logits"].argmax(dim=1))


@pytest.mark.slow
def test_the_histogram_counts_task_inputs_at_the_stages_that_are_kept() -> None:
    model, record = trained()
    changed = len(record) - len(record) % int(model.stages.spacing)
    counted = [step for step in record if step == changed or (step > changed and step % 20 == 0)]
    assert model.stages.histogram.sum() == 32 * len(counted)
    assert len(model.stages.histogram) == len(model.heads()["past"].nets) + 1


@pytest.mark.slow
def test_an_honest_account_is_answered_after_training() -> None:
    model, _ = trained()
    assert answered(model, hard(3000, seed=2)[0]) == 3000


def answered(model: Defended, x: Tensor) -> int:
    """How many of the queries are answered before the account is refused."""
    return sum(len(answers) for _, answers in ask(boxed(model), x))


def staged() -> Defended:
    """A module whose past nets come ever nearer to the present one, with the histogram of uniform inputs."""
    torch.manual_seed(0)
    model = HODA(stages=6, delta=0.5).build(mlp(), noise(2, SHAPE)).eval()
    now = nn.utils.parameters_to_vector(model.net.parameters()).detach()
    model.stages.weights.copy_(now + torch.linspace(0.15, 0.01, 6)[:, None] * torch.randn(6, len(now)))
    model.stages.taken.copy_(torch.arange(1, 7))
    model.stages.counts.copy_(degrees(model, noise(3000, SHAPE, seed=1)).bincount(minlength=7))
    return model


def hardest(model: Defended, n: int) -> Tensor:
    """The hardest of many uniform inputs, like those of an attacker without any data of the task."""
    x = noise(10 * n, SHAPE, seed=7)
    return x[degrees(model, x).argsort(descending=True, stable=True)[:n]]


def test_queries_harder_than_the_task_are_detected_and_an_honest_account_is_not() -> None:
    model = staged()
    assert answered(model, noise(3000, SHAPE, seed=2)) == 3000
    assert answered(model, hardest(model, 300)) == 99, "the first histogram reveals the attacker"


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.thorough), 37, 100, 512])
def test_neither_batches_nor_a_restart_change_what_is_detected(size: int) -> None:
    model = staged()
    x = torch.cat([noise(230, SHAPE, seed=2), hardest(model, 120)])
    whole = answered(model, x)
    assert whole == 299, "the first two histograms are honest"
    store, found = dict[str, bytes](), 0
    for part in x.split(size):
        states = LocalStates(store)  # as after a restart
        accounts = Accounts(model.heads(), model.guard, SHAPE, states)
        try:
            found += len(accounts.answer("a", part))
        except Refused as refusal:
            found += refusal.left
            break
        states.flush()
    assert found == whole


def test_answers_are_those_of_the_net() -> None:
    model, _ = trained(5, 1)
    x = noise(40, SHAPE)
    assert torch.equal(boxed(model)(x), Boxed(model.net, SHAPE)(x))


@pytest.mark.parametrize(("setting", "value"), [("delta", 2.1), ("queries", 0), ("stages", 1)])
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(Invalid, match=f"`{setting}`"):
        HODA(**{setting: value})
