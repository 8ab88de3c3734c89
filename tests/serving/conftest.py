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
def robust_folder(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A release whose guard has suspicion, of the net `samples.mlp`. Tests that write must copy the folder first."""

    def make(out: Path) -> None:
        torch.manual_seed(0)  # of the net's first weights
        data, outliers = task(600, (16,), 3), [noise(300, (16,))]
        sg.protect(mlp(), data, outliers=outliers, defense=sg.PRESETS["ini-robust"].defense, epochs=20, out=out)

    return once("served-robust", make)


@pytest.fixture
def robust(robust_folder: Path) -> sg.Release:
    """The same release, which remembers no account yet."""
    return sg.load(robust_folder, net=mlp())
