"""A real server that is killed under load, again and again: what its ledger counts, and what it remembers afterwards.

Two kills; ten with STEALGUARD_ALL=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from torch import Tensor

import stealguard as sg
from exported import written
from samples import noise
from server_process import Clients, ServerProcess, add_key, answers_of, ask, client, counted, recorded
from stealguard.errors import Refused
from stealguard.serving.ledger.base import FIRST, LEASE
from stealguard.types import BlackBox
from waiting import until

KILLS = 10 if os.environ.get("STEALGUARD_ALL") else 2
ROWS = [1 + i % 4 for i in range(16)]  # of a request, by client
LOST = LEASE + sum(ROWS)  # rows at most by each kill: the lease, and the requests under way


@contextmanager
def served(home: Path, number: int, *arguments: object) -> Iterator[ServerProcess]:
    server = ServerProcess(home / f"messages-{number}", *arguments)
    try:
        yield server
    finally:
        server.kill()


def remembered(ledger: str, connection: httpx.Client, model: str) -> None:
    """Return once what accounts did before is in the ledger, which is written in turns: two later ones are seen."""
    for _ in range(2):
        before = recorded(ledger, "last")
        answers_of(ask(connection, model, np.zeros((1, 16), np.float32)))
        until(lambda before=before: recorded(ledger, "last") > before)


def answered(box: BlackBox, x: Tensor) -> Tensor | int:
    """What the box answers; where it refuses, how many inputs it still does."""
    try:
        return box(x)
    except Refused as refusal:
        return refusal.left


def same_answers(reply: httpx.Response, expected: Tensor | int) -> int:
    """The number of inputs that were answered, as they were expected to be."""
    if isinstance(expected, int):
        assert (reply.status_code, reply.json()["left"]) == (403, expected)
        return 0
    torch.testing.assert_close(torch.from_numpy(answers_of(reply)), expected, rtol=0, atol=1e-5)
    return len(expected)


@pytest.mark.thorough
def test_a_server_that_is_killed_under_load_has_counted_what_it_answered(robust: sg.Release, tmp_path: Path) -> None:
    plain, ledger = written(tmp_path / "plain", sharpness=2.0).folder, str(tmp_path / "ledger.sqlite")
    ann, eve, last = (add_key(ledger, name) for name in ("ann", "eve", "last"))
    arguments = plain, robust.folder, "--net", "samples:mlp", "--ledger", ledger
    box, questions = robust.connect("eve"), iter(noise(3 * KILLS, (16,), seed=8).split(3))
    total = kept = seen = 0
    for kill in range(KILLS):
        with served(tmp_path, kill, *arguments) as server:
            with client(server.url, eve) as suspect, client(server.url, last) as another:
                x = next(questions)  # what was asked before the last kill is remembered
                seen += same_answers(ask(suspect, robust.folder.name, x.numpy()), answered(box, x))
                remembered(ledger, another, "plain")
            before, history = counted(ledger, "ann"), recorded(ledger, "ann")
            assert history >= kept
            clients = Clients([server.url], ann, "plain", ROWS)
            until(lambda: clients.answered >= 100 + 97 * kill)  # noqa: B023
            kept = recorded(ledger, "ann")
            server.kill()
        clients.stop()
        now = clients.ended()
        total += now
        lost = counted(ledger, "ann") - before - now
        print(f"kill {kill + 1}: {now} inputs answered, {lost} more counted, {recorded(ledger, 'ann')} in the history")
        assert 0 <= lost <= min(LOST, max(FIRST, 2 * (now + sum(ROWS))) + sum(ROWS))
    assert kept <= recorded(ledger, "ann") <= counted(ledger, "ann")
    assert total <= counted(ledger, "ann") <= total + KILLS * LOST
    assert counted(ledger, "eve") >= seen > 0
