"""Networks by name, with their normalization inside, and the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stealguard.errors import Invalid, one_line, pick, require
from stealguard.nets.copying import copied
from stealguard.nets.lenet import lenet5
from stealguard.nets.mlp import mlp
from stealguard.nets.probing import adapted
from stealguard.nets.resnet import resnet18, resnet20, resnet34, resnet50
from stealguard.nets.vgg import vgg16
from stealguard.nets.wide_resnet import wrn16_4, wrn28_10
from stealguard.registry import imported
from stealguard.seeds import seeded

NETS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "lenet5": lenet5,
    "mlp": mlp,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vgg16": vgg16,
    "wrn16_4": wrn16_4,
    "wrn28_10": wrn28_10,
}
"""Name -> factory (channels, side in pixels, classes)."""


class Normalized(nn.Module):
    """`body` behind an affine map of [0, 1] to mean 0 and deviation 1; the statistics are buffers.

    The body's weights are laid out channels last: a convolution then reads neighbors from adjacent memory
    (docs/speed.md).

    Args:
        body: from inputs (N, *shape) to logits (N, K).
        mean, std: tensors that broadcast to one input, (C, 1, 1) for a channel of an image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.body = body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - self.mean) / self.std)  # type: ignore[no-any-return]


def check_name(net: str | nn.Module) -> None:
    """Raise `Invalid` for an unknown name: cheap enough to call before data are fetched."""
    if isinstance(net, str) and ":" not in net:
        pick(NETS, net, "net")


def build(net: str | nn.Module, like: Tensor, classes: int, *, seed: int) -> nn.Module:
    """A network from inputs like `like` to logits (N, classes).

    Args:
        net: a name of `NETS`; `module:callable` of the user's, called without arguments; or a module, which is copied.
            The user's nets go through `adapted`.
        like: some inputs (N, ...) in [0, 1]; named nets normalize by their mean and deviation: of each channel, or of
            each feature for `mlp`.
        classes: K, at least 2.
        seed: what the initial weights are drawn from (a module that is passed keeps those that it has).

    Raises:
        Invalid: the net is unknown, cannot be built, or does not give logits.
    """
    require(classes >= 2, "classes", "at least 2", classes)
    if isinstance(net, nn.Module):
        return adapted(copied(net), like, classes)
    if ":" not in net:
        with seeded(seed):
            return _named(net, like, classes)
    with seeded(seed):
        made = of_user(net)
    return adapted(made, like, classes)


def _named(name: str, like: Tensor, classes: int) -> nn.Module:
    factory = pick(NETS, name, "net")
    if name == "mlp":
        return _perceptron(like, classes)
    fits = like.dim() == 4 and like.shape[1] in (1, 3) and like.shape[2] == like.shape[3] in (28, 32)
    rule = (
        f"`mlp` or a module of your own for such inputs: `{name}` takes images of 1 or 3 channels and 28 or 32 pixels"
    )
    require(fits, "net", rule, f"inputs of shape {tuple(like.shape[1:])}")
    std, mean = torch.std_mean(like, dim=(0, 2, 3))
    return Normalized(factory(like.shape[1], like.shape[2], classes), mean.view(-1, 1, 1), _wide(std).view(-1, 1, 1))


def _perceptron(like: Tensor, classes: int) -> nn.Module:
    std, mean = torch.std_mean(like, dim=0, correction=0)
    # A feature that hardly varies is not blown up: queries vary in it that task inputs do not.
    return Normalized(mlp(math.prod(like.shape[1:]), 1, classes), mean, _wide(std.clamp_min(float(std.mean()) / 4)))


def _wide(std: Tensor) -> Tensor:
    return std.clamp_min(1e-3)


def of_user(path: str) -> nn.Module:
    """The module that `path`, `module:callable`, returns; modules of the working directory are found.

    Raises:
        Invalid: there is no such callable, it raises, or it returns something else.
    """
    factory = imported(path, "net")
    try:
        made = factory()
    except (Exception, SystemExit) as e:  # building runs the user's code
        found = f"`{path}` ({type(e).__name__}: {one_line(e)})"
        raise Invalid("net", "a callable that builds a module without arguments", found) from e
    require(isinstance(made, nn.Module), "net", "a callable that returns a torch module", f"`{path}` -> {type(made)}")
    made._made_by = path
    return made  # type: ignore[no-any-return]
