"""Where tensors live: one place that names devices and chooses one."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from stealguard.errors import Invalid


def choose(device: str | torch.device | None = None) -> torch.device:
    """The device of that name; without a name a GPU if there is one, else the processor.

    Raises:
        Invalid: there is no such device here.

    >>> choose("cpu")
    device(type='cpu')
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as e:  # torch built without CUDA asserts
        raise Invalid("device", "a torch device that this machine has", f"`{device}` ({str(e).splitlines()[0]})") from e
    return found


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are; the processor for a module without any."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
