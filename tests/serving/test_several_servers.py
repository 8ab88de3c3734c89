"""Three servers on one Redis behind nginx: one budget, one memory, and one server that is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import stealguard as sg
from exported import written
from nginx_server import nginx
from redis_server import redis_server
from samples import noise
from server_process import Clients, ServerProcess, add_key, answers_of, ask, client, counted
from stealguard.errors import Refused
from stealguard.serving.ledger import LEASE
from waiting import until

pytestmark = pytest.mark.thorough

ROWS = [1 + i % 3 for i in range(24)]  # of a request, by client


class Several(NamedTuple):
    """Three servers of the models `plain` and `robust`, the address of nginx before them, and their ledger."""

    servers: list[ServerProcess]
    url: str
    ledger: str


@pytest.fixture(scope="module")
def several(robust_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    home = tmp_path_factory.mktemp("several")
    plain = written(home / "plain", sharpness=2.0)
    (home / "nginx").mkdir()
    with ExitStack() as stack:
        ledger = stack.enter_context(redis_server(home))
        releases = [plain.folder, robust_folder]
        servers = [
            ServerProcess(home / f"{i}", *releases, "--net", "samples:mlp", "--ledger", ledger) for i in range(3)
        ]
        for server in servers:
            stack.callback(server.kill)
        url = stack.enter_context(nginx(home / "nginx", [server.port for server in servers]))
        yield Several(servers, url, ledger)


def test_suspicion_grows_over_all_servers(several: Several, robust: sg.Release) -> None:
    box, seen, answered = robust.connect("eve"), set(), 0
    with client(several.url, add_key(several.ledger, "eve")) as eve:
        for x in noise(400, (16,), seed=8).split(1):
            reply = ask(eve, robust.folder.name, x.numpy())
            seen.add(reply.headers["x-server"])
            if reply.status_code == 403:
                break
            torch.testing.assert_close(torch.from_numpy(answers_of(reply)), box(x), rtol=0, atol=1e-5)
            answered += 1
    with pytest.raises(Refused) as refused:
        box(x)
    assert reply.json()["left"] == refused.value.left
    assert len(seen) == 3
    assert answered >= 3


def test_a_budget_is_exact_over_three_servers(several: Several) -> None:
    token = add_key(several.ledger, "ann", budget=1_000)
    assert Clients([several.url], token, "plain", ROWS).ended() == counted(several.ledger, "ann") == 1_000


def test_a_server_that_is_killed_overspends_nothing_and_loses_its_lease_at_most(several: Several) -> None:
    # Near the end of a budget no server counts ahead. The second account's is far from it when the server is killed.
    few, many = ROWS, [40 + i for i in range(24)]
    bob, cat = (
        Clients([several.url], add_key(several.ledger, name, budget=budget), "plain", rows)
        for name, budget, rows in (("bob", 1_000, few), ("cat", 40_000, many))
    )
    until(lambda: bob.answered >= 300 and cat.answered >= 3_000)
    several.servers[0].kill()
    for account, clients, budget, lost in (("bob", bob, 1_000, sum(few)), ("cat", cat, 40_000, LEASE + sum(many))):
        answered = clients.ended()
        print(f"lost to {account}: {budget - answered} inputs of {budget}")
        assert budget - lost <= answered <= budget == counted(several.ledger, account)
