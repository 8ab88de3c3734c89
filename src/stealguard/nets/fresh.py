"""The same architecture with other weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from stealguard.devices import device_of
from stealguard.errors import Invalid
from stealguard.nets.building import of_user
from stealguard.nets.copying import copied, tensors
from stealguard.seeds import derive, seeded

_HOOKS = ("reset_parameters", "_reset_parameters", "init_weights", "_init_weights", "initialize_weights")
_CONSTANTS = re.compile(r"pe|pos|pos_.*|.*position.*|.*mask|mean|std|.*freqs?|.*grid|.*anchors?")


def reinitialized(module: nn.Module, *, seed: int) -> nn.Module:
    """A copy of `module` with every weight drawn anew: the same architecture, and nothing that was learned.

    Each part is drawn by its own `reset_parameters` (or `_reset_parameters`, `init_weights`, ...), computed weights
    (weight norm, spectral norm, pruning) by that of the part that they belong to. A part without one is built again, by
    its class without arguments or, for a net from `module:callable`, by that. All that is drawn can be trained,
    whatever was frozen. Weights are drawn on the CPU, so that the device does not change them.

    Tensors that nobody learns stay: those with all entries alike, and buffers that are small, repetitive or named for
    what they are, such as masks, position encodings and the mean of the inputs.

    Raises:
        Invalid: a tensor of the module cannot be drawn anew; the error names it.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> fresh = sg.nets.reinitialized(net, seed=1)
        >>> fresh.weight.shape == net.weight.shape, torch.equal(fresh.weight, net.weight)
        (True, False)
    """
    device, fresh = device_of(module), _drawn(module, seed)
    if _kept(fresh, module):  # perhaps the seed is just the one that `module` itself was drawn from
        again = _drawn(module, derive(seed, "again"))
        fresh = again if _kept(again, module) < _kept(fresh, module) else fresh
    given: set[str] = set()  # buffers that the code itself gives: they were not learned
    for name in sorted(_kept(fresh, module)):
        if name in _kept(fresh, module) - given:
            fresh, path = _rebuilt(fresh, name, derive(seed, name))
            given |= {other for other in _untrained(fresh) if path is not None and f".{other}".startswith(f".{path}")}
    for name in sorted(_kept(fresh, module) - given):
        offers = "made of parts that offer `reset_parameters`, or given as `module:callable`"
        rule = f"{offers}, or else name a surrogate and a clone"
        raise Invalid("net", rule, f"`{name}` of `{_owner(module, name)}`, which keeps its values")
    for p in fresh.parameters():
        p.requires_grad_(p.is_floating_point() or p.is_complex())
    return fresh.to(device)


def sibling(net: nn.Module, number: int) -> nn.Module:
    """`net` with other weights, drawn from a seed that follows from the weights it has and from `number`.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> torch.equal(sg.nets.sibling(net, 1).weight, sg.nets.sibling(net, 1).weight)
        True
    """
    return reinitialized(net, seed=derive(seed_from(net), "sibling", number))


def seed_from(net: nn.Module) -> int:
    """A seed that follows from the weights: for what a defense draws beside them, the same whenever they are.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> sg.nets.seed_from(net) == sg.nets.seed_from(sg.nets.copied(net))
        True
    """
    return derive(0, *(p.detach().cpu().double().sum().item() for p in net.parameters()))


def _kept(fresh: nn.Module, module: nn.Module) -> set[str]:
    """Names of the tensors that could have been learned and are still those of `module`."""
    parameters = {name for name, _ in module.named_parameters()}
    found, before = tensors(fresh), tensors(module)
    return {
        name
        for name, t in found.items()
        if (t.is_floating_point() or t.is_complex())
        and name in before
        and t.shape == before[name].shape
        and torch.equal(t, before[name].cpu())
        and not _is_constant(name, t, parameter=name in parameters)
    }


def _is_constant(name: str, t: Tensor, *, parameter: bool) -> bool:
    distinct = t.detach().unique().numel()
    if parameter or distinct <= 1:
        return distinct <= 1
    few = t.numel() <= 4 or 2 * distinct <= t.numel()
    return few or _CONSTANTS.fullmatch(name.rpartition(".")[2]) is not None


def _drawn(module: nn.Module, seed: int) -> nn.Module:
    """A copy on the CPU whose parts have drawn their weights."""
    fresh = copied(module).cpu()
    with seeded(seed):
        _draw(fresh)
    return fresh


def _draw(module: nn.Module) -> None:
    """Have every part draw its weights, parts within it first, as they are built."""
    for part in _inside_out(module, set()):
        if hook := _hook(part):
            try:
                with _as_parameters(part):
                    hook()
            except Exception as e:  # hooks of user's classes are their code
                reason = f"`{type(part).__name__}` ({type(e).__name__}: {' '.join(str(e).split())})"
                raise Invalid("net", "made of parts that can draw their weights anew", reason) from e


def _inside_out(module: nn.Module, seen: set[nn.Module]) -> Iterator[nn.Module]:
    for child in module.children():
        yield from _inside_out(child, seen)
    if module not in seen:
        seen.add(module)
        yield module


def _hook(part: nn.Module) -> Callable[[], object] | None:
    """What draws a part's weights."""
    for name in _HOOKS:
        hook = getattr(part, name, None)
        if callable(hook):
            required = [p for p in inspect.signature(hook).parameters.values() if _is_required(p)]
            if not required:
                return hook  # type: ignore[no-any-return]
            if name == "_init_weights" and len(required) == 1:  # of Hugging Face and timm: draws the part it is given
                return partial(part.apply, hook)
    return None


def _is_required(p: inspect.Parameter) -> bool:
    return p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)


@contextmanager
def _as_parameters(part: nn.Module) -> Iterator[None]:
    """The part with each weight that it computes from other tensors as a parameter, which is split up again after."""
    kind, hooks = type(part), [h for h in part._forward_pre_hooks.values() if isinstance(h, _COMPUTING)]
    names = [_computed_name(hook) for hook in hooks]
    if parametrize.is_parametrized(part):
        names += list(part.parametrizations)  # type: ignore[arg-type]
    values = {name: nn.Parameter(getattr(part, name).detach().clone()) for name in names}
    if parametrize.is_parametrized(part):
        part.__class__ = kind.__bases__[0]
    for name, value in values.items():
        vars(part).pop(name, None)
        part._parameters[name] = value
    yield
    for name in names:
        del part._parameters[name]
    part.__class__ = kind
    with torch.no_grad():
        for hook in hooks:
            _split(part, hook, values[_computed_name(hook)].detach())
        for name in names[len(hooks) :]:
            _assign(part, name, values[name].detach())


_COMPUTING = (WeightNorm, SpectralNorm, BasePruningMethod)


def _computed_name(hook: WeightNorm | SpectralNorm | BasePruningMethod) -> str:
    return hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name


def _split(part: nn.Module, hook: WeightNorm | SpectralNorm | BasePruningMethod, weight: Tensor) -> None:
    """Write `weight` into the tensors that a forward hook computes it from."""
    name = _computed_name(hook)
    if isinstance(hook, WeightNorm):
        part.get_parameter(f"{name}_v").copy_(weight)
        part.get_parameter(f"{name}_g").copy_(torch.norm_except_dim(weight, 2, hook.dim))
        computed = hook.compute_weight(part)
    else:
        part.get_parameter(f"{name}_orig").copy_(weight)
        if isinstance(hook, SpectralNorm):
            _draw_directions(part.get_buffer(f"{name}_u"), part.get_buffer(f"{name}_v"))
            for _ in range(15):
                hook.compute_weight(part, do_power_iteration=True)
            computed = hook.compute_weight(part, do_power_iteration=False)
        else:
            computed = hook.apply_mask(part)
    setattr(part, name, computed)


def _assign(part: nn.Module, name: str, weight: Tensor) -> None:
    """Write `weight` into the tensors that a parametrization computes it from."""
    try:
        setattr(part, name, weight)
    except (NotImplementedError, RuntimeError):  # it has no inverse: what it is computed from keeps its values
        return
    for inner in part.parametrizations[name]:  # type: ignore[index, union-attr]
        if isinstance(inner, _SpectralNorm) and hasattr(inner, "_u"):
            _draw_directions(inner._u, inner._v)
            inner._power_method(inner._reshape_weight_to_matrix(weight), 15)


def _draw_directions(*vectors: Tensor) -> None:
    for vector in vectors:
        vector.copy_(F.normalize(torch.randn_like(vector), dim=0))


def _rebuilt(module: nn.Module, name: str, seed: int) -> tuple[nn.Module, str | None]:
    """`module` with the smallest part around the tensor `name` that can be built again, and that part's path.

    As it is, and None, if no part can be.
    """
    path = name
    while path:
        path = path.rpartition(".")[0]
        part = module.get_submodule(path)
        made = _made_again(part, seed)
        if made is not None:
            with seeded(derive(seed, "draw")):
                _draw(made)
            if not path:
                return made, path
            setattr(module.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], made)
            return module, path
    return module, None


def _untrained(module: nn.Module) -> set[str]:
    """Names of the tensors that are no parameters."""
    return tensors(module).keys() - dict(module.named_parameters()).keys()


def _made_again(part: nn.Module, seed: int) -> nn.Module | None:
    """A part like this one from where it came: the user's `module:callable`, or its class without arguments."""
    kind, path = type(part), getattr(part, "_made_by", None)
    if path is None and kind.__module__.startswith(("torch.", "stealguard.")):
        return None
    try:
        with seeded(seed):
            made = kind() if path is None else of_user(path)
    except Exception:  # a class that takes arguments, for example
        return None
    same = isinstance(made, nn.Module) and _shapes(made) == _shapes(part)
    return made.train(part.training) if same else None


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: t.shape for name, t in module.state_dict().items()}


def _owner(module: nn.Module, name: str) -> str:
    return type(module.get_submodule(name.rpartition(".")[0])).__name__
