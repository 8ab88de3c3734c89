"""A real Redis for tests: on a free port of the loopback address, with its files in a temporary folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def redis_server(folder: Path, *options: str, port: int | None = None) -> Iterator[str]:
    """The address of a server that lasts as long as the block; without the program, the test is skipped.

    With STEALGUARD_REQUIRE_REDIS=1 its absence is a failure.
    """
    program = shutil.which("redis-server")
    if program is None:
        message = "redis-server is not installed"
        pytest.fail(message) if os.environ.get("STEALGUARD_REQUIRE_REDIS") == "1" else pytest.skip(message)
    port = port or free_port()
    settings = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec", *options]
    process = subprocess.Popen(
        [program, "--port", str(port), "--dir", str(folder), *settings], stdout=subprocess.DEVNULL
    )
    try:
        _wait(process, port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
                s.sendall(b"PING\r\n")
                if s.recv(7) == b"+PONG\r\n":
                    return
        except OSError:
            time.sleep(0.02)
    pytest.fail("redis-server did not start")
