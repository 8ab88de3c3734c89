"""The same application in two replicas under Ray Serve."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exported import written
from grids import environment
from redis_server import free_port
from server_process import Clients, add_key, counted
from stealguard.errors import Invalid
from stealguard.serving.config import Config
from stealguard.serving.ray import deployment
from waiting import CAP, until

REPLICA = b"ray::ServeReplica:default:stealguard"
ROWS = [1 + i % 3 for i in range(16)]


def descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        except OSError:  # it has ended
            continue
    return found


def replicas_of(pid: int) -> list[int]:
    """The processes of a program's replicas."""
    return [own for own in descendants(pid) if REPLICA in Path(f"/proc/{own}/cmdline").read_bytes()]


@contextmanager
def ray_serve(release: Path, ledger: str, messages: Path) -> Iterator[tuple[int, str]]:
    """A program that serves a release in two replicas, and their address."""
    process, port = until(lambda: _started(release, ledger, messages))
    with process:
        try:
            yield process.pid, f"http://127.0.0.1:{port}"
            process.communicate(timeout=CAP)
        finally:
            process.kill()


def _started(release: Path, ledger: str, messages: Path) -> tuple[subprocess.Popen[bytes], int] | None:
    """The program and its port; None where Ray itself ended while it started, as happens on busy machines."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).parent / "on_ray.py"), str(release), ledger, str(port)]
    around = {**environment(), "RAY_USAGE_STATS_ENABLED": "0"}
    with messages.open("w") as file:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=around)
    assert process.stdout is not None
    assert process.stdin is not None
    answers, _, _ = select.select([process.stdout], [], [], CAP)
    if answers and process.stdout.readline() == b"ready\n":
        return process, port
    if not answers:
        process.kill()
    process.stdin.close()
    process.stdout.close()
    process.wait()
    said = messages.read_text()
    assert "Traceback" not in said or "timed out during startup" in said, said
    return None


def test_replicas_do_not_share_a_file() -> None:
    with pytest.raises(Invalid, match=r"`ledger` should be in Redis"):
        deployment(Config(ledger="ledger.sqlite"))


@pytest.mark.long
@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the replicas' processes by /proc")
def test_budgets_are_exact_over_two_replicas_of_which_one_is_killed(redis_address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray.serve")
    release = written(tmp_path / "plain", sharpness=2.0).folder
    with ray_serve(release, redis_address, tmp_path / "messages") as (pid, url):
        before = replicas_of(pid)
        assert len(before) == 2
        token = add_key(redis_address, "ann", budget=1_000)
        assert Clients([url], token, "plain", ROWS).ended() == counted(redis_address, "ann") == 1_000
        clients = Clients([url], add_key(redis_address, "bob", budget=1_000), "plain", ROWS)
        until(lambda: clients.answered >= 300)
        os.kill(before[0], signal.SIGKILL)
        answered = clients.ended()
        print(f"lost: {1_000 - answered} inputs of 1000")
        assert 1_000 - sum(ROWS) <= answered <= 1_000 == counted(redis_address, "bob")
        after = until(lambda: len(found := replicas_of(pid)) == 2 and found)
        assert before[0] not in after
        last = Clients([url], add_key(redis_address, "cat", budget=100), "plain", ROWS[:4])
        assert last.ended() == counted(redis_address, "cat") == 100
