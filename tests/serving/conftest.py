"""A Redis for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redis_server import redis_server


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
