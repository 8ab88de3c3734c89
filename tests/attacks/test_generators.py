"""Generators and what plays against them: shapes, ranges, graphs."""

from __future__ import annotations

import pytest
import torch

from samples import noise
from stealguard.attacks.data_free.generators import discriminator, generator, shapes, squash
from stealguard.errors import Invalid

SHAPES = [(1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32), (3, 8, 8), (1, 5, 7), (16,), (2, 3), (1, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
class TestGenerator:
    def test_generated_inputs_have_the_shape_and_the_range(self, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        made = generator(shape, latent=10, width=4)(torch.randn(32, 10))
        assert made.shape == (32, *shape)
        assert 0 <= made.min() < 0.3 < 0.7 < made.max() <= 1
        assert made.flatten(1).std(dim=0).mean() > 0.05

    def test_every_channel_is_normalized_before_squashing(self, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        before = generator(shape, latent=10, width=4).before(torch.randn(64, 10))
        channels = before.flatten(2).transpose(0, 1).flatten(1) if len(shape) > 1 else before.reshape(1, -1)
        torch.testing.assert_close(channels.mean(dim=1), torch.zeros(len(channels)), atol=1e-5, rtol=0)
        torch.testing.assert_close(channels.std(dim=1), torch.ones(len(channels)), atol=1e-2, rtol=0)

    def test_every_weight_has_a_gradient(self, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        net = generator(shape, latent=10, width=4)
        (net(torch.randn(32, 10)) * torch.rand(shape)).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())

    def test_discriminators_take_inputs_of_the_shape(self, shape: tuple[int, ...]) -> None:
        assert discriminator(shape, width=4)(noise(6, shape)).shape == (6, 1)

    def test_random_shapes_are_in_range_and_follow_from_the_seed(self, shape: tuple[int, ...]) -> None:
        one, again, other = (shapes(20, noise(1, shape), seed=s) for s in (0, 0, 1))
        assert one.shape == (20, *shape)
        assert one.min() >= 0
        assert one.max() <= 1
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        assert len(one.unique(dim=0)) == 20


def test_squash_maps_into_the_range_of_inputs() -> None:
    torch.testing.assert_close(squash(torch.tensor([-50.0, 0.0, 50.0])), torch.tensor([0.0, 0.5, 1.0]))


@pytest.mark.parametrize("name", ["latent", "width"])
def test_sizes_are_at_least_one(name: str) -> None:
    with pytest.raises(Invalid, match=f"`{name}` should be at least 1. Found 0"):
        generator((16,), **{"latent": 4, "width": 4, name: 0})
