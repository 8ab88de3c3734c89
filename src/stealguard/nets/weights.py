"""Already trained weights from a file, read as tensors by name, and given to a net; what does not fit is named."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from stealguard.errors import Invalid, listed, one_line, require
from stealguard.files import sha256

INSIDE = ("state_dict", "model_state_dict", "model", "net")  # where checkpoints keep the weights
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning


class Weights(NamedTuple):
    """Tensors by name, and the SHA-256 (hex) of the file that they came from.

    `beside` are the keys under which a checkpoint holds other values of the same names, such as a moving average.
    """

    tensors: Mapping[str, Tensor]
    path: Path
    sha256: str
    beside: tuple[str, ...] = ()


def read_weights(path: str | Path) -> Weights:
    """The weights in a file: safetensors, or a state dict that torch saved, which is not unpickled as objects.

    A checkpoint may keep its state dict under `state_dict`, `model_state_dict`, `model` or `net`.

    Raises:
        Invalid: the file cannot be read so.

    Example:
        >>> torch.save(nn.Linear(2, 3).state_dict(), "w.pt")
        >>> sorted(sg.nets.read_weights("w.pt").tensors)
        ['bias', 'weight']
    """
    path = Path(path).expanduser()
    rule = "a file of weights: a `state_dict` that torch saved (`torch.save(net.state_dict(), ...)`), or safetensors"
    require(path.is_file(), "weights", rule, f"`{path}` ({'no file' if path.exists() else 'no such file'})")
    try:
        safe = path.suffix == ".safetensors"
        with warnings.catch_warnings(action="ignore"):  # what torch says of other kinds of files stands in the error
            found = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, Exception) as e:  # torch, zip and pickle raise many kinds for foreign bytes
        objects = _objects(path)
        told = f"{type(e).__name__}: {one_line(e, 120).partition('. ')[0]}"
        told = f"with {listed(objects)}, and objects are never unpickled" if objects else told
        raise Invalid("weights", rule, f"`{path}` ({told})") from e
    tensors = _tensors(found)
    require(bool(tensors), "weights", rule, f"`{path}`, which holds no tensors by name")
    others = {str(key): _tensors(value) for key, value in found.items()}
    beside = [
        key
        for key, other in others.items()
        if other.keys() == tensors.keys() and any(other[name] is not value for name, value in tensors.items())
    ]
    return Weights(tensors, path, sha256(path), tuple(beside))


def _objects(path: Path) -> list[str]:
    """The classes and functions that a file of torch's names and that are no tensors'."""
    with suppress(Exception):  # it is no such file
        return sorted(get_unsafe_globals_in_checkpoint(path))
    return []


def _tensors(found: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one that a checkpoint keeps."""
    if not isinstance(found, Mapping):
        return {}
    for name in INSIDE:
        if isinstance(found.get(name), Mapping) and (inside := _tensors(found[name])):
            return inside
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def give(net: nn.Module, weights: Weights, *, partial: bool = False) -> list[str]:
    """Give `net` the weights that it has a place for; tensors that the net lacks are left out.

    Returns:
        Lines to print: what was left out, and what keeps the values that it had.

    Raises:
        Invalid: no tensor fits, or the net has tensors that the weights lack or have in another shape, unless
            `partial` allows it; names them.

    Example:
        >>> torch.save({"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, "w.pt")
        >>> net = nn.Linear(2, 3)
        >>> sg.nets.give(net, sg.nets.read_weights("w.pt"))
        []
        >>> net(torch.ones(1, 2)).tolist()
        [[2.0, 2.0, 2.0]]
    """
    own = net.state_dict()
    state = _without_prefix(weights.tensors, list(own))
    other = [name for name, value in state.items() if name in own and own[name].shape != value.shape]
    whole = [name for name in own.keys() & state.keys() if own[name].is_floating_point() and _is_whole(state[name])]
    rule = "of floating numbers where the net's are (quantized ones have to be dequantized)"
    require(not whole, "weights", rule, f"`{weights.path}`, with whole numbers in {listed(sorted(whole))}")
    fitting = {name: value for name, value in state.items() if name not in other}
    _check_values(fitting, own, weights.path)
    try:
        missing, unexpected = net.load_state_dict(fitting, strict=False)
    except RuntimeError as e:
        raise Invalid("weights", "a state dict that the net takes", f"`{weights.path}` ({one_line(e, 200)})") from e
    given = {_memory(own[name]) for name in fitting if name in own}  # of tied weights a file may hold one alone
    missing = [
        name
        for name in missing
        if name not in other and _memory(own[name]) not in given and not name.endswith("num_batches_tracked")
    ]
    taken = len(fitting) - len(unexpected)
    found = f"`{weights.path}` (tensors that fit: {taken} of {len(state)})"
    told = [
        f"{what} ({count:,}): {listed(names)}"
        for count, what, names in (
            (len(missing), "missing", missing),
            (len(other), "of another shape", [_shapes(name, state[name], own[name]) for name in other]),
            (len(unexpected), "unknown to the net", unexpected),
        )
        if count
    ]
    require(taken > 0, "weights", "those of the net", "; ".join([found, *told]))
    complete = "all weights of the net (or allow some of them with `partial`)"
    require(partial or not (missing or other), "weights", complete, "; ".join([found, *told]))
    lines = [f"`{weights.path}` holds such weights under {key}, too: these are not read." for key in weights.beside]
    fitted = f"Tensors of `{weights.path}` that fit: {taken} of {len(state)}; {'; '.join(told)}."
    return [*lines, fitted] if told else lines


def _check_values(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Raise `Invalid` for NaN, and for several values of weights that the net ties."""
    missing = sorted(name for name, value in state.items() if name in own and bool(value.float().isnan().any()))
    require(not missing, "weights", "numbers", f"`{path}`, with NaN in {listed(missing)}")
    first: dict[Any, str] = {}
    for name in own.keys() & state.keys():
        tied = first.setdefault(_memory(own[name]), name) if own[name].numel() else name
        rule = "of one value where the net ties weights"
        names = " and ".join(sorted((tied, name)))
        require(torch.equal(state[tied], state[name]), "weights", rule, f"`{path}`, with two values in {names}")


def _memory(value: Tensor) -> tuple[int, torch.Size]:
    return value.data_ptr(), value.shape


def _is_whole(value: Tensor) -> bool:
    return not value.is_floating_point() and not value.is_complex()


def _without_prefix(state: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """The state without prefixes that all of its names have and none of the net's."""
    found = dict(state)
    strange = [prefix for prefix in PREFIXES if not any(name.startswith(prefix) for name in own)]
    while prefix := next((p for p in strange if all(name.startswith(p) for name in found)), ""):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _shapes(name: str, given: Tensor, own: Tensor) -> str:
    return f"{name} {tuple(given.shape)} for {tuple(own.shape)}"
