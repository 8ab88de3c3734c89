"""A small real service, a ledger in memory, and servers on the loopback address, for tests of the HTTP parts."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from stealguard.errors import Refused
from stealguard.serving.app import Application
from stealguard.serving.http import Server
from stealguard.serving.keys import Key, Restriction, new_key
from stealguard.serving.ledger.base import Event, Ledger, Spent, TooFast
from stealguard.serving.protocol import Query, Spec
from stealguard.serving.service import Answered

AnyLedger = TypeVar("AnyLedger", bound=Ledger)


def with_ledger(opened: Callable[[], AnyLedger], use: Callable[[AnyLedger], Awaitable[object]]) -> None:
    """Open a ledger in an event loop, use it as a server does, and close it."""

    async def run() -> None:
        ledger = opened()
        try:
            await use(ledger)
        finally:
            await ledger.close()

    asyncio.run(run())


class Linear:
    """A linear model with a softmax over 3 classes; one image of 1 x 4 x 4 is one input.

    `gate`, where it is given, holds answers back until it is set. Accounts named in `refused` get none.
    """

    def __init__(self, name: str = "linear", version: str = "1", rows: int = 64, seed: int = 0):
        self.spec = Spec(name, version, (1, 4, 4), 3, ("ant", "bee", "cat"), rows)
        self.weights = f"weights of {name}"
        self._matrix = np.random.default_rng(seed).normal(size=(16, 3)).astype(np.float32)
        self.gate: threading.Event | None = None
        self.refused: dict[str, int] = {}
        self.fails: Exception | None = None
        self.asked, self.closed = 0, False

    async def answer(self, account: str, query: Query, restriction: Restriction) -> Answered:
        self.asked += 1
        while self.gate is not None and not self.gate.is_set():
            await asyncio.sleep(0.005)
        if self.fails is not None:
            raise self.fails
        if account in self.refused:
            raise Refused("The guard refuses.", self.refused[account])
        return Answered(restriction(torch.from_numpy(self.expected(query.x))).numpy())

    def expected(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = np.exp(np.clip(x, -1, 1).reshape(len(x), 16) @ self._matrix / 4)
        return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)

    def close(self) -> None:
        self.closed = True


class MemoryLedger:
    """Budgets and keys in a dictionary."""

    keys: Any = None

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.known: dict[str, Key] = {}
        self.counted: Counter[tuple[str, str]] = Counter()
        self.events: list[Event] = []
        self.closed = False
        self.fast: float | None = None

    def add(self, account: str, restriction: Restriction | None = None, **settings: Any) -> str:
        key, token = new_key(account, restriction or Restriction(), **settings)
        self.known[key.id] = key
        return token

    async def key(self, key_id: str) -> Key | None:
        return self.known.get(key_id)

    async def reserve(self, key: Key, weights: str, n: int) -> None:
        if self.fast is not None:
            raise TooFast("The key asks too fast.", self.fast)
        left = await self.left(key, weights)
        if left is not None and n > left:
            raise Spent(f"The budget has {left} rows left.", left)
        self.counted[key.account, weights] += n

    def give_back(self, key: Key, weights: str, n: int) -> None:
        self.counted[key.account, weights] -= n

    async def left(self, key: Key, weights: str) -> int | None:
        return None if key.budget is None else key.budget - self.counted[key.account, weights]

    def record(self, event: Event) -> None:
        self.events.append(event)

    def states(self, release: str) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        self.closed = True


@contextmanager
def running(application: Application, **options: Any) -> Iterator[Server]:
    """The application behind a server in a thread of its own, which is stopped at the end."""
    started = threading.Event()
    server = Server(application, port=0, started=lambda server: started.set(), **options)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield server
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


def exchange(port: int, sent: bytes, *, end: bool = False, timeout: float = 30.0) -> bytes:
    """What the server sends until it closes the connection, after it got those bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(sent)
        if end:
            connection.shutdown(socket.SHUT_WR)
        return rest_of(connection)


def rest_of(connection: socket.socket) -> bytes:
    """All bytes until the other side closes."""
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def wait_until(true: Callable[[], bool], cap: float = 60.0) -> None:
    """Wait for a condition; it fails after `cap` seconds."""
    end = time.monotonic() + cap
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)
