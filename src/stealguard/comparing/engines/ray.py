"""A Ray cluster. Ray is imported by those who ask for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from stealguard.comparing.engines.base import MANY, PATIENCE, Ended, Wanted, Work
from stealguard.errors import StealguardError, one_line, require


class Ray:
    """A Ray cluster: the one at `address` (`auto`, or HOST:PORT), else one of this machine alone, for this run.

    Its nodes need stealguard and the same folders. Ray itself tries again, elsewhere, what was lost with a node.
    """

    def __init__(self, work: Work, home: Path, wanted: Wanted):
        try:
            import ray
        except ImportError as e:
            raise StealguardError(f"The engine `ray` needs Ray: pip install 'stealguard[ray]' ({e}).") from e
        self.workers, self.threads = wanted.workers or MANY, wanted.threads or 1
        self._ray, self._joined = ray, ray.is_initialized()
        if not self._joined:
            try:
                ray.init(wanted.address or "local", log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as e:
                raise StealguardError(f"The Ray cluster `{wanted.address}` cannot be joined: {one_line(e)}.") from e
        try:
            self._check(self.threads, wanted.gpus or 0)
        except StealguardError:
            self._leave()
            raise
        fresh = {"env_vars": {"STEALGUARD_RUN": uuid4().hex}}  # processes of its own: others have imported older code
        remote = ray.remote(num_cpus=self.threads, num_gpus=wanted.gpus or 0, max_retries=3, runtime_env=fresh)
        self._task = remote(work)
        self._running: dict[Any, str] = {}

    def _check(self, threads: int, gpus: int) -> None:
        """Ray waits for ever for what no node has."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for name, kind, number in (("threads", "CPU", threads), ("gpus", "GPU", gpus)):
            most = max((int(node.get(kind, 0)) for node in nodes), default=0)
            require(number <= most, name, f"at most {most}, what a node of the Ray cluster has", number)

    def start(self, key: str, /, *arguments: Any) -> None:
        self._running[self._task.remote(*arguments)] = key

    def ended(self) -> Iterator[Ended]:
        for reference in self._ray.wait(list(self._running), timeout=PATIENCE)[0]:
            key = self._running.pop(reference)
            try:
                yield Ended(key, self._ray.get(reference))
            except self._ray.exceptions.RayError as e:
                yield Ended(key, one_line(e))

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._leave()

    def _leave(self) -> None:
        if not self._joined:
            self._ray.shutdown()
