"""Protect: what it takes, what it refuses before anything is written, and what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import stealguard as sg
from samples import mlp, noise, task
from stealguard.data import roles
from stealguard.data.roles import divide
from stealguard.defenses import AdaptiveMisinformation
from stealguard.errors import Invalid
from stealguard.releases.protection import validation_split


def protect(out: Path, **changes: Any) -> sg.Release:
    given = {"net": "lenet5", "data": task(200), "outliers": [noise(90)], "defense": sg.InI(), "epochs": 1}
    given |= {"out": out, "progress": False, "training": sg.Training(batch=32)}
    return sg.protect(**(given | changes))


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    a, b, c = (protect(tmp_path / str(i), seed=s) for i, s in enumerate([0, 0, 1]))
    assert a.recipe["weights_sha256"] == b.recipe["weights_sha256"] != c.recipe["weights_sha256"]


def test_torch_datasets_and_modules_are_taken(tmp_path: Path) -> None:
    x, y, test_x, test_y = task(200, (16,), 3)
    made = protect(
        tmp_path / "a",
        net=mlp(),
        data=(TensorDataset(x, y), TensorDataset(test_x, test_y)),
        outliers=TensorDataset(noise(60, (16,))),
    )
    assert made.recipe["net"] == "given:Sequential"
    assert made.recipe["shape"] == [16]


def test_an_already_trained_model_is_a_start(tmp_path: Path) -> None:
    plain = protect(tmp_path / "plain", defense="none", epochs=4, data=task(800))
    crawl = sg.Training(lr=1e-9)
    for start in (plain.model, plain.folder, str(plain.folder)):
        kept = protect(tmp_path / "kept", start=start, training=crawl, overwrite=True)
        for name, value in plain.model.state_dict().items():
            torch.testing.assert_close(kept.model.state_dict()[name], value, atol=1e-6, rtol=0)
    assert kept.recipe["start"] == str(plain.folder)


def test_a_plain_start_is_the_users_net_in_a_defense_of_several_parts(tmp_path: Path) -> None:
    plain = protect(tmp_path / "plain", defense="none")
    crawl = sg.Training(batch=32, lr=1e-12)
    defense = AdaptiveMisinformation()
    kept = protect(tmp_path / "kept", defense=defense, start=plain.folder, training=crawl)
    for name, value in defense.plain(kept.model).state_dict().items():
        torch.testing.assert_close(value, plain.model.state_dict()[name])
    again = protect(tmp_path / "again", defense=defense, start=kept.folder, training=crawl)
    for name, value in again.model.state_dict().items():
        torch.testing.assert_close(value, kept.model.state_dict()[name])


def test_the_start_is_not_changed(tmp_path: Path) -> None:
    plain = protect(tmp_path / "plain", defense="none")
    before = {k: v.clone() for k, v in plain.model.state_dict().items()}
    protect(tmp_path / "kept", start=plain.model)
    assert all(torch.equal(v, before[k]) for k, v in plain.model.state_dict().items())


def test_the_test_set_is_not_read(tmp_path: Path) -> None:
    x, y, test_x, test_y = task(200)
    one = protect(tmp_path / "a", data=(x, y, test_x, test_y))
    other = protect(tmp_path / "b", data=(x, y, 1 - test_x, test_y.flip(0)))
    assert one.recipe["weights_sha256"] == other.recipe["weights_sha256"]


def test_validation_is_held_out_of_training() -> None:
    x = torch.arange(100.0).view(-1, 1)
    (fit_x, _), (held_x, _) = validation_split(sg.data.Split(x, torch.arange(100)), seed=0)
    assert len(held_x) == 10
    assert torch.cat([fit_x, held_x]).sort(dim=0).values.equal(x)


def test_who_names_nothing_gets_robust_ini_and_the_outliers_of_the_tasks_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "some.npz", x=noise(60).numpy())
    monkeypatch.setitem(roles.STAND_INS, (1, 28, 28), [f"npz:{tmp_path / 'some.npz'}"])
    recipe = sg.protect("lenet5", task(200), epochs=1, out=tmp_path / "a", progress=False).recipe
    assert recipe["defense"]["name"] == "ini-robust"
    assert recipe["training"]["augment"] == "half-affine"
    assert [one["rows"] for one in recipe["outliers"]] == [40]
    alike = sg.protect("lenet5", task(200), defense=sg.InI.robust(), epochs=1, out=tmp_path / "c", progress=False)
    assert alike.recipe["training"] == recipe["training"]
    assert alike.recipe["weights_sha256"] == recipe["weights_sha256"]
    undefended = sg.protect("lenet5", task(200), defense="none", epochs=1, out=tmp_path / "b", progress=False)
    assert undefended.recipe["outliers"] == []


def test_no_outliers_are_made_up_for_another_shape(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"`outliers` should be given, since no set has inputs of shape \(16,\)"):
        sg.protect(mlp(), task(200, (16,), 3), out=tmp_path / "a", progress=False)
    assert not list(tmp_path.iterdir())
    assert all(name in sg.data.SETS for names in roles.STAND_INS.values() for name in names)


def test_a_table_is_protected_as_images_are(tmp_path: Path) -> None:
    made = sg.protect(
        mlp(), task(200, (16,), 3), outliers=[noise(60, (16,))], epochs=1, out=tmp_path / "a", progress=False
    )
    assert sg.load(made.folder, net=mlp()).box(noise(4, (16,))).shape == (4, 3)


def test_a_third_of_each_outlier_set_is_never_trained_on() -> None:
    x = torch.arange(90.0).view(-1, 1)
    known, unseen = divide(x, "some set")
    assert (len(known), len(unseen)) == (60, 30)
    assert torch.cat([known, unseen]).sort(dim=0).values.equal(x)
    assert divide(x, "some set")[1].equal(unseen), "an audit must find the same third again"


def test_outliers_of_another_shape_can_be_resized(tmp_path: Path) -> None:
    color = noise(60, (3, 40, 36))
    with pytest.raises(
        Invalid,
        match=r"`outliers` should be of shape \(N, 1, 28, 28\), or resized with `resize`. Found \(60, 3, 40, 36\)",
    ):
        protect(tmp_path / "a", outliers=[color])
    assert not list(tmp_path.iterdir())
    assert protect(tmp_path / "a", outliers=[color], resize=True).recipe["outliers"][0]["rows"] == 40


def labels_off(y: torch.Tensor) -> torch.Tensor:
    return torch.where(y == 0, -1, y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net": "lenet"}, r"`net` should be one of .* Found `lenet` \(did you mean `lenet5`\?\)"),
        ({"net": mlp(784, 7)}, r"`net` should be a module from inputs like the task's to logits \(N, 10\)"),
        ({"net": nn.Flatten()}, r"to logits \(N, 10\). Found \(2, 784\)"),
        ({"data": "mnits"}, r"`data` should be .*did you mean `mnist`"),
        ({"data": (task(50)[0] * 2, *task(50)[1:])}, r"in \[0, 1\]"),
        ({"data": (task(50)[0] * float("nan"), *task(50)[1:])}, "NaN"),
        ({"data": (task(50)[0], labels_off(task(50)[1]), *task(50)[2:])}, "labels|y"),
        ({"data": (task(50)[0].long(), *task(50)[1:])}, "dtype"),
        ({"data": task(8)}, "`data` should be at least 10 training inputs"),
        ({"outliers": []}, "`outliers` should be given: this defense needs some"),
        ({"outliers": [noise(0)]}, "at least one row|empty"),
        ({"outliers": ["leters"]}, r"did you mean `letters`"),
        ({"defense": "innie"}, r"`defense` should be one of none, ini.*"),
        ({"epochs": 0}, "`epochs` should be a whole number of at least 1. Found 0"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        protect(tmp_path / "out", **changes)
    assert not list(tmp_path.iterdir())


def test_a_release_is_not_overwritten_unasked(tmp_path: Path) -> None:
    made = protect(tmp_path / "a", defense="none")
    with pytest.raises(Invalid, match=r"`out` should be a folder that does not exist yet \(or pass `overwrite`\)"):
        protect(tmp_path / "a", defense="none")
    assert sg.load(tmp_path / "a").hash == made.hash
    assert protect(tmp_path / "a", defense="none", seed=4, overwrite=True).hash != made.hash


def test_a_start_of_another_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="`start` should be of the architecture that is protected"):
        protect(tmp_path / "a", start=mlp())
