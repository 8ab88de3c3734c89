"""Hashes of what a result follows from. Importing this loads no torch."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def fingerprint(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def tensor_hash(x: Tensor) -> str:
    """SHA-256 of a tensor's shape, dtype and values."""
    x = x.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    digest.update(x.numpy().data)
    return digest.hexdigest()
