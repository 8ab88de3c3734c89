"""Clones and surrogates of an architecture: every weight is drawn anew and can be trained, or the net is refused."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from samples import mlp
from stealguard.errors import Invalid
from stealguard.nets import build, reinitialized
from stealguard.nets.copying import tensors
from stealguard.training.descent import Descent

LIKE = torch.rand(4, 6)


def computed(kind) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(kind(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM) -> None:
        super().__init__()
        self.body, self.out = kind(1, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x.unsqueeze(2))[0][:, -1])


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.body = nn.Linear(1, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(self.inside(x.unsqueeze(2))).mean(1))


class Token(nn.Module):
    """A class token that only the constructor draws, as in a vision transformer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(1, width), nn.Linear(width, 3)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.token.expand(len(x), 1, -1), self.inside(x.unsqueeze(2))], 1).cumprod(1)[:, -1])


class WithHook(Token):
    """A token that a hook draws, of the kinds that libraries have."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.normal_(self.token)


class WithPartHook(Token):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Token):
            nn.init.normal_(module.token)


KINDS = {
    "weight_norm": lambda: computed(weight_norm),
    "spectral_norm": lambda: computed(spectral_norm),
    "pruned": lambda: computed(lambda m: prune.l1_unstructured(m, "weight", 0.5)),
    "parametrized weight_norm": lambda: computed(parametrizations.weight_norm),
    "parametrized spectral_norm": lambda: computed(parametrizations.spectral_norm),
    "LSTM": Recurrent,
    "GRU": lambda: Recurrent(nn.GRU),
    "attention": Attentive,
    "token, a class without arguments": Token,
    "token, init_weights": lambda: WithHook(4),
    "token, _init_weights": lambda: WithPartHook(4),
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.PReLU(), nn.Linear(8, 3)),
}


def trained(net: nn.Module, steps: int = 5) -> nn.Module:
    descent = Descent((p for p in net.parameters() if p.requires_grad), momentum=0.0, weight_decay=0.0)
    for _ in range(steps):
        net.zero_grad()
        nn.functional.cross_entropy(net.train()(torch.rand(8, 6)), torch.arange(8) % 3).backward()
        descent.step(0.1)
    return net


@pytest.mark.parametrize("name", KINDS)
class TestAnyArchitecture:
    def test_nothing_learned_stays_and_all_can_be_trained(self, name: str) -> None:
        net = trained(KINDS[name]())
        for p in list(net.parameters())[:2]:
            p.requires_grad_(False)
        fresh = reinitialized(net, seed=1)
        before = tensors(net)
        same = {name for name, t in tensors(fresh).items() if t.is_floating_point() and torch.equal(t, before[name])}
        assert {name for name in same if not name.endswith("mask")} == set()
        assert all(p.requires_grad for p in fresh.parameters())
        weights = {name: p.detach().clone() for name, p in fresh.named_parameters()}
        trained(fresh, 2)
        moved = {name for name, p in fresh.named_parameters() if not torch.equal(p, weights[name])}
        assert moved == set(weights)

    def test_the_seed_decides(self, name: str) -> None:
        net = trained(KINDS[name]())
        a, b, c = (reinitialized(net, seed=seed).eval()(LIKE) for seed in (1, 1, 2))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    def test_the_original_stays(self, name: str) -> None:
        net = trained(KINDS[name]()).eval()
        before = net(LIKE)
        reinitialized(net, seed=1)
        assert torch.equal(net(LIKE), before)


def test_weights_are_drawn_as_the_plain_parts_draw_them() -> None:
    """What weight norm and spectral norm compute has the distribution of a linear layer's weights."""
    bound = 1 / 6**0.5
    for kind in ("weight_norm", "parametrized weight_norm"):
        weight = reinitialized(trained(KINDS[kind]()), seed=1)[0].weight.detach()
        assert 0.8 * bound < weight.abs().max() <= bound
    for kind in ("spectral_norm", "parametrized spectral_norm"):
        weight = reinitialized(trained(KINDS[kind]()), seed=1).eval()[0].weight.detach()
        torch.testing.assert_close(torch.linalg.matrix_norm(weight, 2), torch.tensor(1.0), atol=0.05, rtol=0)


def test_a_parametrization_without_inverse_is_refused_by_name() -> None:
    class Doubled(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return 2 * w

    net = mlp()
    parametrize.register_parametrization(net[0], "weight", Doubled())
    with pytest.raises(Invalid, match=r"Found `0.parametrizations.weight.original` of `ParametrizationList`"):
        reinitialized(net, seed=0)


def test_parts_that_cannot_be_drawn_are_refused_by_name() -> None:
    with pytest.raises(
        Invalid, match=r"name a surrogate and a clone. Found `token` of `Token`, which keeps its values"
    ):
        reinitialized(Token(8), seed=0)

    class Broken(nn.Linear):
        def reset_parameters(self) -> None:
            if hasattr(self, "built"):
                raise KeyError("scale")
            self.built = True

    broken = Broken(2, 2)
    with pytest.raises(Invalid, match=r"that can draw their weights anew. Found `Broken` \(KeyError: 'scale'\)"):
        reinitialized(broken, seed=0)


class Buffered(nn.Module):
    """A net that keeps `value` in a buffer named `name`, and is not built without arguments."""

    def __init__(self, name: str, value: Tensor):
        super().__init__()
        self.body = mlp(6)
        self.register_buffer(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", torch.full((9,), 3.0)),
        ("causal", torch.ones(5, 5).tril()),
        ("blur", torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0]))),
        ("mean", torch.rand(30)),
        ("channels", torch.tensor([0.485, 0.456, 0.406])),
        ("pe", torch.sin(torch.arange(40.0).outer(torch.arange(1, 9)))),
        ("steps", torch.arange(12)),
    ],
)
def test_constants_stay(name: str, value: Tensor) -> None:
    assert torch.equal(getattr(reinitialized(Buffered(name, value), seed=0), name), value)


@pytest.mark.parametrize("name", ["centers", "codebook", "running_mean", "features"])
def test_a_buffer_that_may_be_learned_is_refused_by_name(name: str) -> None:
    with pytest.raises(Invalid, match=rf"Found `{name}` of `Buffered`, which keeps its values"):
        reinitialized(Buffered(name, torch.rand(8, 4)), seed=0)


def test_a_plain_attribute_that_may_be_learned_is_refused_by_name() -> None:
    net = Buffered("scale", torch.ones(3))
    net.centers = torch.rand(8, 4)
    with pytest.raises(Invalid, match="Found `centers` of `Buffered`, which keeps its values"):
        reinitialized(net, seed=0)


def test_a_net_of_a_callable_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "with_token.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.out, self.token = nn.Linear(6, 3), nn.Parameter(torch.randn(3))\n"
        "        self.register_buffer('table', torch.linspace(0, 1, 9).cos())\n"
        "    def forward(self, x):\n"
        "        return self.out(x) * self.token\n"
        "def make():\n"
        "    return Net(6)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    net = build("with_token:make", LIKE, 3, seed=0)
    fresh = reinitialized(nn.Sequential(net), seed=1)[0]
    assert not torch.equal(fresh.token, net.token)
    assert not torch.equal(fresh.out.weight, net.out.weight)


def test_a_constructor_that_fixes_its_seed_does_not_fix_the_clones() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.back, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    a, b = (reinitialized(Fixed(), seed=seed) for seed in (1, 2))
    assert not torch.equal(a.back.weight, Fixed().back.weight)
    assert not torch.equal(a.back.weight, b.back.weight)
