"""Real server processes and their clients, for tests of several servers and of servers that are killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from grids import environment
from stealguard.serving import new_key, open_keys
from waiting import CAP, until

GONE = (502, 503, 504)  # from a proxy whose server has gone
GONE_FROM_RAY = "Internal Server Error"


class ServerProcess:
    """`stealguard serve` with these arguments, on a free port. It starts at once, and `port` waits until it answers."""

    def __init__(self, messages: Path, *arguments: object):
        command = [sys.executable, "-m", "stealguard", "serve", *map(str, arguments), "--port", "0"]
        self._messages = messages
        with messages.open("wb") as file:
            self.process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=file)

    @property
    def port(self) -> int:
        try:
            return int(until(lambda: re.search(r"ready: http://\S+:(\d+)/v2", self.messages), self.process)[1])
        except AssertionError as e:
            raise AssertionError(f"{e}: {self.messages}") from None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def messages(self) -> str:
        return self._messages.read_text()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """The exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=CAP)


def add_key(ledger: str, account: str, **terms: Any) -> str:
    """The token of a new key of that account."""
    key, token = new_key(account, **terms)
    keys = open_keys(ledger)
    keys.add_key(key)
    keys.close()
    return token


def counted(ledger: str, account: str) -> int:
    """The rows that the ledger has counted against the account, of all nets."""
    keys = open_keys(ledger)
    found = sum(keys.usage().get(account, {}).values())
    keys.close()
    return found


def recorded(ledger: str, account: str) -> int:
    """The rows that the history has as answered."""
    keys = open_keys(ledger)
    found = sum(event.rows for event in keys.history(account) if event.outcome == "answered")
    keys.close()
    return found


def client(url: str, token: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=CAP, trust_env=False)


def ask(client: httpx.Client, model: str, x: NDArray[np.float32]) -> httpx.Response:
    tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})


def answers_of(reply: httpx.Response) -> NDArray[np.float32]:
    assert reply.status_code == 200, reply.text
    (output,) = reply.json()["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


class Clients:
    """Clients that ask for rows again and again, as one account, until its budget is spent or `stop` is called.

    Args:
        urls: of the servers; the clients ask these in turns.
        rows: of a request, by client.
    """

    def __init__(self, urls: Iterable[str], token: str, model: str, rows: Iterable[int]):
        self.answered = 0
        self._lock, self._stopped, self._errors = threading.Lock(), threading.Event(), list[BaseException]()
        urls = list(urls)
        self._threads = [
            threading.Thread(target=self._run, args=(urls[i % len(urls)], token, model, n)) for i, n in enumerate(rows)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask nothing more, although the budget is not spent."""
        self._stopped.set()

    def ended(self) -> int:
        """The rows that were answered in all, once every client has ended."""
        for thread in self._threads:
            thread.join(CAP)
            assert not thread.is_alive()
        assert not self._errors, self._errors
        return self.answered

    def _run(self, url: str, token: str, model: str, rows: int) -> None:
        try:
            with client(url, token) as connection:
                self._spend(connection, model, rows)
        except BaseException as e:
            self._errors.append(e)

    def _spend(self, connection: httpx.Client, model: str, n: int) -> None:
        while n and not self._stopped.is_set():
            try:
                reply = ask(connection, model, np.full((n, 16), 0.5, np.float32))
            except httpx.TransportError:  # the server was killed
                time.sleep(0.01)
                continue
            if reply.status_code == 200:
                assert len(answers_of(reply)) == n
                with self._lock:
                    self.answered += n
            elif reply.status_code == 429:
                n = min(n, reply.json()["left"])
            else:
                assert reply.status_code in GONE or reply.text == GONE_FROM_RAY, reply.text
