"""Checks of a user's net before it is trained: that it gives logits, and that its state holds what it learns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.devices import device_of
from stealguard.errors import Invalid, require
from stealguard.nets.copying import attributes, copied
from stealguard.nets.state import restore, state_of
from stealguard.seeds import seeded

_SHAPING = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select", "Slice", "Alias", "Clone", "ToCopy")
APART = 0.02  # of the greatest logit: more than rounding, also to bfloat16, makes of other batches
_NORMALIZING = {"LogSoftmax": "log_softmax", "Softmax": "softmax", "Sigmoid": "sigmoid"}


class Adapted(nn.Module):
    """A user's net with its input copied, or its output turned into logits (N, K), as it needs.

    Args:
        net: the user's own.
        copies: whether `net` gets a copy of its input, because it changes it.
        single: whether it gives one logit z for two classes: the logits are (0, z).
    """

    def __init__(self, net: nn.Module, *, copies: bool, single: bool):
        super().__init__()
        self.net, self._copies, self._single = net, copies, single

    def forward(self, x: Tensor) -> Tensor:
        logits = first_tensor(self.net(x.clone() if self._copies else x)).to(x.dtype)
        return F.pad(logits.view(-1, 1), (1, 0)) if self._single else logits

    def extra_repr(self) -> str:
        return f"copies={self._copies}, single={self._single}"


def adapted(net: nn.Module, like: Tensor, classes: int) -> nn.Module:
    """`net` as a module from inputs to logits (N, classes): itself, or behind `Adapted` where it needs that.

    It is tried on a copy, in evaluation mode and in training mode. Taken as logits are a tensor, `.logits` or
    `["logits"]` of another object, the first tensor of a tuple (the others are auxiliary heads), and for two classes
    one logit, (N,) or (N, 1), of the second class.

    Args:
        net: from inputs (N, *shape) in [0, 1]; float32.
        like: some inputs (N, *shape).
        classes: K, at least 2.

    Raises:
        Invalid: it cannot take such inputs, or gives no logits: another shape, NaN, or normalized rows.

    Example:
        >>> net = sg.nets.adapted(nn.Linear(4, 1), torch.rand(3, 4), classes=2)
        >>> net(torch.rand(3, 4)).shape
        torch.Size([3, 2])
    """
    for name, p in net.named_parameters():
        floating = f"of {like.dtype} weights: convert it first, with `.to({like.dtype})`"
        require(not p.is_floating_point() or p.dtype == like.dtype, "net", floating, f"`{name}` of {p.dtype}")
    x = _probes(like).to(device_of(net))
    trials = [_trial(net, x, classes, training) for training in (False, True)]
    copies = any(t.changes_input for t in trials)
    single = trials[0].logits.shape[1:] != (classes,)
    plain = all(t.plain for t in trials) and not copies and not single
    return net if plain else Adapted(net, copies=copies, single=single)


class _Trial(NamedTuple):
    """What a net did with some inputs."""

    logits: Tensor
    plain: bool
    changes_input: bool


def _probes(like: Tensor) -> Tensor:
    """Four inputs: two like the task's, and two at random, by which a net shows the same on any task of a shape."""
    some = like[:2].detach()
    with seeded(0):
        drawn = torch.rand(2, *like.shape[1:], dtype=like.dtype).to(like.device)
    return torch.cat([some, drawn, drawn])[:4]


def _trial(net: nn.Module, like: Tensor, classes: int, training: bool) -> _Trial:
    name = f"`{type(net).__name__}`" + (" in training mode" if training else "")
    rule = f"a module from inputs like the task's to logits (N, {classes})"
    x = like.clone()
    version = x._version
    try:
        with seeded(0), torch.enable_grad():
            answer = copied(net).train(training)(x)
    except Invalid:
        raise
    except Exception as e:  # a forward pass runs the user's code
        found = f"{name}, which cannot take {tuple(like.shape)}: {' '.join(str(e).split())}"
        raise Invalid("net", rule, found) from e
    logits = first_tensor(answer)
    keys = f" of {', '.join(map(str, answer))} (it should have `logits`)" if isinstance(answer, Mapping) else ""
    require(isinstance(logits, Tensor), "net", rule, f"{name} -> {type(answer).__name__}{keys}")
    n = len(like)
    shapes = [(n, classes), *([(n,), (n, 1)] if classes == 2 else [])]
    require(tuple(logits.shape) in shapes, "net", rule, f"{name} -> {tuple(logits.shape)} for {n} inputs")
    require(logits.is_floating_point(), "net", rule, f"{name} -> {logits.dtype}")
    require(bool(torch.isfinite(logits).all()), "net", rule, f"{name} -> values that are not finite")
    normalized = _normalization(logits)
    require(not normalized, "net", f"{rule}, without a {normalized} at its end", f"{name}, which gives normalized rows")
    changes = x._version != version or not torch.equal(x, like)
    return _Trial(logits, logits is answer and logits.dtype == like.dtype, changes)


def first_tensor(answer: Any) -> Any:
    """What a net's answer holds in the place of logits; the answer itself, if nothing."""
    if isinstance(answer, Tensor):
        return answer
    if isinstance(answer, Mapping) and "logits" in answer:
        return answer["logits"]
    if hasattr(answer, "logits"):
        return answer.logits
    if isinstance(answer, tuple | list):
        return next((part for part in answer if isinstance(part, Tensor)), answer)
    return answer


def _normalization(logits: Tensor) -> str:
    """The name of the function that made rows probabilities or their logarithms; "" for logits."""
    node = logits.grad_fn
    while node is not None and node.name().rstrip("0123456789").removesuffix("Backward") in _SHAPING:
        node = node.next_functions[0][0] if node.next_functions else None
    last = "" if node is None else node.name().rstrip("0123456789").removesuffix("Backward")
    if last in _NORMALIZING:
        return _NORMALIZING[last]
    if logits.dim() < 2 or logits.shape[1] < 2:
        return ""
    rows = logits.detach().double()
    if rows.min() >= 0 and _all_one(rows.sum(dim=1)):
        return "softmax"
    return "log_softmax" if rows.max() <= 0 and _all_one(rows.exp().sum(dim=1)) else ""


def _all_one(sums: Tensor) -> bool:
    return bool((sums - 1).abs().max() < 1e-4)


def check(net: nn.Module, like: Tensor) -> None:
    """Raise `Invalid` unless parameters and buffers of `net` hold all that it learns, so that a release can keep it,
    and an input has the same logits in use whenever it is asked, and whatever beside.

    Found are weights that are not registered; plain attributes that training changes and that the logits depend on;
    chance in evaluation mode, as of a dropout that is never switched off; and layers that look at the whole batch, as
    batch normalization without running statistics. `like` are some inputs, (N, *shape).

    Example:
        >>> sg.nets.check(nn.Linear(4, 2), torch.rand(3, 4))
    """
    for name in _unregistered(net):
        raise Invalid("net", "made of registered parts (`nn.Parameter`, `nn.ModuleList`)", f"`{name}`, which is not")
    x = _probes(like).to(device_of(net))
    trained, restored = copied(net).train(), copied(net)
    with seeded(0), torch.no_grad():
        for _ in range(2):
            trained(x.clone())
    try:
        restore(restored, state_of(trained))
    except ValueError as e:
        raise Invalid("net", "a module that takes its own tensors", f"`{type(net).__name__}` ({e})") from e
    rule = "a module whose parameters and buffers hold all that it learns: make that a buffer"
    found = ", ".join(f"`{name}`" for name in _changed(trained, restored)) or f"`{type(net).__name__}`"
    require(_answers_alike(trained, restored, x), "net", rule, f"{found}, which is lost")
    _check_in_use(restored, x)


@torch.no_grad()
def _check_in_use(net: nn.Module, x: Tensor) -> None:
    """Raise `Invalid` where in evaluation mode the logits of an input depend on chance, or on the inputs beside it."""

    def logits(x: Tensor, seed: int, *, rows: int = len(x)) -> Tensor:
        """Of a copy of the net, which is asked so many rows at once: one that counts its calls stays as it is."""
        asked = copied(net).eval()
        found = []
        for part in x.split(rows):
            with seeded(seed):
                found.append(asked(part.clone()))
        return torch.cat(found)

    name, first = f"`{type(net).__name__}`", logits(x, 0)
    rule = "a module that gives an input the same logits whenever it is asked in evaluation mode"
    require(_apart(first, logits(x, 1)) < APART, "net", rule, f"{name}, which draws random numbers")
    rule = "a module whose logits of an input do not depend on the inputs beside it in evaluation mode"
    try:
        alone = logits(x, 0, rows=1)
    except Exception as e:  # a forward pass runs the user's code
        raise Invalid("net", rule, f"{name}, which cannot take one alone: {' '.join(str(e).split())}") from e
    apart = _apart(first, alone.reshape(first.shape))
    require(apart < APART, "net", rule, f"{name}, whose logits change by {100 * apart:.0f} %")


def _apart(a: Tensor, b: Tensor) -> float:
    """The greatest difference, as a share of the greatest logit."""
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-6))


@torch.no_grad()
def _answers_alike(a: nn.Module, b: nn.Module, x: Tensor) -> bool:
    found = []
    for net in (a, b):
        with seeded(0):
            found.append(net.eval()(x.clone()))
    return torch.allclose(found[0], found[1], rtol=1e-5, atol=1e-7, equal_nan=True)


def _unregistered(net: nn.Module) -> Iterator[str]:
    """Names of attributes that hold weights which the net does not know as its own."""
    known = set(net.modules())
    for path, part in net.named_modules():
        for name, value in vars(part).items():
            values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
            outside = [v for v in values if isinstance(v, nn.Module) and v not in known]
            if any(True for module in outside for _ in module.parameters()):
                yield f"{path}.{name}" if path else name
    yield from (name for name, t in attributes(net) if t.is_leaf and t.requires_grad)


def _changed(a: nn.Module, b: nn.Module) -> Iterator[str]:
    """Names of buffers and attributes in which two copies of a net differ."""
    for (path, one), other in zip(a.named_modules(), b.modules(), strict=True):
        mine, others = {**one._buffers, **vars(one)}, {**other._buffers, **vars(other)}
        for name, value in mine.items():
            if name != "training" and not _same(value, others.get(name)):
                yield f"{path}.{name}" if path else name


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return a == b if isinstance(a, int | float | str) else True
