"""Weights from files: what is read, what fits, and what is told by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from samples import mlp
from stealguard.errors import Invalid
from stealguard.nets import build, give, read_weights


def saved(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "form",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}}},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    ],
)
def test_the_usual_forms_of_checkpoints_are_read(tmp_path: Path, form: Any) -> None:
    trained, net = mlp(), mlp()
    told = give(net, read_weights(saved(tmp_path / "w.pt", form(trained.state_dict()))))
    assert told == []
    assert same(net, trained)


def test_safetensors_are_read(tmp_path: Path) -> None:
    trained, net = mlp(), mlp()
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    weights = read_weights(tmp_path / "w.safetensors")
    assert give(net, weights) == []
    assert same(net, trained)
    assert len(weights.sha256) == 64


def test_a_part_is_taken_only_where_that_is_allowed(tmp_path: Path) -> None:
    state = mlp(classes=5).state_dict() | {"head.weight": torch.zeros(2)}
    del state["0.bias"]
    weights, net = read_weights(saved(tmp_path / "w.pt", state)), mlp(classes=3)
    before = net[2].weight.clone()
    named = (
        "missing (1): 0.bias; of another shape (2): 2.weight (5, 24) for (3, 24), 2.bias (5,) for (3,); "
        "unknown to the net (1): head.weight"
    )
    with pytest.raises(Invalid, match=re.escape(named)) as told:
        give(net, weights)
    assert "all weights of the net (or allow some of them with `partial`)" in str(told.value)
    (line,) = give(net, weights, partial=True)
    assert line == f"Tensors of `{tmp_path}/w.pt` that fit: 1 of 4; {named}."
    assert torch.equal(net[0].weight, state["0.weight"])
    assert torch.equal(net[2].weight, before)


def test_what_only_the_file_has_is_told_and_left_out(tmp_path: Path) -> None:
    state = mlp().state_dict() | {f"auxiliary.{i}": torch.zeros(2) for i in range(6)}
    (line,) = give(mlp(), read_weights(saved(tmp_path / "w.pt", state)))
    told = ", ".join(f"auxiliary.{i}" for i in range(5))
    assert line.endswith(f"unknown to the net (6): {told} and 1 more.")


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    weights = read_weights(saved(tmp_path / "w.pt", {"a": torch.zeros(3)}))
    with pytest.raises(
        Invalid, match=r"`weights` should be those of the net. Found .*tensors that fit: 0 of 1\); missing \(4\)"
    ):
        give(mlp(), weights, partial=True)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit(9)",)


@pytest.mark.parametrize("content", [mlp(), Evil(), {"epoch": 3}, [torch.zeros(2)], b"junk"])
def test_files_that_hold_no_state_dict_are_refused_in_one_line(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(Invalid, match="`weights` should be a file of weights: a `state_dict` that torch saved") as told:
        read_weights(path)
    assert "\n" not in str(told.value)


def test_objects_in_a_checkpoint_are_named(tmp_path: Path) -> None:
    for content, name in (mlp(), "torch.nn.modules.container.Sequential"), ({"a": Evil()}, "builtins.exec"):
        with pytest.raises(Invalid, match=rf"w.pt` \(with .*{name}.*, and objects are never unpickled\)"):
            read_weights(saved(tmp_path / "w.pt", content))


def test_nan_is_told_of_the_file_and_not_of_the_net(tmp_path: Path) -> None:
    state = mlp().state_dict()
    state["0.bias"][3] = float("nan")
    with pytest.raises(Invalid, match=r"`weights` should be numbers. Found .*with NaN in 0.bias"):
        give(mlp(), read_weights(saved(tmp_path / "w.pt", state)))


def test_other_weights_in_the_same_file_are_told(tmp_path: Path) -> None:
    state, mean = mlp().state_dict(), mlp().state_dict()
    net = mlp()
    (line,) = give(net, read_weights(saved(tmp_path / "w.pt", {"ema": mean, "model": state, "epoch": 3})))
    assert line.endswith("w.pt` holds such weights under ema, too: these are not read.")
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_tied_weights_of_two_values_are_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    weights = read_weights(saved(tmp_path / "w.pt", net.state_dict()))
    net[1].weight = net[0].weight
    with pytest.raises(Invalid, match=r"with two values in 0.weight and 1.weight"):
        give(net, weights)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"Found .*nothing.pt` .no such file."):
        read_weights(tmp_path / "nothing.pt")
    (tmp_path / "w.safetensors").write_bytes(b"junk")
    with pytest.raises(Invalid, match=r"or safetensors. Found .*w.safetensors"):
        read_weights(tmp_path / "w.safetensors")


def test_statistics_stand_before_the_net_and_outside_of_its_weights(tmp_path: Path) -> None:
    trained, like = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), torch.rand(4, 3, 4, 4)
    weights = read_weights(saved(tmp_path / "w.pt", trained.state_dict()))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    net = build(
        nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), like, 3, seed=0, mean=mean, std=std,
        prepare=lambda net: give(net, weights),
    )  # fmt: skip
    shift, scale = (torch.tensor(part).view(3, 1, 1) for part in (mean, std))
    torch.testing.assert_close(net(like), trained((like - shift) / scale))
    assert {name for name, _ in net.named_buffers()} == {"mean", "std"}
    one = build(trained, like, 3, seed=0, mean=0.5, std=0.25)
    torch.testing.assert_close(one(like), trained((like - 0.5) / 0.25))


def test_statistics_of_a_named_net_take_the_place_of_those_of_the_data() -> None:
    net = build("lenet5", torch.rand(4, 1, 28, 28), 3, seed=0, mean=0.1, std=[0.3])
    assert (net.mean.item(), net.std.item()) == (pytest.approx(0.1), pytest.approx(0.3))
    assert not isinstance(net.body, type(net))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mean": 0.5}, "`std` should be given with the other of `mean` and `std`: 1 or 3 numbers. Found none"),
        ({"mean": (0.5, 0.5), "std": 1.0}, "`mean` should be .* 1 or 3 numbers. Found 2"),
        ({"mean": 0.5, "std": 0.0}, "`std` should be finite, and positive for `std`"),
        ({"mean": float("nan"), "std": 1.0}, "`mean` should be finite"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, "`mean` should be at most 1, .* by 255"),
        ({"mean": 0.0, "std": 255.0}, "`std` should be at most 1, .* by 255"),
    ],
)
def test_rules_of_statistics(given: dict[str, Any], said: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    with pytest.raises(Invalid, match=said):
        build(net, torch.rand(2, 3, 4, 4), 3, seed=0, **given)


def test_of_tied_weights_a_file_may_hold_one(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].weight = net[0].weight
        return net

    made, net = tied(), tied()
    save_model(made, str(tmp_path / "w.safetensors"))
    assert give(net, read_weights(tmp_path / "w.safetensors")) == []
    assert torch.equal(net[1].weight, made[1].weight)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    net = nn.Linear(4, 3)
    torch.save({name: (100 * value).to(torch.int8) for name, value in net.state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(Invalid, match=r"of floating numbers where the net's are .* whole numbers in bias, weight"):
        give(net, read_weights(tmp_path / "w.pt"), partial=True)
