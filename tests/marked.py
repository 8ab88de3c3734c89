"""A pretended second device on the processor: its tensors are marked, and an operation that mixes devices fails.

Torch's `meta` device lends its name. `with pretended():` makes `device="meta"` mean tensors that have values, so that
`protect` and `audit` run whole. Rules are CUDA's: operands are all on one device; a tensor of the processor may
be a single number that is not joined to others, or an index; copies go between devices; what a generator of the
processor draws is on the processor; nothing but a copy changes a tensor of the processor by another device's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "meta"
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default, aten._copy_from.default}
JOINING = {aten.cat.default, aten.stack.default}
INDEXED = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}  # fmt: skip


class MixedDevices(RuntimeError):
    """Operands are on two devices."""


class Marked(Tensor):
    """A tensor of the pretended device, whose values `held` has."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Marked:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=torch.device(NAME),
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.data_ptr):  # torch gives none of a subclass
            return func(args[0].held)
        if func == Tensor.numpy:
            if not (kwargs or {}).get("force"):
                raise TypeError("A tensor of the pretended device is no array before it is copied to the processor.")
            return func(args[0].held, force=True)
        if func == Tensor.data.__set__ and isinstance(args[1], Marked):  # type: ignore[attr-defined]
            args[0].held = args[1].held
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class _Pretending(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    marked = [t for t in tensors if isinstance(t, Marked)]
    _check(func, args, tensors)
    to = kwargs.get("device")
    goes = bool(marked) if to is None else torch.device(to).type == NAME
    if goes and kwargs.get("generator") is not None:
        raise MixedDevices(f"{func} on the pretended device with a generator of the processor")
    if to is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if func is aten.copy_.default:
        goes = isinstance(args[0], Marked)
    known = {id(t.held): t for t in marked}
    found = func(*_mapped(_bare, args), **{name: _mapped(_bare, value) for name, value in kwargs.items()})

    def mark(t: Tensor) -> Tensor:
        return known[id(t)] if id(t) in known else Marked(t) if goes else t

    return _mapped(mark, found)


def _bare(t: Tensor) -> Tensor:
    return t.held if isinstance(t, Marked) else t


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, and in their tuples and lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with each tensor of it changed; torch's own trees are ten times slower."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)([_mapped(change, part) for part in value]) if isinstance(value, (tuple, list)) else value


def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """
    Raises:
        MixedDevices: an operand is of the processor, beside one that is not, and CUDA would refuse it.
    """
    others = [t for t in tensors if not isinstance(t, Marked)]
    if any(t.is_meta for t in others):  # as of `torch.tensor(1, device=NAME)`, or of an index that is a list
        raise RuntimeError(f"{func} of a tensor that torch makes on the pretended device without its values")
    if func in COPIES or len(others) == len(tensors):
        return
    if func in INDEXED and isinstance(args[0], Marked):
        others = [t for t in args[2:3] if isinstance(t, Tensor) and not isinstance(t, Marked)]
    changed = func._schema.is_mutable and not isinstance(args[0], Marked)
    apart = [tuple(t.shape) for t in others if t.dim() or func in JOINING or changed]
    if apart:
        raise MixedDevices(f"{func} of a tensor of the pretended device and one of the processor, {apart}")


@contextmanager
def pretended() -> Iterator[str]:
    """Inside the block, the device of the yielded name has storage. Autocast does nothing there."""
    usual = torch.autocast

    def autocast(device: str, *args: Any, **kwargs: Any) -> Any:
        return usual("cpu" if device == NAME else device, *args, **kwargs)

    torch.autocast = autocast  # type: ignore[misc,assignment]
    try:
        with _Pretending():
            yield NAME
    finally:
        torch.autocast = usual  # type: ignore[misc]
