"""Networks by name, with their normalization inside, and the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stealguard.errors import Invalid, one_line, pick, require
from stealguard.nets.copying import copied
from stealguard.nets.lenet import lenet5
from stealguard.nets.mlp import mlp
from stealguard.nets.packages import from_package, offered
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

SMALLEST = 28  # pixels of a side


class Normalized(nn.Module):
    """`body` behind an affine map of [0, 1] to mean 0 and deviation 1; the statistics are buffers.

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
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - self.mean) / self.std)  # type: ignore[no-any-return]


Statistic = float | Sequence[float]
"""A mean or a deviation in [0, 1]: one number, or one for each channel of images or each column of tables."""


def check_name(net: str | nn.Module, parameter: str = "net") -> None:
    """Raise `Invalid` for an unknown name, and for what is no net: cheap enough to call before data are fetched.

    Example:
        >>> sg.nets.check_name("lenet5")
    """
    rule = "a name, `module:callable` or a module"
    require(isinstance(net, str | nn.Module), parameter, rule, type(net).__name__)
    if isinstance(net, str) and ":" not in net:
        pick(NETS, net, parameter)


def is_users(net: str) -> bool:
    """Whether a net's name stands for code of the user's own: `module:callable`.

    Example:
        >>> sg.nets.is_users("my_module:net"), sg.nets.is_users("lenet5")
        (True, False)
    """
    return ":" in net and not offered(net)


def build(
    net: str | nn.Module, like: Tensor, classes: int, *, seed: int,
    mean: Statistic | None = None, std: Statistic | None = None,
    prepare: Callable[[nn.Module], object] | None = None,
) -> nn.Module:  # fmt: skip
    """A network from inputs like `like` to logits (N, classes).

    Args:
        net: a name of `NETS`; `timm:NAME` or `torchvision:NAME` of those packages, with weights drawn at random;
            `module:callable` of the user's, called without arguments; or a module, which is copied. All but the first
            go through `adapted`.
        like: some inputs (N, ...) in [0, 1]; named nets normalize by their mean and deviation: of each channel, or of
            each feature for `mlp`.
        classes: K, at least 2.
        seed: what the initial weights are drawn from (a module that is passed keeps those that it has).
        mean, std: both or none: what the net's inputs are normalized with. `NETS` take these in place of those of
            `like`; other nets get (x - mean) / std, and are not normalized without.
        prepare: is called with the net itself before it is tried, to give it weights.

    Raises:
        Invalid: the net is unknown, cannot be built, or does not give logits; or the statistics break a rule.

    Example:
        >>> net = sg.nets.build("lenet5", torch.rand(8, 1, 28, 28), 10, seed=0)
        >>> net(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    require(classes >= 2, "classes", "at least 2", classes)
    with seeded(seed):
        made = _made(net, like, classes)
    body = made.body if isinstance(made, Normalized) and not isinstance(net, nn.Module) else made
    if prepare is not None:
        prepare(body)
    if mean is None and std is None:
        return made if isinstance(net, str) and net in NETS else adapted(made, like, classes)
    rule = "given once: with the net, or beside it"
    require(not isinstance(net, Normalized), "mean", rule, "both, since the net is `Normalized` already")
    shift, scale = statistics(mean, std, like)
    return Normalized(adapted(body, (like[:2] - shift) / scale, classes), shift, scale)


def statistics(mean: Statistic | None, std: Statistic | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation as tensors that broadcast to one of the inputs `like`, (N, ...).

    Raises:
        Invalid: one is missing, has another number of values than inputs have channels or columns, or is not of inputs
            in [0, 1]: statistics of pixels from 0 to 255 would make all inputs alike.
    """
    channels = like.shape[1]
    found = []
    for name, given in (("mean", mean), ("std", std)):
        rule = f"given with the other of `mean` and `std`: 1 or {channels} numbers"
        values = [given] if isinstance(given, int | float) else list(given or [])
        require(len(values) in (1, channels), name, rule, "none" if given is None else f"{len(values)}")
        finite = all(math.isfinite(value) for value in values)
        require(finite and (name == "mean" or min(values) > 0), name, "finite, and positive for `std`", values)
        rule = "at most 1, as inputs are (divide what was measured of pixels from 0 to 255 by 255)"
        require(max(values) <= 1, name, rule, values)
        found.append(torch.tensor(values, dtype=like.dtype).view(-1, *[1] * (like.dim() - 2)))
    return found[0], found[1]


def _made(net: str | nn.Module, like: Tensor, classes: int) -> nn.Module:
    if isinstance(net, nn.Module):
        return copied(net)
    if ":" not in net:
        return _named(net, like, classes)
    return from_package(net, like, classes) if offered(net) else of_user(net)


def _named(name: str, like: Tensor, classes: int) -> nn.Module:
    factory = pick(NETS, name, "net")
    if name == "mlp":
        return _perceptron(like, classes)
    fits = like.dim() == 4 and like.shape[2] == like.shape[3] >= SMALLEST
    rule = f"`mlp` or a module of your own for such inputs: `{name}` takes square images of {SMALLEST} pixels or more"
    require(fits, "net", rule, f"inputs of shape {tuple(like.shape[1:])}{_hint(like)}")
    std, mean = torch.std_mean(like, dim=(0, 2, 3))
    body = factory(like.shape[1], like.shape[2], classes)
    # Channels last: a convolution then reads neighbors from adjacent memory (docs/speed.md).
    body = body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Normalized(body, mean.view(-1, 1, 1), _wide(std).view(-1, 1, 1))


def _hint(like: Tensor) -> str:
    """What may be wrong with the axes of images (N, H, W, C) or (N, H, W)."""
    if like.dim() == 4 and like.shape[3] in (1, 3) and like.shape[1] == like.shape[2]:
        return ", with channels last (they come first)"
    return ", without an axis of channels" if like.dim() == 3 and like.shape[1] == like.shape[2] else ""


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

    Example:
        >>> sg.nets.of_user("torch.nn:Identity")
        Identity()
    """
    factory = imported(path, "net")
    made_already = f"`{path}`, which is a module itself (name its class, or a function that returns it)"
    require(
        not isinstance(factory, nn.Module), "net", "a callable that builds a module without arguments", made_already
    )
    try:
        made = factory()
    except (Exception, SystemExit) as e:  # building runs the user's code
        found = f"`{path}` ({type(e).__name__}: {one_line(e)})"
        raise Invalid("net", "a callable that builds a module without arguments", found) from e
    require(isinstance(made, nn.Module), "net", "a callable that returns a torch module", f"`{path}` -> {type(made)}")
    made._made_by = path
    return made  # type: ignore[no-any-return]
