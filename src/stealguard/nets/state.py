"""All that a module holds, as tensors by name, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by its name, once where weights are shared; buffers that torch does not save, too.

    Example:
        >>> sorted(sg.nets.state_of(nn.Linear(2, 3)))
        ['bias', 'weight']
    """
    state: dict[str, Tensor] = {}
    known: set[tuple[object, ...]] = set()
    for name, value in {**model.state_dict(), **dict(model.named_buffers())}.items():
        place = (value.data_ptr(), value.shape, value.stride())
        if place not in known or not value.numel():
            state[name] = value.detach().cpu().contiguous().clone()
        known.add(place)
    return state


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a module the tensors of `state_of` a module like it.

    Raises:
        ValueError: a name or a shape is another; says which.

    Example:
        >>> one, other = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> sg.nets.restore(other, sg.nets.state_of(one))
        >>> torch.equal(one.weight, other.weight)
        True
    """
    there = {**model.state_dict(keep_vars=True), **dict(model.named_buffers()), **dict(model.named_parameters())}
    wanted = state_of(model)
    for name in sorted(state.keys() ^ wanted.keys()):
        raise ValueError(f"{'no' if name in wanted else 'an unknown'} tensor `{name}`")
    for name, value in state.items():
        if value.shape != there[name].shape:
            raise ValueError(f"`{name}` of shape {tuple(value.shape)} where it takes {tuple(there[name].shape)}")
    with torch.no_grad():
        for name, value in state.items():
            there[name].copy_(value)
