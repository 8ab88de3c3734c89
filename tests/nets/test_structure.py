"""The identity of an architecture: alike for the same one with other weights, and for nothing else."""

from __future__ import annotations

from torch import nn

from samples import mlp
from stealguard.nets import structure


def of(forward: str, **settings: object) -> nn.Module:
    """A net of a class `Net` that no file holds."""
    scope: dict[str, type[nn.Module]] = {}
    exec(f"class Net(nn.Module):\n    def forward(self, x):\n        return {forward}\n", {"nn": nn}, scope)
    net = scope["Net"]()
    net.body = mlp()
    for name, value in settings.items():
        setattr(net, name, value)
    return net


def one() -> nn.Module:
    class Net(nn.Module):
        def forward(self, x):
            return x

    return Net()


def other() -> nn.Module:
    class Net(nn.Module):
        def forward(self, x):
            return 2 * x

    return Net()


def test_weights_do_not_matter() -> None:
    assert structure(mlp()) == structure(mlp().eval()) == structure(mlp().requires_grad_(False))
    assert structure(of("self.body(x)")) == structure(of("self.body(x)"))
    assert len(structure(mlp())) == 64


def test_everything_else_does() -> None:
    nets = [
        mlp(),
        mlp(inputs=5),
        nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 3)),
        nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3), nn.Dropout(0.1)),
        nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3), nn.Dropout(0.2)),
        mlp().double(),
        of("self.body(x)"),
        of("2 * self.body(x)"),
        of("3 * self.body(x)"),
        of("self.body(x).neg()"),
        of("self.body(x).abs()"),
        of("self.body(x)", scale=1),
        of("self.body(x)", scale=2),
    ]
    found = [structure(net) for net in nets]
    assert len(set(found)) == len(found)


def test_forward_passes_of_one_class_name_are_told_apart_by_their_source() -> None:
    a, b = one(), other()
    type(b).__qualname__ = type(a).__qualname__
    assert structure(a) != structure(b)
    assert structure(a) == structure(one())


def test_a_description_with_an_address_does_not_matter() -> None:
    class Told(nn.Module):
        def extra_repr(self) -> str:
            return f"{object()}"

    assert structure(Told()) == structure(Told())
