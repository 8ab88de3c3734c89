"""What a client may send to a server, and how long it may take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from math import prod

from stealguard.errors import require

MOST = 64 * 2**20  # bytes of a body, where nothing else is said
NUMBER = 25  # bytes of a number in JSON, at most: the longest that a float64 is written as, and a comma
ROOM = 2**16  # for what is around the numbers


@dataclass(frozen=True)
class Limits:
    """Limits of one server; all are above 0, but that of bodies may be 0 until the models are known.

    Attributes:
        body_bytes: of a request, as received and again after decompression; 0 for what `rows` inputs need as JSON, at
            most 64 MiB.
        bodies_bytes: of all requests that are not answered yet, as received.
        header_bytes: of a request, its first line included.
        rows: inputs in a request.
        batch_rows: inputs in a merged batch.
        queue_rows: inputs that may wait for their batch, over all accounts; those of one account may be as many as
            are still free, which is half of it where no other waits.
        connections: that are open at a time.
        per_address: connections of one peer address; raise it behind a proxy, whose address all clients share.
        connect_seconds: from the connection to the first byte of a request.
        header_seconds: from there to the end of the headers.
        body_seconds: from there to the end of the body; also for a client to take a response.
        idle_seconds: between two requests of a connection; above what a proxy in front keeps its connections.
        drain_seconds: for the answers to requests that came before the server was told to stop.
    """

    body_bytes: int = 0
    bodies_bytes: int = 512 * 2**20
    header_bytes: int = 16 * 2**10
    rows: int = 1024
    batch_rows: int = 256
    queue_rows: int = 16_384
    connections: int = 2_000
    per_address: int = 1_000
    connect_seconds: float = 10.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    drain_seconds: float = 20.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "body_bytes" or value != 0:
                require(0 < value < float("inf"), field.name, "a finite number above 0", value)

    def fitting(self, shapes: Iterable[tuple[int, ...]]) -> Limits:
        """These limits for models of inputs of these shapes.

        >>> Limits(rows=10).fitting([(1, 28, 28), (3,)]).body_bytes
        261536
        """
        needed = max(map(prod, shapes), default=0) * self.rows * NUMBER + ROOM
        return self if self.body_bytes else replace(self, body_bytes=min(MOST, needed))
