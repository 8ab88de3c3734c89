"""A Redis and a small release for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import stealguard as sg
from redis_server import redis_server
from samples import mlp, noise, task


@pytest.fixture(scope="session")
def _redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture
def redis_address(_redis: str) -> str:
    """The address of an empty Redis."""
    import redis

    with redis.Redis.from_url(_redis) as client:
        client.flushall()
    return _redis


@pytest.fixture(scope="session")
def robust(once: Callable[[str, Callable[[Path], object]], Path]) -> sg.Release:
    """A release whose guard has suspicion."""

    def make(out: Path) -> None:
        preset = sg.PRESETS["ini-robust"]
        torch.manual_seed(0)  # of the net's first weights
        sg.protect(
            mlp(), data=task(600, (16,), 3), outliers=[noise(300, (16,))], defense=preset.defense, epochs=3, out=out
        )

    return sg.load(once("served-robust", make), net=mlp())
