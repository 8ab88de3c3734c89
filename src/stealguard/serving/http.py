"""HTTP/1.1 for a server on the open network: deadlines, caps, JSON errors for broken requests, and a bounded end."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from stealguard.errors import StealguardError
from stealguard.serving.app import Application
from stealguard.serving.limits import Limits

_LINGER = 2.0  # seconds for a client to read the last response, while what it still sends is thrown away
_BACKLOG = 2_048


class _Transport:
    """A connection as uvicorn sees it; the protocol says how it closes."""

    def __init__(self, transport: asyncio.Transport, protocol: _Connection):
        self._write, self.get_extra_info = transport.write, transport.get_extra_info
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.close, self.is_closing = protocol.finish, protocol.is_closing

    def write(self, data: bytes) -> None:
        """Nothing is written to a client that has closed, of which uvicorn is told a moment later."""
        if not self.is_closing():
            self._write(data)


class _Open:
    """What is open at a server.

    Attributes:
        peers: how many connections each address has.
        bytes: of the bodies that are not answered yet.
    """

    def __init__(self) -> None:
        self.peers = Counter[str]()
        self.bytes = 0


class _Connection(HttpToolsProtocol):
    """One connection, with a deadline for whatever comes next.

    One timer looks at the deadline at least as often as the shortest limit, so that moving it costs an assignment.

    Args:
        limits: of the server.
        open_: what all its connections share.
    """

    def __init__(self, limits: Limits, open_: _Open, **uvicorns: Any):
        super().__init__(**uvicorns)
        self._limits, self._open, self._peers = limits, open_, open_.peers
        self._held = 0  # bytes of bodies that are not answered yet
        self._header_bytes = 0  # since the message began, without those that came together with its beginning
        self._in_headers, self._in_message = False, False
        self._deaf = False  # nothing further is parsed
        self._lingering = False
        self._deadline = math.inf
        self._tick = min(
            _LINGER, limits.connect_seconds, limits.header_seconds, limits.body_seconds, limits.idle_seconds
        )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection = transport
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        self._peer = self.client[0] if self.client else ""
        self._peers[self._peer] += 1
        self._expect(self._limits.connect_seconds)
        self._timer = self.loop.call_later(self._tick, self._look)
        if len(self.connections) > self._limits.connections or self._peers[self._peer] > self._limits.per_address:
            self._deaf = True
            self._write_error(503, "Too many connections.")
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._peers[self._peer] -= 1
        if not self._peers[self._peer]:
            del self._peers[self._peer]
        self._in_message = self._deaf = False
        self._hold(-self._held)
        super().connection_lost(exc)

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._lingering or self._connection.is_closing()

    def finish(self) -> None:
        """Close, but let the client read what was written: unread input would make the system reset the connection."""
        if not (self._in_message or self._deaf):
            self._connection.close()
        elif not self.is_closing():
            self._expect(_LINGER)
            self._lingering = True
            self._connection.write_eof()
            self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._deaf or self._lingering:
            return
        self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > self._limits.header_bytes:
            self._refuse(431, "The headers are too long.")

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when it cannot parse a request."""
        self._refuse(400, msg)

    def on_message_begin(self) -> None:
        self._header_bytes, self._in_headers, self._in_message = 0, True, True
        self._expect(self._limits.header_seconds)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self._limits.header_bytes:
            self._refuse(431, "The headers are too long.")
            raise ValueError("The headers are too long.")  # ends the parsing
        self._expect(self._limits.body_seconds)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """The application is woken when the body is complete or too long, not for each part of it."""
        if self._deaf or self.cycle.response_complete:
            return
        self._hold(len(body))
        if self._open.bytes > self._limits.bodies_bytes:
            self._refuse(503, "Too many bytes wait for their answers.")
            return
        self.cycle.body += body
        if len(self.cycle.body) > self._limits.body_bytes:
            self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._in_message = False
        self._expect(self._limits.idle_seconds if self.cycle.response_complete else math.inf)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._hold(-self._held)
        super().on_response_complete()
        if self._in_message:  # that of the next request
            self._expect(self._limits.header_seconds)
        else:
            self._expect(self._limits.idle_seconds if self.cycle.response_complete else math.inf)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect(self._limits.body_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._expect(self._limits.idle_seconds if self.cycle.response_complete else math.inf)

    def abort(self) -> None:
        """Close at once, whatever was not sent yet."""
        self._connection.abort()

    def _hold(self, size: int) -> None:
        self._held += size
        self._open.bytes += size

    def _expect(self, seconds: float) -> None:
        """The next step is due within so many seconds."""
        if not self._lingering:  # which is the last one
            self._deadline = self.loop.time() + seconds

    def _look(self) -> None:
        left = self._deadline - self.loop.time()
        if left <= 0:
            self._expire()
            left = self._tick
        self._timer = self.loop.call_later(min(left, self._tick), self._look)

    def _expire(self) -> None:
        if self._in_message and not (self._lingering or self.flow.write_paused):
            self._refuse(408, "The request took too long to arrive.")
        else:
            self.abort()

    def _refuse(self, status: int, text: str) -> None:
        """Answer what the application cannot answer, and close; requests that came before are still answered."""
        if self._deaf or self.is_closing():
            return
        self._deaf = True
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._write_error(status, text)
            self.finish()
        elif self.pipeline or (cycle.more_body and cycle.response_started):
            self.abort()
        elif cycle.more_body:
            cycle.disconnected = True
            cycle.message_event.set()
            self._write_error(status, text)
            self.finish()
        else:
            cycle.keep_alive = False  # an earlier request's answer is due, and is the last

    def _write_error(self, status: int, text: str) -> None:
        body = orjson.dumps({"error": text})
        self._connection.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )


class Server(uvicorn.Server):
    """A server that listens as soon as it is made.

    Args:
        application: to serve.
        host: the address to listen on.
        port: to listen on; 0 for any that is free.
        metrics: what answers on the metrics port, an ASGI application.
        metrics_port: on the loopback address; 0 for any that is free.
        started: called once requests are answered.

    Raises:
        StealguardError: an address cannot be listened on; names it.
    """

    def __init__(
        self,
        application: Application,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        metrics: Callable[..., Any] | None = None,
        metrics_port: int = 0,
        started: Callable[[Server], None] | None = None,
    ):
        self._application, self._metrics, self._started = application, metrics, started
        self._socket = _listening(host, port)
        self._metrics_socket = _listening("127.0.0.1", metrics_port) if metrics else None
        super().__init__(_config(application, application.limits, "on"))

    @property
    def port(self) -> int:
        """That the server listens on."""
        return self._socket.getsockname()[1]

    @property
    def metrics_port(self) -> int | None:
        """That the metrics are on."""
        return self._metrics_socket.getsockname()[1] if self._metrics_socket else None

    def stop(self) -> None:
        """Begin to drain, as after SIGTERM; from any thread."""
        self.should_exit = True

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """`serve`, and tell of the last requests, which nobody does where a second SIGINT ends the server at once."""
        try:
            super().run(sockets)
        finally:
            self._application.tell()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until SIGTERM, SIGINT or `stop`."""
        await super().serve([self._socket])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._metrics_socket:
            config = _config(self._metrics, self._application.limits, "off")
            config.load()
            state: dict[str, Any] = {"config": config, "server_state": self.server_state, "app_state": {}}
            make = partial(_Connection, self._application.limits, _Open(), **state)
            self.servers.append(await asyncio.get_running_loop().create_server(make, sock=self._metrics_socket))
        if self._started:
            self._started(self)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """First say that the server is not ready, then give the answers that are due, then close; within a bound."""
        self._application.drain()
        end = time.monotonic() + self._application.limits.drain_seconds
        due = set(self.server_state.tasks)
        while due and time.monotonic() < end and not self.force_exit:
            _, due = await asyncio.wait(due, timeout=0.05)
        self.config.timeout_graceful_shutdown = max(0.1, end - time.monotonic())  # type: ignore[assignment]
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.abort()  # type: ignore[union-attr]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        """As uvicorn does, but without raising the signal again: the program goes on after a clean end."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def _config(app: Any, limits: Limits, lifespan: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=partial(_Connection, limits, _Open()),  # type: ignore[arg-type]
        ws="none",
        lifespan=lifespan,
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]
    )


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as e:
        raise StealguardError(f"The server cannot listen on {host}, port {port} ({e.strerror or e}).") from e
