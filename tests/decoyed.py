"""A small defended model with linear decoys, whose parts are known: what the adaptive attacks are tested on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samples import noise
from stealguard.attacks.decoy_family import features

K = 4
DOUBT = 0.1


def maps(inputs: int = 16) -> tuple[Tensor, Tensor]:
    """The net's linear map and the decoys', (K, inputs) each."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(K, inputs, generator=generator), 0.3 * torch.randn(K, inputs, generator=generator)


def own(x: Tensor) -> Tensor:
    """The net's answers (N, K): confident, and linear in the deviation of inputs from 1/2."""
    flat = x.flatten(1) - 0.5
    return (12 * flat @ maps(flat.shape[1])[0].T).softmax(dim=1)


def honest(x: Tensor) -> Tensor:
    """Which inputs (N, *shape) the net answers itself: about a tenth of random ones."""
    return x.flatten(1)[:, 2] < 0.1


class Decoyed:
    """A box that answers honest inputs itself, and others with decoys.

    Args:
        masked: whether decoys leave out the net's class.
        doubt: the uniform share of a decoy.
    """

    def __init__(self, masked: bool = True, doubt: float = DOUBT):
        self._masked, self._doubt = masked, doubt

    def __call__(self, x: Tensor) -> Tensor:
        d = features(x) @ maps(x[0].numel())[1].T
        if self._masked:
            d = d.scatter(1, own(x).argmax(dim=1, keepdim=True), -torch.inf)
        wrong = (1 - self._doubt) * d.softmax(dim=1) + self._doubt / K
        return torch.where(honest(x)[:, None], own(x), wrong)


def untrained(inputs: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, K))


def right(clone: nn.Module, shape: tuple[int, ...] = (16,)) -> float:
    """How often the clone names the net's class, in [0, 1]."""
    x = noise(1000, shape, seed=9)
    return (clone(x).argmax(dim=1) == own(x).argmax(dim=1)).double().mean().item()
