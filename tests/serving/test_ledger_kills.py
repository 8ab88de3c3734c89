"""Several servers at once, and servers that are killed: what is counted is never less than what was answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stealguard.serving.ledger import LEASE, open_keys

CLIENTS, ROWS = 16, 3
LOST = LEASE + CLIENTS * ROWS  # rows at most: the lease, and the requests under way


def started(where: str, *arguments: int) -> subprocess.Popen[bytes]:
    program = [sys.executable, str(Path(__file__).parent / "reserving.py"), where, *map(str, arguments)]
    return subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def let_go(*servers: subprocess.Popen[bytes]) -> None:
    """Have the servers begin together, when all of them have opened the ledger."""
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
    for server in servers:
        assert server.stdin is not None
        server.stdin.write(b"\n")
        server.stdin.flush()


def total(answers: bytes) -> int:
    """The sum of the whole lines: a line that the kill cut in two was answered to nobody, and is counted at most."""
    return sum(int(line) for line in answers.split(b"\n")[:-1])


def killed(server: subprocess.Popen[bytes], lines: int) -> int:
    """Rows that a server answered until it was killed, after it printed so many lines."""
    assert server.stdout is not None
    with server:
        seen = server.stdout.read(2 * lines)
        server.kill()
        return total(seen + server.stdout.read())


def ended(server: subprocess.Popen[bytes]) -> int:
    """Rows that a server answered until the budget was spent."""
    answers, _ = server.communicate(timeout=300)
    assert server.returncode == 0
    return total(answers)


def counted(where: str) -> int:
    keys = open_keys(where)
    n = keys.usage().get("ann", {}).get("0" * 64, 0)
    keys.close()
    return n


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", pytest.param("redis", marks=pytest.mark.thorough)])
def test_a_server_that_is_killed_ten_times_has_answered_nothing_uncounted(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = str(tmp_path / "l.sqlite") if store == "sqlite" else request.getfixturevalue("redis_address")
    for kill in range(10):
        before = counted(where)
        let_go(server := started(where, CLIENTS, ROWS))
        answered = killed(server, 1 + 701 * kill)  # each time somewhere else
        assert answered >= 700 * kill
        assert answered <= counted(where) - before <= answered + LOST


@pytest.mark.slow
def test_a_budget_is_exact_through_kills(tmp_path: Path) -> None:
    where, budget, answered = str(tmp_path / "l.sqlite"), 20_000, 0
    for lines in (500, 2000, 3000, None):
        let_go(server := started(where, CLIENTS, ROWS, budget))
        answered += ended(server) if lines is None else killed(server, lines)
    assert budget - 3 * LOST <= answered <= budget == counted(where)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1000, pytest.param(20_000, marks=pytest.mark.thorough)])
def test_three_servers_answer_exactly_the_budget(redis_address: str, budget: int) -> None:
    servers = [started(redis_address, clients, 1, budget) for clients in (21, 21, 22)]
    let_go(*servers)
    assert sum(map(ended, servers)) == counted(redis_address) == budget


@pytest.mark.slow
def test_servers_that_are_killed_beside_others_overspend_nothing(redis_address: str) -> None:
    budget = 20_000
    servers = [started(redis_address, CLIENTS, ROWS, budget) for _ in range(3)]
    let_go(*servers)
    answered = killed(servers[0], 300) + killed(servers[1], 600) + ended(servers[2])
    assert budget - 2 * LOST <= answered <= budget == counted(redis_address)
