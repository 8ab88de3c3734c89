"""A real nginx on a free port of the loopback address, with the configuration that the documentation gives."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from redis_server import free_port
from waiting import until

DOCUMENTED = Path(__file__).parents[1] / "docs" / "deploy" / "nginx.conf"
AROUND = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    {paths}
    {documented}
}}
"""
PATHS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextmanager
def nginx(folder: Path, ports: Sequence[int]) -> Iterator[str]:
    """The address of an nginx before the servers on these ports; without the program, the test is skipped.

    Answers tell the server that they come from in the header `x-server`. With STEALGUARD_REQUIRE_NGINX=1 the
    program's absence is a failure.
    """
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        message = "nginx is not installed"
        pytest.fail(message) if os.environ.get("STEALGUARD_REQUIRE_NGINX") == "1" else pytest.skip(message)
    configuration = folder / "nginx.conf"
    configuration.write_text(_configuration(folder, port := free_port(), ports))
    with subprocess.Popen([program, "-p", str(folder), "-c", str(configuration), "-e", "error.log"]) as process:
        try:
            until(lambda: _listens(port), process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _configuration(folder: Path, port: int, ports: Sequence[int]) -> str:
    """What the documentation gives, with these ports in the place of its own, and without TLS."""
    lines = []
    for line in DOCUMENTED.read_text().splitlines():
        match line.split():
            case ["server", "127.0.0.1:8000", *_]:
                lines += [line.replace(":8000", f":{own}") for own in ports]
            case ["listen", *_]:
                lines += [f"    listen 127.0.0.1:{port};", "    add_header x-server $upstream_addr always;"]
            case [name, *_] if name.startswith("ssl_"):
                pass
            case _:
                lines.append(line)
    paths = " ".join(f"{name}_temp_path {folder}/{name};" for name in PATHS)
    return AROUND.format(folder=folder, paths=paths, documented="\n    ".join(lines))


def _listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0
