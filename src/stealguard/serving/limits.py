"""What a client may send to a server, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass, fields

from stealguard.errors import require


@dataclass(frozen=True)
class Limits:
    """Limits of one server; all are above 0.

    Attributes:
        body_bytes: of a request, as received and again after decompression.
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

    body_bytes: int = 64 * 2**20
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
            require(0 < value < float("inf"), field.name, "a finite number above 0", value)
