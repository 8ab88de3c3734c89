"""What every defense must satisfy, by the registry alone, and what InI's objective is made of."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import stealguard as sg
from samples import blobs, mlp, noise
from stealguard.boxes.base import Boxed, check_answers
from stealguard.defenses import DEFENSES
from stealguard.nets import build
from stealguard.training.combine import COMBINES
from stealguard.types import Batch

SHAPES = [((1, 28, 28), 10), ((3, 32, 32), 100), ((16,), 3), ((16,), 2)]


def model_for(shape: tuple[int, ...], classes: int) -> nn.Module:
    return mlp(shape[0], classes) if len(shape) == 1 else build("lenet5", noise(4, shape), classes, seed=0)


def batch_for(shape: tuple[int, ...], classes: int, n: int = 8) -> Batch:
    return Batch(noise(n, shape), torch.arange(n) % classes, noise(n, shape, seed=4))


@pytest.mark.parametrize("name", DEFENSES)
@pytest.mark.parametrize(("shape", "classes"), SHAPES)
class TestContract:
    def test_it_trains(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        defense = DEFENSES[name]()
        model = defense.build(model_for(shape, classes), noise(2, shape))
        objective = defense.objective(model, noise(4, shape), seed=0)
        losses = objective(model, batch_for(shape, classes))
        assert next(iter(losses)) == "task", "the task's loss comes first"
        assert all(loss.shape == () and torch.isfinite(loss) for loss in losses.values())
        COMBINES[defense.combine](list(losses.values()), list(model.parameters()))
        assert any(p.grad.abs().sum() > 0 for p in model.parameters())

    def test_its_seed_decides_what_it_draws(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        defense = DEFENSES[name]()
        model, batch = defense.build(model_for(shape, classes), noise(2, shape)).eval(), batch_for(shape, classes)

        def losses() -> dict[str, float]:
            with sg.seeds.seeded(1):  # as fit does: what is drawn anew in each step comes from torch's generator
                return {k: v.item() for k, v in defense.objective(model, batch.x, seed=5)(model, batch).items()}

        assert losses() == losses()

    def test_its_box_answers_rows_on_the_simplex(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        defense = DEFENSES[name]()
        model = defense.build(model_for(shape, classes), noise(2, shape))
        box = defense.guard(Boxed(model, shape), model)
        for x in (noise(1, shape), noise(7, shape), torch.zeros(2, *shape), torch.ones(2, *shape)):
            assert check_answers(box(x), len(x), name).shape == (len(x), classes)

    def test_the_users_net_is_a_part_of_what_is_trained(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        defense, net = DEFENSES[name](), model_for(shape, classes)
        kept = {key: value.clone() for key, value in net.state_dict().items()}
        plain = defense.plain(defense.build(net, noise(2, shape)))
        assert all(torch.equal(value, kept[key]) for key, value in plain.state_dict().items())

    def test_its_weights_can_be_read_back(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        defense = DEFENSES[name]()
        model, other = (defense.build(model_for(shape, classes), noise(2, shape)) for _ in "ab")
        torch.nn.init.normal_(next(other.parameters()))
        other.load_state_dict(model.state_dict())
        x = noise(6, shape)
        assert torch.equal(model.eval()(x), other.eval()(x))

    def test_it_is_frozen(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        with pytest.raises(FrozenInstanceError):
            DEFENSES[name]().combine = "other"


@pytest.mark.parametrize("name", DEFENSES)
def test_training_that_was_interrupted_ends_in_the_same_bits(name: str, tmp_path: Path) -> None:
    """What a defense counts along in training lies in the module, and so in the checkpoint."""
    defense, (x, y), z = DEFENSES[name](), blobs(64, (16,), 3), noise(64, (16,))

    def train(checkpoint: Path, resume: bool, steps: int) -> nn.Module:
        torch.manual_seed(0)
        model, left = defense.build(mlp(), noise(2, (16,))), iter(range(steps))
        losses = defense.objective(model, x, seed=0)
        sg.fit(model, x, y, sg.Training(epochs=4, batch=16, lr=0.01), seed=0, outliers=z, progress=False,
               objective=lambda m, batch: next(left) >= 0 and losses(m, batch),
               combine=COMBINES[defense.combine], checkpoint=checkpoint, resume=resume)  # fmt: skip
        return model

    whole = train(tmp_path / "whole.pt", resume=False, steps=16).state_dict()
    with pytest.raises(StopIteration):
        train(tmp_path / "part.pt", resume=False, steps=10)
    resumed = train(tmp_path / "part.pt", resume=True, steps=8).state_dict()
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0, equal_nan=True)


ANSWERING = {  # other values of each setting that training does not read
    "ini-robust": {"strictness": -2.0, "decoys": False},
    "adaptive-misinformation": {"tau": 0.9, "nu": 10.0},
    "cip": {"quantiles": (0.2, 0.4)},
    "memguard": {"eps": 0.3, "steps": 5},
    "hoda": {"delta": 0.3, "queries": 7},
}


@pytest.mark.parametrize("name", DEFENSES)
def test_training_reads_nothing_that_is_said_to_be_read_by_answers_alone(name: str) -> None:
    kind, x, y, z = DEFENSES[name], *blobs(64, (16,), 3), noise(64, (16,))
    assert set(ANSWERING.get(name, {})) == set(kind.answering)
    usual = kind()
    other = replace(usual, **ANSWERING.get(name, {}))
    assert other.basis == usual.basis == usual.basis.basis

    def trained(defense: sg.Defense) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = defense.build(mlp(), noise(2, (16,)))
        sg.fit(model, x, y, sg.Training(epochs=2, batch=16, lr=0.01), seed=0, outliers=z, progress=False,
               objective=defense.objective(model, x, seed=0), combine=COMBINES[defense.combine])  # fmt: skip
        return model.state_dict()

    basis = trained(usual.basis)
    for key, value in trained(other).items():
        torch.testing.assert_close(basis[key], value, rtol=0, atol=0, equal_nan=True)


class TestInI:
    def terms(self, defense: sg.InI, **batch: object) -> dict[str, torch.Tensor]:
        model = model_for((1, 28, 28), 10)
        filled = batch_for((1, 28, 28), 10)._replace(**batch)
        return dict(defense.objective(model, filled.x, seed=0)(model, filled))

    def test_the_authors_order(self) -> None:
        assert list(self.terms(sg.InI())) == ["task", "induction", "isolation", "magnitude"]

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

    def test_several_surrogates_are_averaged(self) -> None:
        model, batch = model_for((1, 28, 28), 10), batch_for((1, 28, 28), 10)
        two = sg.InI(surrogates=2)
        stand_ins = [two._stand_in(model, batch.x, sg.seeds.derive(0, "surrogate", i)) for i in range(2)]
        apart = [sg.InI()._losses(model, batch, [s]) for s in stand_ins]
        together = two.objective(model, batch.x, seed=0)(model, batch)
        assert not torch.equal(apart[0]["induction"], apart[1]["induction"])
        for name, value in together.items():
            torch.testing.assert_close(value, (apart[0][name] + apart[1][name]) / 2)

    def test_the_surrogate_may_have_another_architecture(self) -> None:
        model, like = model_for((1, 28, 28), 10), noise(4)
        stand_in = sg.InI(surrogate="wrn16_4")._stand_in(model, like, 0)
        assert not stand_in.training
        assert stand_in(like).shape == (4, 10)
        assert sum(p.numel() for p in stand_in.parameters()) > 2_000_000

    def test_training_leaves_the_surrogate_frozen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[nn.Module] = []
        draw = sg.InI._stand_in
        monkeypatch.setattr(sg.InI, "_stand_in", lambda *a: made.append(draw(*a)) or made[-1])
        model, batch = model_for((1, 28, 28), 10), batch_for((1, 28, 28), 10)
        objective = sg.InI().objective(model, batch.x, seed=0)
        before = {k: v.clone() for k, v in made[0].state_dict().items()}
        sg.fit(model, batch.x, batch.y, sg.Training(epochs=3, batch=4), seed=0, objective=objective,
               combine=COMBINES["pcgrad"], outliers=batch.outliers, progress=False)  # fmt: skip
        assert all(torch.equal(v, before[k]) for k, v in made[0].state_dict().items())
