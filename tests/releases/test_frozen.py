"""What is trained where the weights of the given net, or some of them, are frozen."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import stealguard as sg
from samples import mlp, noise, task
from stealguard.cli import main
from stealguard.errors import Invalid
from stealguard.releases.frozen import FrozenNet
from stealguard.releases.release import setting_of
from stealguard.report.card import card

DATA = task(300, (16,), 3)


def protect(net: nn.Module, out: Path, **changes: Any) -> sg.Release:
    given: dict[str, Any] = {"defense": "ini-robust", "outliers": [noise(90, (16,))], "epochs": 1, "progress": False}
    return sg.protect(net, DATA, out=out, **(given | changes))


def weights(net: nn.Module) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in net.parameters()]


def test_a_frozen_net_is_warned_of_and_only_what_is_beside_it_is_trained(tmp_path: Path) -> None:
    net = mlp().requires_grad_(False)
    before = weights(net)
    told = r"frozen: training changes none of its 483 weights. It changes 51 weights beside it \(a linear classifier\)."
    with pytest.warns(FrozenNet, match=told):
        release = protect(net, tmp_path / "a")
    assert all(map(torch.equal, weights(release.model.net), before))
    assert release.recipe["frozen"] == {"weights": 483, "of": 483, "beside": 51}
    assert sg.load(tmp_path / "a", net=mlp()).recipe["frozen"] == release.recipe["frozen"]
    assert "| frozen weights of the net | all, so that only what the defense has beside" in card(tmp_path / "a")


def test_batch_statistics_of_a_frozen_net_change_and_the_warning_says_so(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).requires_grad_(False)
    with pytest.warns(FrozenNet, match="weights, but for the running statistics of its batch normalization. It"):
        release = protect(net, tmp_path / "a")
    (norm,) = (part for part in release.model.net.modules() if isinstance(part, nn.BatchNorm1d))
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked > 0


@pytest.mark.parametrize("defense", ["none", "ini-robust", "edm"])
def test_of_a_net_that_is_frozen_in_part_the_rest_is_trained(
    defense: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = mlp()
    net[0].requires_grad_(False)  # type: ignore[index]
    before = weights(net)
    release = protect(net, tmp_path / "a", defense=defense, progress=True)
    after = weights(release.model.net)
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [True, True, False, False]
    assert "notice: 408 of the net's 483 weights are frozen, and stay as they are." in capsys.readouterr().err
    assert release.recipe["frozen"]["weights"] == 408
    if defense == "edm":
        assert all(weight.requires_grad for other in release.model.others for weight in other.parameters())  # type: ignore[union-attr]


def test_a_frozen_net_is_another_setting_and_one_that_is_trained_the_same_as_ever(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenNet)
        frozen = protect(mlp().requires_grad_(False), tmp_path / "a").recipe
    trained = protect(mlp(), tmp_path / "b").recipe
    assert "frozen" not in trained
    assert setting_of(frozen) != setting_of(trained) == setting_of({**frozen, "frozen": None})


def test_a_frozen_net_is_released_as_it_is_without_a_word(tmp_path: Path) -> None:
    net = mlp().requires_grad_(False)
    release = protect(net, tmp_path / "a", defense="none", outliers=None, epochs=0, start=net)
    assert "frozen" not in release.recipe


def test_nothing_is_written_where_nothing_can_be_trained(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"`net` should be a net with weights that can be trained .* Found 483 weights"):
        protect(mlp().requires_grad_(False), tmp_path / "a", defense="none")
    assert not list(tmp_path.iterdir())


def test_the_command_line_warns_in_one_line_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "still.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(4, 3)).requires_grad_(False)\n"
    )
    rows = "\n".join(f"{i % 7},{i % 5},{i % 3},{i % 2},{i % 3}" for i in range(120))
    (tmp_path / "t.csv").write_text(f"a,b,c,d,kind\n{rows}\n")
    monkeypatch.syspath_prepend(tmp_path)
    command = ["protect", "still:net", f"csv:{tmp_path}/t.csv", "--epochs", "1", "--out", str(tmp_path / "a")]
    main(command)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "frozen" in line]
    assert line.startswith("warning: The net is frozen: training changes none of its 15 weights.")
