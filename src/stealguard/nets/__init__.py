"""Networks by name, with their normalization inside, so that every one takes [0, 1]; and the user's own."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from stealguard.errors import Invalid, pick, require
from stealguard.nets.lenet import lenet5
from stealguard.nets.resnet import resnet18, resnet20, resnet34, resnet50
from stealguard.nets.vgg import vgg16
from stealguard.nets.wide_resnet import wrn16_4, wrn28_10
from stealguard.seeds import derive, seeded

NETS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "lenet5": lenet5,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vgg16": vgg16,
    "wrn16_4": wrn16_4,
    "wrn28_10": wrn28_10,
}


class Normalized(nn.Module):
    """`body` behind a channel-wise affine map of [0, 1] to mean 0 and deviation 1; the statistics are buffers.

    The body's weights are laid out channels last: a convolution reads neighbors in one piece (docs/speed.md).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.view(-1, 1, 1).clone())
        self.register_buffer("std", std.view(-1, 1, 1).clone())
        self.body = body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - self.mean) / self.std)  # type: ignore[no-any-return]


def check_name(net: str | nn.Module) -> None:
    """Raise `Invalid` for a name that is none: cheap enough to ask before data are fetched."""
    if isinstance(net, str) and ":" not in net:
        pick(NETS, net, "net")


def build(net: str | nn.Module, like: Tensor, classes: int, *, seed: int) -> nn.Module:
    """A fresh network for inputs like `like`.

    Args:
        net: a name of `NETS`; `module:callable` of the user's, called without arguments; or a module, which is copied.
        like: some inputs (N, ...) in [0, 1]; named nets normalize by their channels' mean and deviation.
        classes: K, at least 2.
        seed: what the initial weights are drawn from (a module that is passed keeps those it has).
    """
    require(classes >= 2, "classes", "at least 2", classes)
    if isinstance(net, nn.Module):
        return copy.deepcopy(net)
    with seeded(seed):
        return _of_user(net) if ":" in net else _named(net, like, classes)


def _named(name: str, like: Tensor, classes: int) -> nn.Module:
    factory = pick(NETS, name, "net")
    fits = like.dim() == 4 and like.shape[1] in (1, 3) and like.shape[2] == like.shape[3] in (28, 32)
    rule = f"a module of your own for such inputs: `{name}` takes images of 1 or 3 channels and 28 or 32 pixels"
    require(fits, "net", rule, f"inputs of shape {tuple(like.shape[1:])}")
    std, mean = torch.std_mean(like, dim=(0, 2, 3))
    return Normalized(factory(like.shape[1], like.shape[2], classes), mean, std.clamp_min(1e-3))


def _of_user(path: str) -> nn.Module:
    module, _, name = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as e:
        raise Invalid("net", "a name or an importable `module:callable`", f"`{path}` ({e})") from e
    made = factory()
    require(isinstance(made, nn.Module), "net", "a callable that returns a torch module", f"`{path}` -> {type(made)}")
    return made  # type: ignore[no-any-return]


def reinitialized(module: nn.Module, *, seed: int) -> nn.Module:
    """A copy of `module` with every weight drawn anew: the same architecture, none of what was learned.

    Raises:
        Invalid: a part of the module holds weights and has no `reset_parameters`.
    """
    fresh = copy.deepcopy(module)
    with seeded(seed):
        for name, part in fresh.named_modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
            else:
                bare = not list(part.parameters(recurse=False))
                rule = "made of parts that offer `reset_parameters`, or else name a surrogate and a thief"
                require(bare, "net", rule, f"`{name or type(part).__name__}` without it")
    return fresh


def sibling(net: nn.Module, number: int) -> nn.Module:
    """`net` with other weights, drawn from a seed that follows from the weights it has and from `number`."""
    return reinitialized(net, seed=derive(seed_from(net), "sibling", number))


def seed_from(net: nn.Module) -> int:
    """A seed that follows from the weights: for what a defense draws beside them, the same whenever they are."""
    return derive(0, *(p.detach().double().sum().item() for p in net.parameters()))
