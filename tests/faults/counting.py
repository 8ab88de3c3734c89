"""A model that stealguard did not train. It writes one byte to `../paid` for each input of the pool that it answers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

torch.manual_seed(0)
NET = nn.Sequential(nn.Flatten(), nn.Linear(36, 10))


@torch.no_grad()
def answer(x: Tensor) -> Tensor:
    """Probabilities (N, 10) for images (N, 1, 6, 6)."""
    with Path("../paid").open("ab", buffering=0) as paid:
        paid.write(b"." * int((x[:, 0, 0, 0] == 1).sum()))
    return NET(x).softmax(dim=1)
