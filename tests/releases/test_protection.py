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
from stealguard.data.inputs import Stored
from stealguard.data.roles import divide
from stealguard.defenses import AdaptiveMisinformation
from stealguard.errors import Invalid
from stealguard.releases import protection
from stealguard.releases.protection import validation_split
from stealguard.releases.verifying import verified
from stealguard.releases.workplace import working


def protect(out: Path, **changes: Any) -> sg.Release:
    given: dict[str, Any] = {"net": "lenet5", "data": task(200), "defense": sg.InI(), "epochs": 1}
    given["outliers"] = [] if changes.get("defense") == "none" else [noise(90)]
    given |= {"out": out, "progress": False, "device": "cpu", "training": sg.Training(batch=32)}
    return sg.protect(**(given | changes))


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_already_trained_model_is_a_start(tmp_path: Path) -> None:
    plain = protect(tmp_path / "plain", defense="none", epochs=4, data=task(800))
    crawl = sg.Training(lr=1e-9)
    for start in (plain.model, plain.folder, str(plain.folder)):
        kept = protect(tmp_path / "kept", start=start, training=crawl, overwrite=True)
        for name, value in plain.model.state_dict().items():
            torch.testing.assert_close(kept.model.state_dict()[name], value, atol=1e-6, rtol=0)
    assert kept.recipe["start"] == str(plain.folder)


@pytest.mark.slow
def test_a_plain_start_becomes_the_users_net_in_a_defense_of_several_parts(tmp_path: Path) -> None:
    plain = protect(tmp_path / "plain", defense="none")
    crawl = sg.Training(batch=32, lr=1e-12)
    defense = AdaptiveMisinformation()
    kept = protect(tmp_path / "kept", defense=defense, start=plain.folder, training=crawl)
    for name, value in kept.model.net.state_dict().items():
        torch.testing.assert_close(value, plain.model.net.state_dict()[name])
    again = protect(tmp_path / "again", defense=defense, start=kept.folder, training=crawl)
    for name, value in again.model.state_dict().items():
        torch.testing.assert_close(value, kept.model.state_dict()[name])


@pytest.mark.slow
def test_the_start_is_not_changed(tmp_path: Path) -> None:
    plain = protect(tmp_path / "plain", defense="none")
    before = {k: v.clone() for k, v in plain.model.state_dict().items()}
    protect(tmp_path / "kept", start=plain.model)
    assert all(torch.equal(v, before[k]) for k, v in plain.model.state_dict().items())


@pytest.mark.slow
def test_the_test_set_is_not_read(tmp_path: Path) -> None:
    x, y, test_x, test_y = task(200)
    one = protect(tmp_path / "a", data=(x, y, test_x, test_y))
    other = protect(tmp_path / "b", data=(x, y, 1 - test_x, test_y.flip(0)))
    assert one.recipe["weights_sha256"] == other.recipe["weights_sha256"]


def test_validation_is_held_out_of_training() -> None:
    x = torch.arange(100.0).view(-1, 1)
    (fit_x, _), (held_x, _) = validation_split(sg.data.Split(Stored(x), torch.arange(100)), seed=0)
    assert len(held_x) == 10
    assert torch.cat([fit_x[:], held_x[:]]).sort(dim=0).values.equal(x)


def test_the_default_is_robust_ini_with_the_outliers_of_the_tasks_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "some.npz", x=noise(60).numpy())
    monkeypatch.setattr(protection, "stand_ins", lambda shape: [f"npz:{tmp_path / 'some.npz'}"])
    recipe = sg.protect("lenet5", task(200), epochs=1, out=tmp_path / "a", progress=False).recipe
    assert recipe["defense"]["name"] == "ini-robust"
    assert recipe["training"]["augment"] == "half-affine"
    assert [one["rows"] for one in recipe["outliers"]] == [40]
    alike = sg.protect("lenet5", task(200), defense=sg.InI.robust(), epochs=1, out=tmp_path / "c", progress=False)
    assert alike.recipe["training"] == recipe["training"]
    assert alike.recipe["weights_sha256"] == recipe["weights_sha256"]
    undefended = sg.protect("lenet5", task(200), defense="none", epochs=1, out=tmp_path / "b", progress=False)
    assert undefended.recipe["outliers"] == []


def test_the_outliers_of_a_table_are_made_from_its_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = sg.protect(mlp(), task(200, (16,), 3), out=tmp_path / "a", epochs=1)
    assert [one["name"] for one in release.recipe["outliers"]] == ["uniform", "shuffled"]
    assert "outliers: uniform and shuffled, made with inputs of 16 (none were named)" in capsys.readouterr().err
    assert all(name in sg.data.SETS for shape in ((1, 28, 28), (3, 32, 32)) for name in roles.stand_ins(shape))


def test_a_table_is_protected_as_images_are(tmp_path: Path) -> None:
    made = sg.protect(
        mlp(), task(200, (16,), 3), outliers=[noise(60, (16,))], epochs=1, out=tmp_path / "a", progress=False
    )
    assert sg.load(made.folder, net=mlp()).box(noise(4, (16,))).shape == (4, 3)


def test_a_third_of_each_outlier_set_is_never_trained_on() -> None:
    x = torch.arange(90.0).view(-1, 1)
    known, unseen = divide(Stored(x), "some set")
    assert (len(known), len(unseen)) == (60, 30)
    assert torch.cat([known[:], unseen[:]]).sort(dim=0).values.equal(x)
    assert divide(Stored(x), "some set")[1][:].equal(unseen[:]), "an audit must find the same third again"


@pytest.mark.slow
def test_the_tasks_own_inputs_are_no_outliers(tmp_path: Path) -> None:
    data = task(100, (16,), 3)
    with pytest.raises(Invalid, match=r"`outliers` should be other inputs than the task's, .* Found `tensors-"):
        sg.protect(mlp(), data, outliers=[data[0]], epochs=1, out=tmp_path / "a", progress=False)


def test_outliers_of_another_shape_can_be_resized(tmp_path: Path) -> None:
    color = noise(60, (3, 40, 36))
    with pytest.raises(
        Invalid,
        match=r"of shape \(N, 1, 28, 28\), or images resized with `resize`. Found \(60, 3, 40, 36\)",
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
        ({"net": nn.Flatten()}, r"to logits \(N, 10\). Found `Flatten` -> \(4, 784\)"),
        ({"data": "mnits"}, r"`data` should be .*did you mean `mnist`"),
        ({"data": (task(50)[0] * float("nan"), *task(50)[1:])}, "NaN"),
        ({"data": (task(50)[0], labels_off(task(50)[1]), *task(50)[2:])}, "labels|y"),
        ({"data": (task(50)[0].long(), *task(50)[1:])}, "floats, uint8 or bool .* Found torch.int64"),
        (
            {"data": (noise(8), torch.arange(8) % 2, noise(8), torch.arange(8) % 2)},
            "`data` should be at least 10 training inputs",
        ),
        ({"outliers": []}, "`outliers` should be given: this defense needs some"),
        ({"outliers": [noise(0)]}, "at least one row|empty"),
        ({"outliers": ["leters"]}, r"`outliers` should be one of .*did you mean `letters`"),
        ({"defense": "innie"}, r"`defense` should be one of none, ini.*"),
        ({"defense": sg.InI}, "`defense` should be a preset's name, .* or a defense with its settings. Found <class"),
        ({"training": {"lr": 0.1}}, "`training` should be a `Training`. Found {'lr': 0.1}"),
        ({"epochs": -1}, "`epochs` should be .* at least 1, or 0 to release trained weights as they are. Found -1"),
        ({"epochs": 0}, "`epochs` should be at least 1 where neither `weights` nor `start` is given. Found 0"),
        ({"seed": 1.5}, "`seed` should be a whole number of 64 bits. Found 1.5"),
        ({"seed": 2**64}, "`seed` should be a whole number of 64 bits. Found 18446744073709551616"),
        ({"size": 28}, r"no folder or shards of pictures. Found \(28, 28\) for tuple of Tensor, Tensor"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        protect(tmp_path / "out", **changes)
    assert not list(tmp_path.iterdir())


def test_a_guard_takes_a_release_and_a_defense_and_no_names(tmp_path: Path, ini_release: sg.Release) -> None:
    with pytest.raises(Invalid, match=r"`defense` should be a defense with its settings. Found 'rounding'"):
        sg.guarded(ini_release, "rounding", tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(Invalid, match=r"`release` should be a `Release`, as `load` gives it. Found PosixPath"):
        sg.guarded(ini_release.folder, sg.InI(), tmp_path / "a")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_release_is_not_overwritten_unasked(tmp_path: Path) -> None:
    made = protect(tmp_path / "a", defense="none")
    with pytest.raises(Invalid, match=r"does not exist yet \(or pass `overwrite`, `--overwrite` on the command line\)"):
        protect(tmp_path / "a", defense="none")
    assert sg.load(tmp_path / "a").hash == made.hash
    assert protect(tmp_path / "a", defense="none", seed=4, overwrite=True).hash != made.hash


def test_a_start_of_another_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="`start` should be of the architecture that is protected"):
        protect(tmp_path / "a", start=mlp())


def test_what_is_in_the_way_of_a_release_is_not_removed(tmp_path: Path) -> None:
    thesis = tmp_path / "work" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years")
    for overwrite in (False, True):
        with pytest.raises(
            Invalid, match="`out` should be a folder that does not exist yet; only a release is replaced"
        ):
            protect(thesis.parent, defense="none", overwrite=overwrite)
        with pytest.raises(Invalid, match="`out` should be a folder"):
            protect(thesis, defense="none", overwrite=overwrite)
    assert thesis.read_text() == "years"


def test_overwriting_a_release_keeps_what_else_is_in_its_folder(tmp_path: Path) -> None:
    first = protect(tmp_path / "a", defense="none")
    (tmp_path / "a" / "notes.txt").write_text("mine")
    second = protect(tmp_path / "a", defense="none", seed=1, overwrite=True)
    assert sg.load(tmp_path / "a").identity == second.identity != first.identity
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["notes.txt", "recipe.json", "weights.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_overwriting_a_release_removes_its_exports(tmp_path: Path) -> None:
    first = protect(tmp_path / "a", defense="none")
    for name in ("export.json", "heads.onnx", "model.onnx", "heads.pt2"):
        (tmp_path / "a" / name).write_text("of the first release")
    second = protect(tmp_path / "a", defense="none", seed=1, overwrite=True)
    assert verified(tmp_path / "a").identity == second.identity != first.identity
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["recipe.json", "weights.safetensors"]


def test_files_named_like_exports_stay_where_no_report_tells_of_them(tmp_path: Path) -> None:
    protect(tmp_path / "a", defense="none")
    (tmp_path / "a" / "model.onnx").write_text("mine")
    protect(tmp_path / "a", defense="none", seed=1, overwrite=True)
    assert (tmp_path / "a" / "model.onnx").read_text() == "mine"


def test_an_empty_folder_and_a_link_to_one_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("empty", "link"):
        made = protect(tmp_path / name, defense="none")
        assert made.folder == tmp_path / name
        assert sg.load(tmp_path / name).identity == made.identity
    assert (tmp_path / "link").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "link", "real"]


def test_a_folder_that_cannot_be_renamed_onto_is_written_from_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == volume)
    made = protect(volume, defense="none")
    assert sg.load(volume).identity == made.identity
    assert sorted(p.name for p in volume.iterdir()) == ["recipe.json", "weights.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["volume"]


def test_a_release_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    with working(tmp_path / "a"), pytest.raises(sg.StealguardError, match="Another process is writing the release"):
        protect(tmp_path / "a", defense="none")
    assert protect(tmp_path / "a", defense="none").folder.exists()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.b(self.a(x).relu()).relu())


class Counting(nn.Module):
    """Its answers depend on how often it was trained, which it keeps in a buffer that torch does not save."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(16, 3)
        self.register_buffer("steps", torch.zeros(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps = self.steps + torch.tensor([0.0, 0.01, 0.02])
        return self.out(x) + self.steps


class Forgetful(Counting):
    """The same, kept in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        del self.steps
        self.steps = torch.zeros(3)


@pytest.mark.parametrize("kind", [Tied, Counting])
def test_tied_weights_and_learned_buffers_come_back(kind: type[nn.Module], tmp_path: Path) -> None:
    data = task(200, (16,), 3)
    made = protect(tmp_path / "a", net=kind(), data=data, defense="none")
    again = sg.load(tmp_path / "a", net=kind())
    torch.testing.assert_close(again.box(data[2]), made.box(data[2]))
    if kind is Counting:
        assert again.model.net.get_buffer("steps").abs().sum() > 0


def test_what_a_release_cannot_keep_is_said_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"whose parameters and buffers hold all that it learns.* Found `steps`"):
        protect(tmp_path / "a", net=Forgetful(), data=task(200, (16,), 3), defense="none")
    assert not list(tmp_path.iterdir())


def test_a_release_that_answers_otherwise_is_not_written_and_the_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protection, "check", lambda *given: None)
    with pytest.raises(sg.errors.ReleaseError, match="answers otherwise than the trained net"):
        protect(tmp_path / "a", net=Forgetful(), data=task(200, (16,), 3), defense="none")
    assert (tmp_path / "a.partial" / "checkpoint.pt").exists()
    assert not (tmp_path / "a").exists()


def test_a_resumed_training_has_to_be_the_same_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the release follows from is told apart: the data, the defense, the outliers, the net."""
    from stealguard.releases import release as releases

    data = task(200, (16,), 3)
    given: dict[str, Any] = {"net": mlp(), "data": data, "outliers": [noise(90, (16,))], "defense": "none"}
    with monkeypatch.context() as patch:
        patch.setattr(releases, "publish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            protect(tmp_path / "a", **given)
    others: dict[str, Any] = {
        "data": (data[0], data[1].flip(0), *data[2:]), "defense": sg.InI(), "outliers": [noise(90, (16,), seed=8)],
        "net": nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), "seed": 1, "epochs": 2,
    }  # fmt: skip
    for name, other in others.items():
        with pytest.raises(Invalid, match="`resume`"):
            protect(tmp_path / "a", **(given | {name: other}), resume=True)
    with pytest.raises(Invalid, match=r"`--resume`\) goes on with it, `overwrite` .* checkpoint, .*a.partial"):
        protect(tmp_path / "a", **given)
    assert protect(tmp_path / "a", **given, resume=True).folder.exists()


def test_a_release_knows_its_data_and_its_classes(tmp_path: Path) -> None:
    data = task(200, (16,), 3)
    made = protect(tmp_path / "a", net=mlp(), data=data, classes=["red", "green", "blue"], defense="none")
    assert made.output.names == ("red", "green", "blue")
    assert len(made.recipe["data"]["train_sha256"]) == len(made.recipe["data"]["test_sha256"]) == 64
    other = protect(tmp_path / "b", net=mlp(), data=(data[0], data[1], 1 - data[2], data[3]), defense="none")
    assert other.recipe["data"]["test_sha256"] != made.recipe["data"]["test_sha256"]
    assert other.recipe["data"]["train_sha256"] == made.recipe["data"]["train_sha256"]


def test_equal_weights_made_at_another_time_have_one_identity(tmp_path: Path) -> None:
    a, b = (protect(tmp_path / name, defense="none") for name in "ab")
    assert a.identity == b.identity
    assert a.recipe["sha256"] != b.recipe["sha256"]


def test_two_arrays_are_split_by_the_seed(tmp_path: Path) -> None:
    x, y, *_ = task(200, (16,), 3)
    made = sg.protect(
        mlp(), data=(x, y), outliers=[noise(90, (16,))], defense="ini", epochs=1, seed=0, out=tmp_path / "a",
        training=sg.Training(batch=32), progress=False,
    )  # fmt: skip
    assert made.recipe["classes"] == 3
    (row, _) = sg.audit(
        made, data=(x.numpy(), y.numpy()), pools=[noise(100, (16,), seed=7)], budgets=50, progress=False
    )
    assert row.status == "ok"


def test_outliers_that_a_defense_does_not_read_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {"data": task(100, (16,), 3), "defense": "none", "epochs": 1}
    net = mlp()
    plain = sg.protect(net, out=tmp_path / "a", **given)
    assert "reads no outliers" not in capsys.readouterr().err
    beside = sg.protect(net, out=tmp_path / "b", outliers=[noise(60, (16,))], **given)
    assert "notice: This defense reads no outliers. An audit takes a third of each" in capsys.readouterr().err
    assert beside.recipe["weights_sha256"] == plain.recipe["weights_sha256"]
