"""Where tensors live: one place that names devices and chooses one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain

import torch
from torch import nn

from stealguard.errors import Invalid

PINNING = threading.Lock()
"""Held by whoever asks CUDA for pinned memory, and while steps are recorded: CUDA lets nobody ask for any then."""


def choose(device: str | torch.device | None = None) -> torch.device:
    """The device of that name; without a name a GPU if there is one, else the processor.

    Raises:
        Invalid: there is no such device here.

    >>> choose("cpu")
    device(type='cpu')
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as e:  # torch built without CUDA asserts
        raise Invalid("device", "a torch device that this machine has", f"`{device}` ({str(e).splitlines()[0]})") from e
    if found.type == "cuda":  # torch's thread for gradients warns if the first that it computes is a matrix product
        _differentiate(found)
    return found


def _differentiate(device: torch.device) -> None:
    with torch.inference_mode(False), torch.enable_grad():
        torch.zeros((), device=device, requires_grad=True).exp().backward()


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are; the processor for a module without any."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


@contextmanager
def switched(owner: object, name: str, value: object) -> Iterator[None]:
    """Inside the block one of torch's switches has another value.

    >>> with switched(torch.backends.cudnn, "enabled", False):
    ...     torch.backends.cudnn.enabled
    False
    """
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside the block an NVIDIA GPU multiplies float32 numbers as they are, and does not round them to TF32 first."""
    products, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with ExitStack() as stack:
        if hasattr(products, "fp32_precision"):  # torch 2.9 and later, which refuse to tell the older switches at times
            for part in (products, cudnn.conv, cudnn.rnn):  # type: ignore[attr-defined]
                stack.enter_context(switched(part, "fp32_precision", "ieee"))
        else:
            for part in (products, cudnn):
                stack.enter_context(switched(part, "allow_tf32", False))
        yield


@contextmanager
def repeatable(wanted: bool = True) -> Iterator[None]:
    """Inside the block torch uses only algorithms that give the same bits again on the same GPU, which are slower.

    It raises a RuntimeError that names the operation where it has none. On a processor nothing changes.

    >>> with repeatable():
    ...     torch.are_deterministic_algorithms_enabled()
    True
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS chooses by what runs beside it
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with switched(torch.backends.cudnn, "deterministic", True):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
