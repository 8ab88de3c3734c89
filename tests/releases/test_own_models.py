"""A model of one's own: photographs of mixed sizes, weights in a file, statistics of the inputs; and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import stealguard as sg
from samples import mlp, noise, task
from stealguard.defenses import Rounding
from stealguard.errors import Invalid, ReleaseError
from stealguard.nets import Normalized
from stealguard.releases import recipes
from stealguard.results.honest import PoorAnswers

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photographs(path: Path, n: int = 12, names: str = "ab") -> Path:
    """Class folders of pictures of mixed sizes, each class of one brightness, one of them gray and one transparent."""
    rng = np.random.default_rng(0)
    for level, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for i in range(n):
            size = rng.integers(20, 50, 2)
            pixels = (rng.integers(0, 120, (*size, 3)) + 120 * level).astype(np.uint8)
            mode = {0: "L", 1: "RGBA"}.get(i, "RGB")
            Image.fromarray(pixels).convert(mode).save(path / name / f"{i}.{'png' if i < 2 else 'jpg'}")
    return path


def net(classes: int = 2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, classes),
    )  # fmt: skip


class Dictionary(nn.Module):
    """Gives `{"logits": ...}`, as many models do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.net(x), "features": x.mean(dim=(2, 3))}


def protect(out: Path, given: Any, data: Any, **changes: Any) -> sg.Release:
    crawl = sg.Training(epochs=1, batch=8, lr=1e-12, weight_decay=0.0)
    usual = {"defense": "none", "training": crawl, "device": "cpu"}
    return sg.protect(given, data, out=out, progress=False, **{**usual, **changes})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("photos"))


def test_a_trained_net_of_normalized_photographs_is_released_as_it_was_trained(photos: Path, tmp_path: Path) -> None:
    trained = net()
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "w.pt")
    made = protect(
        tmp_path / "a", net(), f"folder:{photos}", weights=tmp_path / "w.pt", mean=MEAN, std=STD, size=32, fit="pad"
    )
    assert made.shape == (3, 32, 32)
    assert made.recipe["data"]["reading"] == {"size": [32, 32], "fit": "pad", "channels": 3}
    assert (made.recipe["mean"], made.recipe["std"]) == (list(MEAN), list(STD))
    assert made.recipe["weights"]["file"] == "w.pt"
    assert made.recipe["honest"]["start"] is not None
    x, scale = noise(3, (3, 32, 32)), torch.tensor(STD).view(3, 1, 1)
    again = sg.load(made.folder, net=net())
    torch.testing.assert_close(again.box(x), made.box(x))
    body = again.model.net.body.eval()
    torch.testing.assert_close(made.box(x), body((x - torch.tensor(MEAN).view(3, 1, 1)) / scale).softmax(dim=1))
    torch.testing.assert_close(body[0].weight, trained[0].weight)


def as_given(out: Path, data: str, **changes: Any) -> sg.Release:
    """The trained net beside `out`, released without training."""
    usual = {"defense": "none", "mean": MEAN, "std": STD, "size": 24, "progress": False, "weights": out.parent / "w.pt"}
    return sg.protect(net(), data, out=out, epochs=0, **{**usual, **changes})


@pytest.fixture
def used(tmp_path: Path) -> nn.Module:
    """A net whose batch normalization has seen inputs, with its weights in `w.pt`."""
    trained = net()
    trained(noise(16, (3, 24, 24)))
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    return trained


@pytest.mark.parametrize("defense", ["none", "mad", "reverse-sigmoid", "top-k", "prada", "d-add"])
@pytest.mark.filterwarnings("ignore:d-add judges no query", "ignore::stealguard.results.honest.PoorAnswers")
def test_without_training_the_weights_stay_bit_for_bit(
    defense: str, used: nn.Module, photos: Path, tmp_path: Path
) -> None:
    made = as_given(tmp_path / "a", f"folder:{photos}", defense=defense)
    for kept in (made.model.net.body, sg.load(made.folder, net=net()).model.net.body):
        assert all(torch.equal(value, kept.state_dict()[name]) for name, value in used.state_dict().items())
    recipe = made.recipe
    assert (recipe["training"], recipe["history"], recipe["weights"]["file"]) == ({"epochs": 0}, [], "w.pt")
    assert recipe["honest"]["inputs"] == 2
    assert recipe["honest"]["start"] is None
    assert made.facts().given
    assert "protect_seconds" not in made.facts().metrics


@pytest.mark.filterwarnings("ignore::stealguard.results.honest.PoorAnswers")
def test_a_release_and_a_module_are_released_without_training_too(
    used: nn.Module, photos: Path, tmp_path: Path
) -> None:
    first = as_given(tmp_path / "a", f"folder:{photos}")
    for out, start in (("b", first.folder), ("c", used)):
        made = as_given(tmp_path / out, f"folder:{photos}", weights=None, start=start)
        assert made.recipe["weights_sha256"] == first.recipe["weights_sha256"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"defense": "hoda"}, "`epochs` should be at least 1 for `hoda`, which trains more than an undefended net"),
        ({"defense": "ini-robust"}, "`epochs` should be at least 1 for `ini-robust`"),
        ({"weights": None}, "`epochs` should be at least 1 where neither `weights` nor `start` is given. Found 0"),
        ({"training": sg.Training()}, "`training` should be left out where nothing is trained"),
        ({"partial": True}, "`partial` should be left out where nothing is trained"),
        ({"resume": True}, "`resume` should be left out where nothing is trained"),
    ],
)
def test_what_has_to_be_trained_or_has_no_effect_is_refused_without_training(
    used: nn.Module, changes: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(Invalid, match=message):
        as_given(tmp_path / "a", f"folder:{photos}", outliers=[noise(30, (3, 24, 24))], **changes)
    assert not (tmp_path / "a").exists()


def test_a_named_net_is_not_normalized_by_guess_where_nothing_is_trained(tmp_path: Path) -> None:
    like = noise(4)
    body = sg.nets.build("lenet5", like, 10, seed=1, mean=0.0, std=1.0).body
    torch.save(body.state_dict(), tmp_path / "w.pt")
    given: dict[str, Any] = {"weights": tmp_path / "w.pt", "defense": "none", "epochs": 0, "progress": False}
    with pytest.raises(Invalid, match="`mean` should be given"):
        sg.protect("lenet5", task(100), out=tmp_path / "a", **given)
    with pytest.warns(PoorAnswers, match="Nothing was trained, so the net does not get the inputs or the classes"):
        made = sg.protect("lenet5", task(100), out=tmp_path / "a", mean=0.0, std=1.0, **given)
    torch.testing.assert_close(made.box(like), body.eval()(like).softmax(dim=1))


@pytest.mark.slow
def test_an_audit_of_such_a_release_needs_no_further_words(photos: Path, tmp_path: Path) -> None:
    made = protect(tmp_path / "a", net(), f"folder:{photos}", mean=0.5, std=0.25, size=24, fit="stretch")
    pool = photographs(tmp_path / "pool", 20, "xy")
    short = sg.attacks.Knockoff(budget=20, training=sg.Training(epochs=1, batch=8))
    rows = sg.audit(made, attacks=short, pools=f"folder:{pool}", labels="hard", progress=False)
    assert [row.status for row in rows] == ["ok"]
    again = sg.load(made.folder, net=net())
    assert torch.equal(again.task().test.x[:], sg.data.task(f"folder:{photos}", reading=made.reading).test.x[:])
    Image.new("RGB", (30, 30)).save(photographs(tmp_path / "other") / "a" / "1.png")
    moved = {**made.recipe, "data": {**made.recipe["data"], "name": f"folder:{tmp_path / 'other'}"}}
    changed = sg.Release(made.folder, moved, made.model, made.defense)
    with pytest.raises(Invalid, match="what the release was made from: its"):
        sg.audit(changed, pools=f"folder:{pool}", progress=False)


def test_the_statistics_stay_where_a_clone_is_drawn_anew_and_where_the_guard_changes(tmp_path: Path) -> None:
    made = protect(tmp_path / "a", mlp(), task(100, (16,), 3), mean=0.3, std=0.2)
    other = sg.nets.reinitialized(made.model.net, seed=1)
    assert isinstance(other, Normalized)
    assert other.mean.item() == pytest.approx(0.3)
    rounded = sg.guarded(made, Rounding(digits=6), tmp_path / "b")
    x = noise(4, (16,))
    torch.testing.assert_close(rounded.box(x), made.box(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(sg.load(tmp_path / "b", net=mlp()).box(x), rounded.box(x))


def test_nets_with_dictionaries_take_statistics_and_weights(photos: Path, tmp_path: Path) -> None:
    trained = Dictionary()
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    made = protect(
        tmp_path / "a", Dictionary(), f"folder:{photos}", weights=tmp_path / "w.pt", mean=MEAN, std=STD, size=24
    )
    x = noise(2, (3, 24, 24))
    torch.testing.assert_close(sg.load(made.folder, net=Dictionary()).box(x), made.box(x))


def test_a_bare_trained_module_is_a_start_of_a_normalized_one(tmp_path: Path) -> None:
    trained = mlp()
    made = protect(tmp_path / "a", mlp(), task(100, (16,), 3), mean=0.3, std=0.2, start=trained)
    torch.testing.assert_close(made.model.net.body[0].weight, trained[0].weight)


def test_a_start_that_is_normalized_otherwise_than_the_net_is_refused(tmp_path: Path) -> None:
    data = task(100, (16,), 3)
    start = protect(tmp_path / "a", mlp(), data, mean=0.3, std=0.2).folder
    assert protect(tmp_path / "b", mlp(), data, mean=0.3, std=0.2, start=start).recipe["mean"] == [0.3]
    with pytest.raises(Invalid, match=r"`mean` should be that of `start`, \[0.30*1?\d*\], or left out. Found \[0.4"):
        protect(tmp_path / "c", mlp(), data, mean=0.4, std=0.2, start=start)
    with pytest.raises(Invalid, match="`std` should be that of `start`"):
        protect(tmp_path / "c", mlp(), data, mean=0.3, std=0.1, start=start)
    assert not (tmp_path / "c").exists()


def test_other_statistics_are_another_setting(tmp_path: Path) -> None:
    data = task(100, (16,), 3)
    settings = [
        protect(tmp_path / str(i), mlp(), data, **given).facts().setting
        for i, given in enumerate(({}, {"mean": 0.3, "std": 0.2}, {"mean": 0.4, "std": 0.2}))
    ]
    assert len(set(settings)) == 3


def test_partial_weights_and_their_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(mlp(classes=5).state_dict(), tmp_path / "w.pt")
    given: dict[str, Any] = {"weights": tmp_path / "w.pt", "progress": True}
    with pytest.raises(Invalid, match=r"of another shape \(2\): 2.weight"):
        protect(tmp_path / "a", mlp(), task(100, (16,), 3), weights=tmp_path / "w.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]
    sg.protect(mlp(), task(100, (16,), 3), out=tmp_path / "a", defense="none", epochs=1, partial=True, **given)
    assert "w.pt` that fit: 2 of 4; of another shape (2)" in capsys.readouterr().err
    with pytest.raises(Invalid, match="`start` should be left out where there are `weights`"):
        protect(tmp_path / "b", mlp(), task(100, (16,), 3), weights=tmp_path / "w.pt", start=mlp())


def test_a_release_of_a_package_loads_by_itself_and_one_of_the_users_code_does_not(tmp_path: Path) -> None:
    made = protect(tmp_path / "a", mlp(), task(100, (16,), 3))
    recipe = {**made.recipe, "net": "my_module:net"}
    sg.releases.release.write_into(made.folder, made.model, {k: v for k, v in recipe.items() if k != "sha256"})
    with pytest.raises(ReleaseError, match="made from your own `my_module:net`"):
        sg.load(made.folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", "0.5"),
        ("std", [True]),
        ("weights", {"file": 3}),
        ("honest", {"served": 0.5}),
        ("honest", {"served": 0.5, "inputs": 10, "curve": [[1, 2]]}),
        ("data", {"name": "x", "train_sha256": "", "test_sha256": "", "reading": {"size": ["a", "b"]}}),
    ],
)
def test_a_recipe_with_a_wrong_value_is_refused_by_its_key(key: str, value: Any) -> None:
    sound = {**protected_recipe(), key: value}
    with pytest.raises(ReleaseError, match=f"should hold `{key}`"):
        recipes.check(sound, Path("recipe.json"))
    recipes.check({name: kept for name, kept in protected_recipe().items() if name not in recipes.LATER}, Path("old"))


def protected_recipe() -> dict[str, Any]:
    return {
        "net": "mlp", "structure": "", "shape": [4], "classes": 3, "names": [], "classes_given": None, "scaling": None,
        "data": {"name": "x", "train_sha256": "", "test_sha256": ""}, "outliers": [],
        "defense": {"name": "none", "settings": {}}, "training": {}, "start": None, "seed": 0, "history": [],
        "created": "", "seconds": 0.0, "weights_sha256": "",
    }  # fmt: skip


@pytest.mark.slow
def test_a_table_is_protected_in_its_own_units_and_audited_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["age,job,income"]
    for _ in range(120):
        age, job = rng.integers(18, 80), rng.choice(["cook", "pilot", "nurse"])
        lines.append(f"{age},{job},{'high' if age > 50 or job == 'pilot' else 'low'}")
    (tmp_path / "people.csv").write_text("\n".join(lines))
    usual = sg.Training(epochs=12, batch=16)
    made = protect(tmp_path / "a", "mlp", f"csv:{tmp_path}/people.csv", training=usual)
    assert made.output.names == ("high", "low")
    assert made.reading.names == ("age", "job=cook", "job=nurse", "job=pilot")
    assert sg.load(made.folder).reading == made.reading
    answers = made.box(torch.tensor([[70.0, 1, 0, 0], [20.0, 1, 0, 0]]))
    assert answers.argmax(dim=1).tolist() == [0, 1]
    short = sg.attacks.Knockoff(budget=40, training=sg.Training(epochs=1))
    (row,) = sg.audit(made, attacks=short, pools="own:40", labels="hard", progress=False)
    assert row.status == "ok"
