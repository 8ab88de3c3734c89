"""Numbers that follow from an input: exact, even, and independent."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samples import noise
from stealguard.defenses.hashing import projection, uniforms


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 100), st.integers(1, 300), st.integers(0, 2**63 - 1))
def test_a_projection_is_that_of_whole_numbers_added_one_by_one(n: int, d: int, key: int) -> None:
    x = noise(n, (d,))
    found, unit = projection(x, key)
    generator = torch.Generator().manual_seed(key)
    direction = torch.randint(-4096, 4097, (d,), generator=generator).tolist()
    for row, value in zip((x.double() * 255).round().long().tolist(), found.tolist(), strict=True):
        assert value == sum(a * b for a, b in zip(row, direction, strict=True))
    assert torch.equal(found, torch.cat([projection(row[None], key)[0] for row in x]))
    assert unit >= 0


def test_uniforms_are_splitmix64() -> None:
    def next_of(state: int) -> int:  # the generator as its authors write it, on numbers without sign
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    seeds = torch.tensor([0, 1, -5, 2**40 + 7])
    by_hand = [
        [(next_of((next_of(s % 2**64) + i * 0x9E3779B97F4A7C15) % 2**64) >> 11) / 2**53 for i in range(1, 6)]
        for s in seeds.tolist()
    ]
    assert uniforms(seeds, 5).tolist() == by_hand


def test_uniforms_are_even_and_neighbors_are_not_correlated() -> None:
    u = uniforms(torch.arange(20_000), 4)
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u, bins=20, min=0, max=1)
    assert (counts - 4000).abs().max() < 5 * 4000**0.5
    correlations = torch.corrcoef(torch.cat([u.T, u.roll(1, dims=0).T])) - torch.eye(8)
    assert correlations.abs().max() < 0.04
