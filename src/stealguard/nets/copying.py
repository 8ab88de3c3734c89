"""Copies of modules, and all the tensors that a module holds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

from torch import Tensor, nn

from stealguard.errors import Invalid

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module) -> Module:
    """A deep copy, also of modules that keep what they computed from their weights, as weight norm does.

    Raises:
        Invalid: the module cannot be copied.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> sg.nets.copied(net).weight is net.weight
        False
    """
    computed = {id(t): t.detach().clone() for _, t in attributes(module) if not t.is_leaf}
    try:
        return copy.deepcopy(module, dict(computed))
    except Exception as e:  # copying runs the user's code
        reason = " ".join(str(e).split())
        raise Invalid("net", "a module that can be copied", f"`{type(module).__name__}` ({reason})") from e


def attributes(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that are neither parameters nor buffers but plain attributes of a part, by name."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                yield (f"{path}.{name}" if path else name), value


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """All that a module holds, by name: parameters, buffers (those outside the state, too) and plain attributes."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers()), **dict(attributes(module))}
