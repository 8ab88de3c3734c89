"""Hashes of what a result follows from. Importing this loads no torch."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


ANSWERED_WITH = ("structure", "shape", "classes", "scaling", "defense", "weights_sha256")


def fingerprint(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def identity_of(recipe: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that a release's answers follow from; equal weights made at other times share it."""
    return fingerprint({name: recipe[name] for name in ANSWERED_WITH})


def tensor_hash(x: Tensor) -> str:
    """SHA-256 of a tensor's shape, dtype and values."""
    import torch

    x = x.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    bits = x.view(torch.int16) if x.dtype == torch.bfloat16 else x  # which NumPy does not know
    digest.update(bits.numpy().data)
    return digest.hexdigest()


def code_of(kind: type) -> str:
    """SHA-256 (hex) of the source file of somebody's own class; "" for this package's, whose version a row tells."""
    if kind.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return ""
    try:
        return fingerprint(inspect.getsource(inspect.getmodule(kind) or kind))
    except (OSError, TypeError):  # typed in at a prompt
        return fingerprint(kind.__qualname__)
