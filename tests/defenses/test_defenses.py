"""What every defense must satisfy, by the registry alone, and what InI's losses consist of."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from marked import pretended
from samples import blobs, boxed, mlp, noise, trained
from stealguard.boxes.accounts import Accounts
from stealguard.boxes.base import outputs_of
from stealguard.boxes.metered import check_answers
from stealguard.defenses import DEFENSES, InI
from stealguard.defenses.base import Defended, Defense, evaluating, surrogate_of
from stealguard.nets import build, reinitialized
from stealguard.seeds import seeded
from stealguard.training.combine import COMBINES
from stealguard.training.descent import Descent
from stealguard.types import Batch

QUICK = {"memguard": {"steps": 10}}  # settings of answers that take long
SHAPES = [
    ((1, 28, 28), 10),
    pytest.param((3, 32, 32), 100, marks=pytest.mark.thorough),
    ((16,), 3),
    pytest.param((16,), 2, marks=pytest.mark.thorough),
]


def usual(name: str) -> Defense:
    return DEFENSES[name](**QUICK.get(name, {}))


def model_for(shape: tuple[int, ...], classes: int) -> nn.Module:
    return mlp(shape[0], classes) if len(shape) == 1 else build("lenet5", noise(4, shape), classes, seed=0)


def batch_for(shape: tuple[int, ...], classes: int, n: int = 8) -> Batch:
    return Batch(noise(n, shape), torch.arange(n) % classes, noise(n, shape, seed=4))


@pytest.mark.parametrize("name", DEFENSES)
@pytest.mark.parametrize(("shape", "classes"), SHAPES)
class TestContract:
    def test_it_trains(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        defense = usual(name)
        model = defense.build(model_for(shape, classes), noise(2, shape))
        losses = model.losses(batch_for(shape, classes))
        assert next(iter(losses)) == "task", "the task's loss comes first"
        assert all(loss.shape == () and torch.isfinite(loss) for loss in losses.values())
        COMBINES[defense.combine](list(losses.values()), list(model.parameters()))
        assert any(p.grad.abs().sum() > 0 for p in model.parameters() if p.grad is not None)

    def test_what_it_draws_follows_from_the_net(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        net, batch = model_for(shape, classes), batch_for(shape, classes)

        def losses() -> dict[str, float]:
            model = usual(name).build(net, noise(2, shape)).eval()
            with seeded(1):  # as fit does: what is drawn anew in each step comes from torch's generator
                return {k: v.item() for k, v in model.losses(batch).items()}

        assert losses() == losses()

    def test_its_answers_are_rows_on_the_simplex(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        box = boxed(usual(name).build(model_for(shape, classes), noise(2, shape)).eval(), shape)
        for x in (noise(1, shape), noise(7, shape), torch.zeros(2, *shape), torch.ones(2, *shape)):
            answers = box(x)
            assert check_answers(answers, len(x), name).shape == (len(x), classes)
            assert not answers.requires_grad

    def test_the_users_net_is_a_part_of_it(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        net = model_for(shape, classes)
        kept = {key: value.clone() for key, value in net.state_dict().items()}
        model = usual(name).build(net, noise(2, shape))
        assert isinstance(model, Defended)
        assert model.net is net
        assert all(torch.equal(model.state_dict()[f"net.{key}"], value) for key, value in kept.items())

    def test_its_weights_can_be_read_back(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        defense, batch = usual(name), batch_for(shape, classes)
        model = defense.build(model_for(shape, classes), noise(2, shape))
        losses = model.losses(batch)  # what is counted in training is read back too
        COMBINES[defense.combine](list(losses.values()), list(model.parameters()))
        Descent(model.parameters(), momentum=0.0, weight_decay=0.0).step(0.01)
        other = defense.build(model_for(shape, classes), torch.zeros(2, *shape))
        torch.nn.init.normal_(next(other.parameters()))
        other.load_state_dict(model.state_dict())
        x = noise(6, shape)
        assert torch.equal(model.eval()(x), other.eval()(x))
        assert torch.equal(boxed(model, shape)(x), boxed(other, shape)(x))

    def test_its_heads_answer_each_row_by_itself(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        model, x = usual(name).build(model_for(shape, classes), noise(2, shape)), noise(6, shape)
        model.losses(batch_for(shape, classes))
        heads, order = model.heads(), torch.tensor([3, 1, 5, 0, 2, 4])
        assert "logits" in heads
        together = outputs_of(heads, x)
        one_by_one = [outputs_of(heads, row[None]) for row in x]
        shuffled = outputs_of(heads, x[order])
        for key, output in together.items():
            assert len(output) == 6
            assert not output.requires_grad
            torch.testing.assert_close(torch.cat([row[key] for row in one_by_one]), output)
            torch.testing.assert_close(shuffled[key], output[order])

    def test_asking_changes_no_head(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        model, x = usual(name).build(model_for(shape, classes), noise(2, shape)).eval(), noise(6, shape)
        kept = {key: value.clone() for key, value in model.state_dict().items()}
        heads = model.heads()
        before = outputs_of(heads, x)
        box = Accounts(heads, model.guard, shape).connect("a")
        for _ in range(2):
            box(x.flip(0))
        for key, output in outputs_of(heads, x).items():
            assert torch.equal(output, before[key])
        for key, value in model.state_dict().items():
            torch.testing.assert_close(value, kept[key], rtol=0, atol=0, equal_nan=True)

    def test_its_guard_never_changes_the_state_that_it_gets(
        self, name: str, shape: tuple[int, ...], classes: int
    ) -> None:
        model, x = usual(name).build(model_for(shape, classes), noise(2, shape)).eval(), noise(6, shape)
        outputs, guard = outputs_of(model.heads(), x), model.guard
        state = guard.start()
        for _ in range(2):
            kept = {key: value.clone() for key, value in state.items()}
            answers, new = guard(outputs, x, state)
            assert set(state) == set(kept) == set(new)
            assert all(torch.equal(value, kept[key]) for key, value in state.items())
            if guard.scope == "none":
                assert new is state
                unknown = {"other": torch.ones(1)}
                again, same = guard(outputs, x, unknown)
                assert torch.equal(again, answers)
                assert same is unknown
            assert torch.equal(guard(outputs, x, state)[0], answers), "the answers follow from the state"
            state = new

    def test_it_is_frozen(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        with pytest.raises(FrozenInstanceError):
            DEFENSES[name]().combine = "other"


SCOPES = {"ini-robust": "account", "prada": "account", "hoda": "account", "d-add": "account", "modelguard-s": "shared"}


@pytest.mark.parametrize("name", DEFENSES)
def test_a_guard_remembers_for_nobody_for_each_account_or_for_all(name: str) -> None:
    model = usual(name).build(mlp(), noise(2, (16,))).eval()
    assert model.guard.scope == SCOPES.get(name, "none")
    accounts = Accounts(model.heads(), model.guard, (16,))
    accounts.answer("a", noise(40, (16,)))
    first, other, blank = accounts.state("a"), accounts.state("b"), model.guard.start()

    def same(one: sg.types.State, two: sg.types.State) -> bool:
        return set(one) == set(two) and all(torch.equal(value, two[key]) for key, value in one.items())

    assert same(first, blank) == (model.guard.scope == "none")
    assert same(other, first if model.guard.scope == "shared" else blank)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFENSES)
def test_training_that_was_interrupted_ends_in_the_same_bits(name: str, tmp_path: Path) -> None:
    """What a defense counts in training is a part of the module, and so of the checkpoint."""
    defense, (x, y), z = DEFENSES[name](), blobs(64, (16,), 3), noise(64, (16,))

    def train(checkpoint: Path, resume: bool, steps: int) -> nn.Module:
        torch.manual_seed(0)
        model, left = defense.build(mlp(), noise(2, (16,))), iter(range(steps))
        sg.fit(model, x, y, sg.Training(epochs=4, batch=16, lr=0.01), seed=0, outliers=z, progress=False,
               objective=lambda _, batch: next(left) >= 0 and model.losses(batch),
               combine=COMBINES[defense.combine], checkpoint=checkpoint, resume=resume)  # fmt: skip
        return model

    whole = train(tmp_path / "whole.pt", resume=False, steps=16).state_dict()
    with pytest.raises(StopIteration):
        train(tmp_path / "part.pt", resume=False, steps=10)
    resumed = train(tmp_path / "part.pt", resume=True, steps=8).state_dict()
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFENSES)
@pytest.mark.parametrize("shape", [(16,), pytest.param((1, 28, 28), marks=pytest.mark.thorough)])
def test_it_trains_on_another_device_and_answers_where_it_is_asked(name: str, shape: tuple[int, ...]) -> None:
    defense, (x, y), z = usual(name), blobs(72, shape, 3), noise(72, shape)

    def answers(device: str) -> tuple[Tensor, Tensor]:
        """To a client who asks from the processor, and to one who asks from the device: guards' memory is neither's."""
        with seeded(0):
            model = defense.build(model_for(shape, 3), x[:8]).to(device)
        training = sg.Training(epochs=1, batch=24, lr=0.01)
        sg.fit(model, x, y, training, seed=0, objective=lambda _, batch: model.losses(batch), outliers=z,
               combine=COMBINES[defense.combine], progress=False)  # fmt: skip
        model.eval().calibrate(Batch(x, y, z))
        assert {str(t.device) for t in (*model.parameters(), *model.buffers())} == {device}
        accounts = Accounts(model.heads(), model.guard, shape)
        here, there = (accounts.answer("a", part) for part in (x[:3], x[3:6].to(device)))
        assert (str(here.device), str(there.device)) == ("cpu", device)
        assert accounts.answer("a", x[6:9]).device.type == "cpu"
        return here, there.cpu()

    expected = answers("cpu")
    with pretended() as device:
        found = answers(device)
    if defense.combine == "total":  # PCGrad draws its orders where it computes
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


ANSWERING = {  # other values of each setting that training does not read
    "ini-robust": {
        "strictness": -2.0,
        "floor": -4.0,
        "trust": 9.0,
        "memory": False,
        "suspicion": 9.0,
        "suspects": "decoys",
        "decoys": False,
        "drift": 9.0,
    },
    "adaptive-misinformation": {"tau": 0.9, "nu": 10.0},
    "cip": {"quantiles": (0.2, 0.4)},
    "memguard": {"eps": 0.3, "steps": 5},
    "hoda": {"delta": 0.3, "queries": 7},
    "d-add": {"alarms": 0.2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFENSES)
def test_training_does_not_read_the_settings_of_answers(name: str) -> None:
    kind, (x, y), z = DEFENSES[name], blobs(64, (16,), 3), noise(64, (16,))
    assert set(ANSWERING.get(name, {})) == set(kind.answering)
    usual = kind()
    other = replace(usual, **ANSWERING.get(name, {}))
    assert other.basis == usual.basis == usual.basis.basis

    def weights(defense: Defense) -> dict[str, Tensor]:
        torch.manual_seed(0)
        training = sg.Training(epochs=2, batch=16, lr=0.01)
        return trained(defense, mlp(), x, y, training, outliers=z)[0].state_dict()

    basis = weights(usual.basis)
    for key, value in weights(other).items():
        torch.testing.assert_close(basis[key], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [name for name, kind in DEFENSES.items() if kind().needs_outliers])
def test_losses_that_read_outliers_say_so_where_there_are_none(name: str) -> None:
    model = usual(name).build(mlp(), noise(2, (16,)))
    with pytest.raises(ValueError, match="pass `outliers` to the training"):
        model.losses(Batch(noise(8, (16,)), torch.arange(8) % 3))


def test_a_surrogate_follows_from_its_seed_and_from_the_architecture() -> None:
    net, x = build("lenet5", noise(4), 10, seed=0), noise(3)
    one, again, other = (surrogate_of(net, seed) for seed in (1, 1, 2))
    assert not any(part.training for part in one.modules())
    assert torch.equal(one(x), again(x))
    assert torch.equal(one(x), reinitialized(net, seed=1).eval()(x))
    assert not torch.equal(one(x), other(x))


def test_evaluation_mode_ends_with_its_block_for_each_part_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net[1].eval()
    with evaluating(net):
        assert not any(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == [True, True, False]
    with contextlib.suppress(ZeroDivisionError), evaluating(net):
        _ = 1 / 0
    assert [part.training for part in net.modules()] == [True, True, False]


class Watched(nn.Module):
    """A net that notes at each forward pass how many of its earlier passes can still be differentiated."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.found, self._kept = net, list[int](), WeakSet[Mark]()

    def forward(self, x: Tensor) -> Tensor:
        self.found.append(len(self._kept))
        mark = Mark()
        self._kept.add(mark)
        return Marked.apply(self.net(x), mark)


class Mark:
    pass


class Marked(torch.autograd.Function):
    """The identity, whose node of the graph keeps a mark."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mark: Mark) -> Tensor:
        ctx.mark = mark
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class TestInI:
    def terms(self, defense: InI, **batch: object) -> dict[str, Tensor]:
        model = defense.build(model_for((1, 28, 28), 10), noise(4))
        return dict(model.losses(batch_for((1, 28, 28), 10)._replace(**batch)))

    def test_the_authors_order(self) -> None:
        assert list(self.terms(sg.InI())) == ["task", "induction", "isolation", "magnitude"]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("field", "term"), [("gamma", "induction"), ("delta", "isolation"), ("epsilon", "magnitude")]
    )
    def test_a_weight_scales_its_term_and_zero_leaves_it_out(self, field: str, term: str) -> None:
        once, twice = self.terms(replace(sg.InI(), **{field: 1.0})), self.terms(replace(sg.InI(), **{field: 2.0}))
        torch.testing.assert_close(2 * once[term], twice[term])
        assert term not in self.terms(replace(sg.InI(), **{field: 0.0}))

    def test_without_outlier_terms_no_outliers_are_needed(self) -> None:
        alone = sg.InI(gamma=0.0, epsilon=0.0)
        assert not alone.needs_outliers
        assert sg.InI().needs_outliers
        assert list(self.terms(alone, outliers=None)) == ["task", "isolation"]

    @pytest.mark.parametrize(("combine", "kept"), [("pcgrad", [0, 0]), ("total", [0, 1])])
    def test_what_the_task_inputs_need_is_freed_before_the_outliers_pass(
        self, combine: Literal["pcgrad", "total"], kept: list[int]
    ) -> None:
        watched, batch = Watched(mlp()), batch_for((16,), 3)
        model = replace(sg.InI(), combine=combine, surrogate="mlp").build(watched, batch.x)
        model.surrogates(batch.x)
        losses = model.losses(batch)
        assert watched.found[-2:] == kept
        assert len(losses) == 4

    @pytest.mark.parametrize("layers", ["all", "head"])
    def test_gradients_are_the_same_whether_taken_at_once_or_later(self, layers: Literal["all", "head"]) -> None:
        net, batch = mlp().double(), batch_for((16,), 3)
        batch = Batch(batch.x.double(), batch.y, batch.z.double())
        at_once, later = (
            replace(sg.InI(), combine=combine, surrogate_layers=layers).build(net, batch.x)
            for combine in ("pcgrad", "total")
        )
        expected = later.losses(batch)
        for name, loss in at_once.losses(batch).items():
            torch.testing.assert_close(loss, expected[name], rtol=0, atol=0)
            found = torch.autograd.grad(3 * loss, list(net.parameters()))
            right = torch.autograd.grad(3 * expected[name], list(net.parameters()), retain_graph=True)
            torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-15)

    def test_isolation_of_every_third_input_is_that_of_a_batch_of_these(self) -> None:
        net, batch = mlp().eval(), batch_for((16,), 3)
        whole, part = (replace(sg.InI(), isolate_every=every).build(net, batch.x) for every in (1, 3))
        thirds = batch._replace(x=batch.x[::3], y=batch.y[::3])
        found, expected = part.losses(batch), whole.losses(thirds)
        torch.testing.assert_close(found["isolation"], expected["isolation"], rtol=0, atol=0)
        grads = [torch.autograd.grad(losses["isolation"], list(net.parameters())) for losses in (found, expected)]
        torch.testing.assert_close(*grads)
        assert found["task"] == whole.losses(batch)["task"]

    def test_weights_outside_of_the_net_get_their_gradient(self) -> None:
        scale, batch = nn.Parameter(torch.ones(16)), batch_for((16,), 3)
        model = sg.InI().build(mlp(), batch.x)
        loss = model.losses(batch._replace(x=batch.x * scale))["task"]
        (found,) = torch.autograd.grad(loss, scale)
        assert found.abs().sum() > 0

    def test_a_hook_changes_a_gradient_once(self) -> None:
        net, batch = mlp(), batch_for((16,), 3)
        (before,) = torch.autograd.grad(sg.InI().build(net, batch.x).losses(batch)["task"], net[2].bias)
        net[2].bias.register_hook(lambda gradient: gradient / 2)
        (after,) = torch.autograd.grad(sg.InI().build(net, batch.x).losses(batch)["task"], net[2].bias)
        torch.testing.assert_close(after, before / 2)

    def test_losses_can_be_evaluated_without_gradients_and_with_a_frozen_net(self) -> None:
        net, batch = mlp(), batch_for((16,), 3)
        model = sg.InI().build(net, batch.x)
        expected = {name: loss.item() for name, loss in model.losses(batch).items()}
        with torch.no_grad():
            assert {name: loss.item() for name, loss in model.losses(batch).items()} == pytest.approx(expected)
        net.requires_grad_(False)
        assert {name: loss.item() for name, loss in model.losses(batch).items()} == pytest.approx(expected)

    def test_surrogates_are_drawn_before_the_net_changes_its_buffers(self) -> None:
        batch = batch_for((16,), 3)
        net = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 3))
        first, second = (sg.InI(surrogate_layers="head").build(copy.deepcopy(net), batch.x) for _ in range(2))
        second.surrogates(batch.x)
        found, expected = first.losses(batch)["isolation"], second.losses(batch)["isolation"]
        assert torch.equal(found, expected)

    def test_several_surrogates_are_averaged(self) -> None:
        net, batch = model_for((1, 28, 28), 10), batch_for((1, 28, 28), 10)
        both, single = sg.InI(surrogates=2).build(net, batch.x), sg.InI().build(net, batch.x)
        apart = []
        for surrogate in both.surrogates(batch.x):
            single._surrogates = [surrogate]
            apart.append(single.losses(batch))
        assert not torch.equal(apart[0]["induction"], apart[1]["induction"])
        for name, value in both.losses(batch).items():
            torch.testing.assert_close(value, (apart[0][name] + apart[1][name]) / 2)

    def test_the_surrogate_may_have_another_architecture(self) -> None:
        model, like = sg.InI(surrogate="wrn16_4").build(model_for((1, 28, 28), 10), noise(4)), noise(4)
        (surrogate,) = model.surrogates(like)
        assert not surrogate.training
        assert surrogate(like).shape == (4, 10)
        assert sum(p.numel() for p in surrogate.parameters()) > 2_000_000
        torch.testing.assert_close(surrogate.mean, like.mean(dim=(0, 2, 3)).view(1, 1, 1))

    def test_surrogates_follow_from_the_weights_at_the_start_and_are_no_part_of_the_module(self) -> None:
        net, batch = model_for((1, 28, 28), 10), batch_for((1, 28, 28), 10)
        model, again = sg.InI().build(net, batch.x), sg.InI().build(net, batch.x)
        names, weights = list(model.state_dict()), len(list(model.parameters()))
        (surrogate,) = model.surrogates(batch.x)
        with torch.no_grad():
            next(net.parameters()).add_(1)
        assert torch.equal(again.surrogates(batch.x)[0](batch.x), surrogate(batch.x))
        other = sg.InI().build(net, batch.x)
        assert not torch.equal(other.surrogates(batch.x)[0](batch.x), surrogate(batch.x))
        model.losses(batch)
        assert list(model.state_dict()) == names
        assert len(list(model.parameters())) == weights

    def test_surrogates_are_where_the_batch_is(self) -> None:
        model = sg.InI().build(mlp(), noise(4, (16,)))
        assert all(p.dtype == torch.float32 for p in model.surrogates(noise(4, (16,)))[0].parameters())
        assert all(p.dtype == torch.float64 for p in model.surrogates(noise(4, (16,)).double())[0].parameters())
        assert all(p.is_meta for p in model.surrogates(torch.empty(4, 16, device="meta"))[0].parameters())

    def test_training_leaves_the_surrogate_frozen(self) -> None:
        batch = batch_for((1, 28, 28), 10)
        model = sg.InI().build(model_for((1, 28, 28), 10), batch.x)
        (surrogate,) = model.surrogates(batch.x)
        before = {k: v.clone() for k, v in surrogate.state_dict().items()}
        sg.fit(model, batch.x, batch.y, sg.Training(epochs=3, batch=4), seed=0, combine=COMBINES["pcgrad"],
               objective=lambda _, b: model.losses(b), outliers=batch.outliers, progress=False)  # fmt: skip
        assert model.surrogates(batch.x) == [surrogate]
        assert all(torch.equal(v, before[k]) for k, v in surrogate.state_dict().items())
