"""What an engine is: it takes pieces of work by key, does them elsewhere, and tells what has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

Work = Callable[..., str]
"""What is done: a function that returns "" when it ends well, else the reason. It may run twice on the same arguments,
so engines may try again what was lost with its process."""

PATIENCE = 0.5  # seconds between looks at what has ended
MANY = 1_000  # pieces of work handed to a cluster at once


class Wanted(NamedTuple):
    """What a user asks of an engine: pieces of work at once, threads and GPUs of each, and the cluster's address."""

    workers: int | None = None
    threads: int | None = None
    gpus: int | None = None
    address: str | None = None


class Ended(NamedTuple):
    """Work that has ended: its key, why it failed or "", and whether it was lost with its process."""

    key: str
    reason: str = ""
    lost: bool = False


class Engine(Protocol):
    """Takes work by key, at most `workers` pieces at once with `threads` each, and tells what has ended."""

    workers: int
    threads: int

    def start(self, key: str, /, *arguments: Any) -> None: ...

    def ended(self) -> Iterator[Ended]:
        """What has ended since the last call, after a wait of half a second at the most."""
        ...

    def close(self) -> None:
        """Stop, with whatever is still running."""
        ...
