"""Random numbers that follow from an input alone: the same at every request and in every batch."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 255  # of an input's values, as a hash sees them
STEPS = 4096  # entries of a secret direction are whole numbers from -STEPS to STEPS
GOLDEN, FIRST, SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def projection(x: Tensor, key: int) -> tuple[Tensor, float]:
    """Where inputs (N, *shape) in [0, 1] lie along a secret direction, (N,), and the length of a unit there.

    Inputs and direction are rounded to whole numbers, whose products add up exactly in double precision.
    """
    generator = torch.Generator().manual_seed(key)
    direction = torch.randint(-STEPS, STEPS + 1, (x[0].numel(),), generator=generator).double().to(x.device)
    return (x.flatten(1).double() * LEVELS).round() @ direction, LEVELS * direction.norm().item()


def uniforms(seeds: Tensor, n: int) -> Tensor:
    """n numbers in [0, 1) for each of the whole numbers `seeds`, (N,): SplitMix64 (Steele, Lea & Flood 2014)."""
    z = _mixed(seeds.long()[:, None]) + torch.arange(1, n + 1, device=seeds.device) * GOLDEN
    return (_shifted(_mixed(z), 11)).double() / 2**53


def _mixed(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * FIRST
    z = (z ^ _shifted(z, 27)) * SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """z >> bits as if z had no sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
