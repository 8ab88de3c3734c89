"""HTTP/1.1 for a server on the open network: deadlines, caps, JSON errors for broken requests, and a bounded end."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from stealguard.errors import StealguardError
from stealguard.serving.app import Application, Message
from stealguard.serving.limits import Limits

Headers = Sequence[tuple[bytes, bytes]]

_log = logging.getLogger("stealguard.serving")
_LINGER = 2.0  # seconds for a client to read the last response, while what it still sends is thrown away
_BACKLOG = 2_048
_DUE = 100  # requests of a connection that wait for their responses, at most
_SMALL = 512  # bytes below which parts of a body are joined as they arrive, since each part takes memory of its own


class _Open:
    """What is open at a server.

    Attributes:
        peers: how many connections each address has.
        bytes: of the bodies that have arrived for requests that the application has not ended yet.
    """

    def __init__(self) -> None:
        self.peers = Counter[str]()
        self.bytes = 0


class _Exchange:
    """A request and its response, as ASGI gives them to the application, the response's body in one message.

    Args:
        connection: that it came on.
        scope: of ASGI.
        keep_alive: whether the connection outlives the response.
        asks: whether the client waits for leave to send the body.

    Attributes:
        begun: whether the application has it.
        received: whether it has arrived to its end.
        size: bytes of its body so far.
    """

    def __init__(self, connection: _Connection, scope: dict[str, Any], keep_alive: bool, asks: bool):
        self.scope, self.keep_alive = scope, keep_alive
        self.begun, self.received, self.size = False, False, 0
        self._connection, self._asks = connection, asks
        self._parts: list[bytes | bytearray] = []
        self._ready, self._over = False, False  # for the application to read; nothing further is received or sent
        self._woken: asyncio.Future[None] | None = None
        self._started: Message = {}

    async def run(self, app: Callable[..., Any]) -> None:
        """Have it answered."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            _log.exception("A request failed.")
        finally:
            self._connection.release(self.size)
            if not self._over:
                self._connection.abort()

    def add(self, part: bytes) -> None:
        """Take the next part of the body."""
        self.size += len(part)
        if len(part) >= _SMALL:
            self._parts.append(part)
        elif self._parts and isinstance(last := self._parts[-1], bytearray):
            last += part
        else:
            self._parts.append(bytearray(part))

    def end(self) -> None:
        """Tell the application that the client has gone, or has its response."""
        self._over = True
        self.wake()

    def wake(self) -> None:
        """Let the application read what there is of the body."""
        self._ready = True
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def receive(self) -> Message:
        """The whole body, or as much of it as is too long."""
        if self._asks and not self._over:
            self._asks = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._ready:
            self._woken = self._connection.loop.create_future()
            await self._woken
        if self._over:
            return {"type": "http.disconnect"}
        body, self._parts, self._ready = b"".join(self._parts), [], self.received
        return {"type": "http.request", "body": body, "more_body": not self.received}

    async def send(self, message: Message) -> None:
        """The response's beginning, which is kept until its body comes."""
        if message["type"] == "http.response.start":
            self._started = message
        elif not self._over:
            self.end()
            self._connection.respond(self, self._started["status"], self._started["headers"], message["body"])


class _Connection(asyncio.Protocol):
    """One connection, with a deadline for whatever comes next.

    Its requests are answered in their order, one at a time; nothing is read while more than one is due, and none is
    begun while the client does not take the last response. Of requests that came together at most 100 are answered. One
    timer looks at the deadline at least as often as the shortest limit, so that moving it costs an assignment.

    Args:
        limits: of the server.
        open_: what all its connections share.
        config: of uvicorn, as are the others.
    """

    def __init__(
        self, limits: Limits, open_: _Open,
        *, config: uvicorn.Config, server_state: ServerState, app_state: object = None, _loop: object = None,
    ):  # fmt: skip
        self._limits, self._open, self._state, self._app = limits, open_, server_state, config.loaded_app
        self.loop = asyncio.get_running_loop()
        self._parser = _parser(self)
        self._due = deque[_Exchange]()  # the first is being answered, and the last may still be arriving
        self._url = b""
        self._headers = list[tuple[bytes, bytes]]()
        self._header_bytes = 0  # since the message or the last part of its body, without those that came with it
        self._parsed_bytes = 0  # of its first line and headers, or of its trailers
        self._in_headers, self._in_message = False, False
        self._framing: Headers = ()  # the headers that tell how long the body of a request to upgrade is
        self._full = False  # the client does not take what is written
        self._deaf = False  # nothing further is parsed
        self._lingering = False
        self._deadline = self.loop.time() + limits.connect_seconds
        self._tick = min(
            _LINGER, limits.connect_seconds, limits.header_seconds, limits.body_seconds, limits.idle_seconds
        )

    # What the event loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._state.connections.add(self)  # type: ignore[arg-type]
        address = transport.get_extra_info("peername")
        self._peer = str(address[0]) if address else ""
        self._open.peers[self._peer] += 1
        self._timer = self.loop.call_later(self._tick, self._look)
        limits, peers = self._limits, self._open.peers[self._peer]
        if len(self._state.connections) > limits.connections or peers > limits.per_address:
            self._deaf = True
            self._write_error(503, "Too many connections.")
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._state.connections.discard(self)  # type: ignore[arg-type]
        self._open.peers[self._peer] -= 1
        if not self._open.peers[self._peer]:
            del self._open.peers[self._peer]
        while self._due:
            self._drop()
        del self._parser  # which refers to this connection, so that it would wait for the collector

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._header_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(400, "Invalid HTTP request received.")
        if self._in_message and max(self._header_bytes, self._parsed_bytes) > self._limits.header_bytes:
            self._refuse(431, "The headers are too long.")

    def pause_writing(self) -> None:
        self._full = True
        self._expect()

    def resume_writing(self) -> None:
        self._full = False
        self._expect()
        self._begin()

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._deaf:
            raise ValueError("Nothing further is parsed.")
        if self._in_message:  # with the body of a request to upgrade
            return
        self._url, self._headers, self._header_bytes, self._parsed_bytes = b"", [], 0, 0
        self._in_headers = self._in_message = True
        self._expect()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._parsed_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers, which follow a body, are counted and dropped: they must not pass for headers."""
        self._parsed_bytes += len(name) + len(value) + 4
        if self._in_headers:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if not self._in_headers:  # but before the body of a request to upgrade
            return
        if self._parsed_bytes > self._limits.header_bytes:
            self._refuse(431, "The headers are too long.")
            raise ValueError("The headers are too long.")  # ends the parsing
        self._in_headers = False
        self._header_bytes = self._parsed_bytes = 0
        if len(self._due) == _DUE:
            self._refuse(503, "Too many requests wait for their answers.")
            raise ValueError("Too many requests wait for their answers.")
        scope = {
            "type": "http",
            "method": self._parser.get_method().decode("ascii"),
            "path": _path(self._url),
            "headers": self._headers,
        }
        self._framing = ()
        if self._parser.should_upgrade():
            self._framing = [h for h in self._headers if h[0] in (b"content-length", b"transfer-encoding")]
        old = self._parser.get_http_version() == "1.0"
        keep_alive = not old and self._parser.should_keep_alive()
        asks = b"100-continue" in [value.lower() for name, value in self._headers if name == b"expect"]
        self._due.append(_Exchange(self, scope, keep_alive, asks and not old))
        self._expect()
        if len(self._due) > 1:
            self._transport.pause_reading()
        else:
            self._begin()

    def on_body(self, body: bytes) -> None:
        """The application is woken when the body is complete or too long, not for each part of it."""
        self._header_bytes = 0
        if self._deaf or not self._arriving():
            return
        exchange = self._due[-1]
        exchange.add(body)
        self._open.bytes += len(body)
        if self._open.bytes > self._limits.bodies_bytes:
            self._refuse(503, "Too many bytes wait for their answers.")
        elif exchange.size > self._limits.body_bytes:
            exchange.wake()

    def on_message_complete(self) -> None:
        if self._framing:  # the body is still to come
            return
        self._in_message = False
        if self._arriving():
            self._due[-1].received = True
            self._due[-1].wake()
        self._expect()

    # What exchanges and the server call

    def write(self, data: bytes) -> None:
        """Nothing is written to a client that has closed."""
        if not (self._lingering or self._transport.is_closing()):
            self._transport.write(data)

    def respond(self, exchange: _Exchange, status: int, headers: Headers, body: bytes) -> None:
        """Write the response of the exchange that is due, and go on with the next."""
        close = (b"connection", b"close")
        if close in headers:
            exchange.keep_alive = False
        elif not exchange.keep_alive:
            headers = [*headers, close]
        head = _lines((*self._state.default_headers, *headers))
        shown = b"" if exchange.scope["method"] == "HEAD" else body
        self.write(b"%b%b\r\n%b" % (STATUS_LINE[status], head, shown))
        self._due.popleft()
        if not exchange.keep_alive:
            self._finish()
        elif self._due:
            if len(self._due) == 1:
                self._transport.resume_reading()
            self._begin()
        self._expect()

    def release(self, size: int) -> None:
        """Count that many bytes of bodies no longer."""
        self._open.bytes -= size

    def shutdown(self) -> None:
        """Close after the answers that are due."""
        if self._due:
            self._due[-1].keep_alive = False
        else:
            self._finish()

    def abort(self) -> None:
        """Close at once, whatever was not sent yet."""
        self._transport.abort()

    # Steps

    def _parse(self, data: bytes) -> None:
        """A request to upgrade is answered like any other.

        The parser stops after its headers, and would take its body for the next request: another one reads the body.
        """
        rest: bytes | memoryview = data
        while rest:
            try:
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as e:
                rest = memoryview(rest)[e.args[0] :]
                framing, self._framing = self._framing, ()
                if framing:
                    self._parser = _parser(self)
                    self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % _lines(framing))

    def _arriving(self) -> bool:
        """Whether the body of the last exchange that is due is still arriving."""
        return bool(self._due) and not self._due[-1].received

    def _begin(self) -> None:
        """Begin with the first exchange that is due, unless its response could not be written."""
        exchange = self._due[0] if self._due else None
        if exchange is None or exchange.begun or self._full:
            return
        exchange.begun = True
        task = self.loop.create_task(exchange.run(self._app))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _drop(self) -> None:
        """Forget the last exchange that is due, without a response."""
        exchange = self._due.pop()
        if not exchange.begun:  # else the application still has its body
            self.release(exchange.size)
        exchange.end()

    def _finish(self) -> None:
        """Close, but let the client read what was written: unread input would make the system reset the connection.

        Requests that came after the last response get none.
        """
        while self._due:
            self._drop()
        if not (self._in_message or self._deaf):
            self._transport.close()
        elif not (self._lingering or self._transport.is_closing()):
            self._deaf = self._lingering = True
            self._deadline = self.loop.time() + _LINGER
            self._transport.write_eof()
            self._transport.resume_reading()

    def _expect(self) -> None:
        """Set the deadline for what comes next."""
        limits = self._limits
        if self._full:
            seconds = limits.body_seconds
        elif len(self._due) > 1:  # nothing is read
            seconds = math.inf
        elif self._in_message:
            seconds = limits.header_seconds if self._in_headers else limits.body_seconds
        else:
            seconds = math.inf if self._due else limits.idle_seconds
        if not self._lingering:  # which is the last step
            self._deadline = self.loop.time() + seconds

    def _look(self) -> None:
        left = self._deadline - self.loop.time()
        if left <= 0:
            self._expire()
            left = self._tick
        self._timer = self.loop.call_later(min(left, self._tick), self._look)

    def _expire(self) -> None:
        if self._in_message and not (self._lingering or self._full):
            self._refuse(408, "The request took too long to arrive.")
        else:
            self.abort()

    def _refuse(self, status: int, text: str) -> None:
        """Answer what the application cannot answer, and close; requests that came before are still answered."""
        if self._deaf:
            return
        self._deaf = True
        if self._arriving():
            self._drop()
        if self._due:
            self._due[-1].keep_alive = False
        else:
            self._write_error(status, text)
            self._finish()

    def _write_error(self, status: int, text: str) -> None:
        body = orjson.dumps({"error": text})
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.write(STATUS_LINE[status] + head + body)


def _parser(connection: _Connection) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(connection)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


@lru_cache(64)
def _path(url: bytes) -> str:
    return unquote(httptools.parse_url(url).path.decode("ascii"))


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


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
