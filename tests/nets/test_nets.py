"""Networks by name: shapes, sizes, seeds, and the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from samples import mlp
from stealguard.errors import Invalid
from stealguard.nets import NETS, build, check_name, reinitialized

WEIGHTS = {  # for 3 channels of 32 pixels and ten classes, as the papers and their programs count them
    "lenet5": 62_006,
    "mlp": 411_146,
    "resnet18": 11_173_962,
    "resnet20": 272_474,  # with projections as shortcuts; 269,722 with padded identities
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "vgg16": 14_728_266,
    "wrn16_4": 2_748_890,
    "wrn28_10": 36_479_194,
}


def test_what_is_no_net_is_named() -> None:
    with pytest.raises(Invalid, match=r"`net` should be a name, `module:callable` or a module. Found int"):
        check_name(5)  # type: ignore[arg-type]


IMAGENET = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032}  # as torchvision counts them


@pytest.mark.parametrize("name", NETS)
def test_the_number_of_weights_of_the_papers(name: str) -> None:
    with torch.device("meta"):
        net = NETS[name](3, 32, 10)
    assert sum(p.numel() for p in net.parameters()) == WEIGHTS[name]


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("channels", "size", "classes"), [(1, 28, 2), (3, 32, 7), (4, 47, 3), (3, 64, 200), (1, 65, 2), (3, 224, 1000)]
)
@pytest.mark.parametrize("name", NETS)
def test_logits_of_every_shape(name: str, channels: int, size: int, classes: int) -> None:
    with torch.device("meta"):
        logits = NETS[name](channels, size, classes)(torch.empty(2, channels, size, size))
    assert logits.shape == (2, classes)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_large_inputs_have_the_stem_of_the_papers_imagenet_form(name: str) -> None:
    with torch.device("meta"):
        net = NETS[name](3, 224, 1000)
        assert sum(p.numel() for p in net.parameters()) == IMAGENET[name]
        assert net[:4](torch.empty(1, 3, 224, 224)).shape == (1, 64, 56, 56)


def test_named_nets_normalize_their_inputs() -> None:
    like = torch.rand(50, 3, 32, 32) * torch.tensor([1.0, 0.5, 0.2]).view(3, 1, 1)
    net = build("lenet5", like, 10, seed=0)
    seen = []
    net.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(like)
    std, mean = torch.std_mean(seen[0], dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(3), atol=1e-4, rtol=0)


def test_the_seed_draws_the_weights_and_leaves_the_generator_alone() -> None:
    like = torch.rand(4, 1, 28, 28)
    before = torch.get_rng_state()
    a, b, c = (build("lenet5", like, 10, seed=seed).state_dict()["body.0.weight"] for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_reinitialized_keeps_the_architecture_and_nothing_learned() -> None:
    net = build("wrn16_4", torch.rand(4, 3, 32, 32), 10, seed=0)
    net(torch.rand(8, 3, 32, 32))
    state, other = net.state_dict(), reinitialized(net, seed=1).state_dict()
    changed = {name for name in state if not torch.equal(state[name], other[name])}
    assert {n for n in state if n.endswith("weight") and "conv" in n} <= changed
    assert any("running_mean" in name for name in changed)
    assert not changed & {"mean", "std"}, "what inputs look like is not learned"
    again = reinitialized(net, seed=1).state_dict()
    assert all(torch.equal(other[name], again[name]) for name in state)


def test_a_net_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_net.py").write_text("from torch import nn\ndef make(): return nn.Linear(5, 2)\nodd = dict\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(build("their_net:make", torch.rand(3, 5), 2, seed=0), nn.Linear)
    with pytest.raises(Invalid, match="`net` should be a callable that returns a torch module"):
        build("their_net:odd", torch.rand(3, 5), 2, seed=0)
    for path in ("their_net:nothing", "no_such_module:make", ":make"):
        with pytest.raises(Invalid, match=r"`net` should be an importable `module:name`"):
            build(path, torch.rand(3, 5), 2, seed=0)
    net = mlp()
    copied = build(net, torch.rand(3, 16), 3, seed=0)
    assert copied is not net, "what the user hands over is not trained in place"
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), net.parameters(), strict=True))


def test_bad_input_is_named() -> None:
    with pytest.raises(Invalid, match=r"Found `lenet` \(did you mean `lenet5`\?\)"):
        build("lenet", torch.rand(2, 1, 28, 28), 10, seed=0)
    with pytest.raises(Invalid, match=r"`lenet5` takes square images of 28 pixels or more. Found .*\(4,\)"):
        build("lenet5", torch.rand(2, 4), 10, seed=0)
    with pytest.raises(Invalid, match=r"\(28, 28, 3\), with channels last"):
        build("lenet5", torch.rand(2, 28, 28, 3), 10, seed=0)
    with pytest.raises(Invalid, match=r"\(28, 28\), without an axis of channels"):
        build("lenet5", torch.rand(2, 28, 28), 10, seed=0)
    with pytest.raises(Invalid, match=r"`classes` should be at least 2. Found 1"):
        build("lenet5", torch.rand(2, 1, 28, 28), 1, seed=0)

    class Bare(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.rand(size))

    rule = r"offer `reset_parameters`.* or else name a surrogate and a clone. Found `w` of `Bare`"
    with pytest.raises(Invalid, match=rule):
        reinitialized(Bare(2), seed=0)


@pytest.mark.parametrize("shape", [(30,), (2, 5), (3, 17, 40)])
def test_the_perceptron_takes_any_shape_and_normalizes_each_feature(shape: tuple[int, ...]) -> None:
    like = 0.2 + torch.rand(50, *shape) * torch.linspace(0.3, 0.8, shape[-1])
    net = build("mlp", like, 4, seed=0)
    seen = []
    net.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert net(like).shape == (50, 4)
    std, mean = torch.std_mean(seen[0], dim=0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(shape), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(shape), atol=1e-3, rtol=0)
    assert build("mlp", like[:1], 4, seed=0)(like).isfinite().all()


def test_a_callable_that_fails_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_net.py").write_text(
        "def make():\n    raise KeyError('width\\nof it')\ndef quits(): raise SystemExit(3)\n"
    )
    (tmp_path / "made_net.py").write_text("from torch import nn\nnet = nn.Linear(5, 2)\n")
    (tmp_path / "failing_module.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for path, found in (
        ("failing_net:make", "builds a module without arguments. Found `failing_net:make` .KeyError: 'width"),
        ("failing_net:quits", "builds a module without arguments. Found `failing_net:quits` .SystemExit: 3"),
        ("made_net:net", r"without arguments. Found `made_net:net`, which is a module itself .name its class"),
        ("failing_module:make", "an importable `module:name`. Found `failing_module:make` .ZeroDivisionError"),
    ):
        with pytest.raises(Invalid, match=found) as told:
            build(path, torch.rand(3, 5), 2, seed=0)
        assert "\n" not in str(told.value)
