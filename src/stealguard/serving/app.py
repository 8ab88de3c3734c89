"""The server as an ASGI application: routes, keys, status codes. Its one entry refuses whatever has no key."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from stealguard import __version__
from stealguard.errors import BudgetExhausted, Invalid, Refused, StealguardError, one_line
from stealguard.serving import openapi, protocol
from stealguard.serving.batching import Overloaded
from stealguard.serving.keys import Key, Restriction, key_id, matches
from stealguard.serving.ledger.base import KNOWN_KEYS, Event, Ledger, LedgerUnavailable, Outcome, TooFast
from stealguard.serving.limits import Limits
from stealguard.serving.protocol import BadRequest, Query, Spec
from stealguard.serving.service import Answered

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = logging.getLogger("stealguard.serving")
_OPEN = Key(id="", account="open", sha256="", restriction=Restriction(), budget=None, rate=None)
_WINDOWS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}  # of zlib, by the content's encoding
_WORTH_COMPRESSING = 1_024  # bytes
_TELLING = 0.1  # seconds in which the lines of the log are gathered


class Answering(Protocol):
    """What the application needs of a served release."""

    spec: Spec
    weights: str

    async def answer(self, account: str, query: Query, restriction: Restriction) -> Answered:
        """The account's answers to a query."""
        ...

    def close(self) -> None:
        """Take no further requests."""
        ...


class LogLine(NamedTuple):
    """What is told of a request after its end: a line of the log. Never inputs, never keys.

    Attributes:
        time: when it came, seconds since 1970.
        account: that asked; empty where the key was wrong or none was needed.
        model: that was asked, or empty.
        rows: how many inputs it held, if they could be read.
        status: of HTTP; 499 if the client had gone.
        seconds: from the end of its headers to the response.
    """

    time: float
    account: str
    model: str
    rows: int
    status: int
    seconds: float


Observer = Callable[[Sequence[LogLine]], None]


class Reply(NamedTuple):
    """A response."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {"content-type": "application/json"}

    @classmethod
    def of(cls, value: object, status: int = 200, **headers: str) -> Reply:
        """A value as JSON; underscores in the names of headers become hyphens."""
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, orjson.dumps(value), {"content-type": "application/json", **names})


class Failure(StealguardError):
    """Ends a request with that status; the message goes to the client."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, headers


class _Gone(Exception):
    """The client has closed the connection before its request was complete."""


@dataclass(slots=True)
class Request:
    """A request as handlers see it.

    Attributes:
        method: of HTTP.
        path: decoded.
        headers: by lower-case name; the last of several of the same name.
        key: that it came with; one without limits where the server is open.
    """

    method: str
    path: str
    headers: dict[bytes, bytes]
    key: Key
    _receive: Receive
    _read: bool = False
    model: str = field(default="", init=False)
    rows: int = field(default=0, init=False)

    @property
    def showing(self) -> bytes:
        """The headers that `token` is in."""
        headers = self.headers
        return b"%b\n%b" % (headers.get(b"authorization", b""), headers.get(b"x-api-key", b""))

    @property
    def token(self) -> str:
        """What the request shows as its key, or the empty string."""
        scheme, _, token = self.headers.get(b"authorization", b"").partition(b" ")
        shown = token if scheme.lower() == b"bearer" else self.headers.get(b"x-api-key", b"")
        return shown.strip().decode("latin-1")

    @property
    def unread(self) -> bool:
        """Whether there is a body that was not read."""
        length = self.headers.get(b"content-length", b"0")
        return not self._read and (length != b"0" or b"transfer-encoding" in self.headers)

    async def body(self, limit: int) -> bytes:
        """The body, decompressed; at most `limit` bytes, compressed or not.

        Raises:
            BadRequest: it is longer (413), or not compressed as its headers say.
        """
        _check_length(int(self.headers.get(b"content-length", b"0")), limit)
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise _Gone
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            _check_length(size, limit)
        self._read = True
        return _decompressed(b"".join(parts), self.headers.get(b"content-encoding", b""), limit)


Handler = Callable[[Request], Awaitable[Reply]]


class Route(NamedTuple):
    """What answers a method of a path.

    Attributes:
        method: of HTTP.
        path: as it is after decoding, exactly.
        handler: answers it.
        model: that it tells of; a key that may not ask that model gets 404. Empty for no model.
        public: whether it needs no key.
    """

    method: str
    path: str
    handler: Handler
    model: str = ""
    public: bool = False


class Application:
    """Served releases, behind keys, as an ASGI application.

    Args:
        services: by name and version.
        ledger: of keys and budgets; None if requests need no key, and nothing is counted.
        limits: of a request.
        routes: further ones, a page for example.
        observers: called with the `LogLine`s of the requests that have ended, but those for health, within a tenth of a
            second.
        keep_hashes: whether the history keeps the SHA-256 of each input.
    """

    def __init__(
        self,
        services: Mapping[tuple[str, str], Answering],
        ledger: Ledger | None,
        limits: Limits | None = None,
        *,
        routes: Iterable[Route] = (),
        observers: Sequence[Observer] = (),
        keep_hashes: bool = False,
    ):
        self.ready = True
        self.limits = (limits or Limits()).fitting(service.spec.shape for service in services.values())
        self._services, self._ledger, self._observers = services, ledger, observers
        self._keep_hashes = keep_hashes
        self._shown: dict[bytes, Key] = {}  # the keys of headers that were checked, by their SHA-256
        self._ended = list[LogLine]()  # requests that the observers are not told of yet
        self._loop: asyncio.AbstractEventLoop | None = None  # in which they will be
        self.routes = [*self._own_routes(), *routes]
        self._table: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            self._table.setdefault(route.path, {})[route.method] = route

    def drain(self) -> None:
        """Say that the server is not ready, and begin no further answers; those that are due are still given."""
        self.ready = False

    async def close(self) -> None:
        """Close the services and the ledger."""
        self.tell()
        for service in self._services.values():
            service.close()
        if self._ledger is not None:
            await self._ledger.close()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI calls it."""
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        began, started = time.time(), time.perf_counter()
        request = Request(scope["method"], scope["path"], dict(scope["headers"]), _OPEN, receive)
        try:
            reply = await self._reply(request)
        except _Gone:
            reply = Reply(499)
        except (Exception, asyncio.CancelledError) as e:
            reply = _failed(e)
        try:
            if reply.status != 499:
                await _send(reply, request, send)
        finally:
            if not request.path.startswith("/v2/health/"):
                account = "" if request.key is _OPEN else request.key.account
                seconds = time.perf_counter() - started
                self._end(LogLine(began, account, request.model, request.rows, reply.status, seconds))
        return None

    def _end(self, entry: LogLine) -> None:
        """Tell the observers of a request, together with those that end in the next moments."""
        loop = asyncio.get_running_loop()
        if not self._ended or loop is not self._loop:  # which may have been closed before it told
            self._loop = loop
            loop.call_later(_TELLING, self.tell)
        self._ended.append(entry)

    def tell(self) -> None:
        """Tell the observers of what has ended; that one of them fails is no reason not to answer."""
        entries, self._ended = self._ended, []
        for observe in self._observers if entries else ():
            try:
                observe(entries)
            except Exception as e:
                _log.error("What is told of requests could not be written: %s", one_line(e))

    async def _reply(self, request: Request) -> Reply:
        """The one way to every handler: the key comes first, and whatever is not public needs one."""
        methods = self._table.get(request.path, {})
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is not None and route.public:
            return await route.handler(request)
        if self._ledger is not None:
            request.key = await self._key(request, self._ledger)
        model = next(iter(methods.values())).model if methods else ""
        if not methods or (model and not request.key.allows(model)):
            raise Failure(404, "There is nothing at this path, or not for this key.")
        request.model = model
        if route is None:
            raise Failure(405, f"This path takes {', '.join(methods)}.", allow=", ".join(methods))
        return await route.handler(request)

    async def _key(self, request: Request, ledger: Ledger) -> Key:
        """The key in force that the request shows."""
        headers = hashlib.sha256(request.showing).digest()
        known = self._shown.get(headers)
        if known is not None and await ledger.key(known.id) is known:
            return known
        token = request.token
        shown = key_id(token)
        key = await ledger.key(shown) if shown else None
        if key is None or not matches(key, token):
            raise Failure(401, "This server needs a key: `Authorization: Bearer KEY`.", www_authenticate="Bearer")
        if len(self._shown) >= KNOWN_KEYS:
            self._shown.clear()
        self._shown[headers] = key
        return key

    def _own_routes(self) -> Iterable[Route]:
        yield Route("GET", "/v2/health/live", self._live, public=True)
        yield Route("GET", "/v2/health/ready", self._is_ready, public=True)
        yield Route("GET", "/v2", self._server)
        yield Route("GET", "/v2/", self._server)
        yield Route("POST", "/v2/repository/index", self._index)
        yield Route("GET", "/openapi.json", self._openapi)
        for name, versions in self._versions().items():
            for change in ("load", "unload"):
                yield Route("POST", f"/v2/repository/models/{name}/{change}", self._unsupported, name)
            latest = self._services[name, versions[-1]]
            addresses = {f"/v2/models/{name}": latest}
            addresses |= {f"/v2/models/{name}/versions/{v}": self._services[name, v] for v in versions}
            for address, service in addresses.items():
                yield Route("GET", address, partial(self._model, service, versions), name)
                yield Route("GET", f"{address}/ready", self._is_ready, name)
                yield Route("POST", f"{address}/infer", partial(self._infer, service), name)

    def _versions(self) -> dict[str, list[str]]:
        """The versions of each model, the latest last: by number where all are numbers, else in the given order."""
        found: dict[str, list[str]] = {}
        for name, version in self._services:
            found.setdefault(name, []).append(version)
        return {name: sorted(v, key=int) if all(map(str.isdecimal, v)) else v for name, v in found.items()}

    async def _live(self, request: Request) -> Reply:
        return Reply.of({"live": True})

    async def _is_ready(self, request: Request) -> Reply:
        return Reply.of({"ready": True}) if self.ready else _failed(Overloaded("The server is closing."))

    async def _server(self, request: Request) -> Reply:
        return Reply.of(protocol.server_metadata(__version__))

    async def _index(self, request: Request) -> Reply:
        await request.body(self.limits.body_bytes)
        seen = [s.spec for s in self._services.values() if request.key.allows(s.spec.name)]
        return Reply.of(protocol.repository_index(seen, self.ready))

    async def _openapi(self, request: Request) -> Reply:
        seen = [(r.method, r.path, r.model) for r in self.routes if not r.model or request.key.allows(r.model)]
        specs = {name: service.spec for (name, _), service in self._services.items()}
        return Reply.of(openapi.document(seen, specs, __version__))

    async def _unsupported(self, request: Request) -> Reply:
        raise Failure(501, "This server loads its models when it starts, and never later.")

    async def _model(self, service: Answering, versions: Sequence[str], request: Request) -> Reply:
        return Reply.of(protocol.model_metadata(service.spec, versions))

    async def _infer(self, service: Answering, request: Request) -> Reply:
        """Reserve, compute, record; sending comes after."""
        if not self.ready:
            raise Overloaded("The server is closing.")
        body = await request.body(self.limits.body_bytes)
        query = protocol.read(body, _header_length(request.headers), service.spec)
        request.rows = len(query.x)
        ledger = self._ledger
        if ledger is None:
            answers, _ = await service.answer(request.key.account, query, request.key.restriction)
            return _answered(answers, query, service.spec)
        key = request.key
        if await ledger.key(key.id) is not key:  # it may have been revoked while the body arrived
            key = request.key = await self._key(request, ledger)
        outcome: Outcome = "failed"
        suspicion = None
        try:
            await ledger.reserve(key, service.weights, request.rows)
            try:
                answers, suspicion = await service.answer(key.account, query, key.restriction)
                reply = _answered(answers, query, service.spec)
            except BaseException:
                ledger.give_back(key, service.weights, request.rows)
                raise
            outcome = "answered"
            return reply
        except (Refused, BudgetExhausted, TooFast) as e:
            outcome = "refused" if isinstance(e, Refused) else "rate" if isinstance(e, TooFast) else "budget"
            raise
        finally:
            model, rows = request.model, request.rows
            # Other outcomes cost the account nothing, so that their hashes could fill a disk.
            kept = self._keep_hashes and outcome in ("answered", "refused")
            hashes = tuple(hashlib.sha256(x).hexdigest() for x in query.x) if kept else ()
            ledger.record(Event(time.time(), key.account, key.id, model, rows, outcome, 1, suspicion, hashes))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self.close()
        except StealguardError as e:
            _log.error("Not everything could be written at the end: %s", one_line(e))
        await send({"type": "lifespan.shutdown.complete"})


def log_to(stream: BinaryIO) -> Observer:
    """An observer that writes one JSON object a line."""

    def line(entry: LogLine) -> bytes:
        at, account, model, rows, status, seconds = entry
        told = {
            "time": at, "account": account, "model": model, "rows": rows, "status": status,
            "milliseconds": round(1e3 * seconds, 3),
        }  # fmt: skip
        return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)

    def write(entries: Sequence[LogLine]) -> None:
        stream.write(b"".join(map(line, entries)))
        stream.flush()

    return write


def _answered(answers: NDArray[np.float32], query: Query, spec: Spec) -> Reply:
    return Reply(200, *protocol.write(answers, query, spec))


def _header_length(headers: Mapping[bytes, bytes]) -> int | None:
    given = headers.get(protocol.HEADER_LENGTH.encode())
    if given is None:
        return None
    if not given.isdigit() or len(given) > 18:
        raise BadRequest(
            f"`{protocol.HEADER_LENGTH}` should be a number of bytes. Found `{given[:40].decode('latin-1')}`."
        )
    return int(given)


def _check_length(size: int, limit: int) -> None:
    if size > limit:
        raise BadRequest(f"A body should have at most {limit} bytes.", 413)


def _decompressed(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body that was compressed so; never more than `limit` bytes of it are made."""
    encoding = encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding not in _WINDOWS:
        raise BadRequest("`content-encoding` should be gzip or deflate.")
    stream = zlib.decompressobj(_WINDOWS[encoding])
    try:
        text = stream.decompress(body, limit + 1)
    except zlib.error:
        raise BadRequest(f"The body should be compressed by {encoding.decode()}.") from None
    _check_length(len(text), limit)
    if not stream.eof or stream.unused_data:
        raise BadRequest("The compressed body should be complete, with nothing after its end.")
    return text


def _compressed(reply: Reply, accepted: bytes) -> Reply:
    """The reply as the client accepts it; short ones are not worth the effort."""
    if not accepted or len(reply.body) < _WORTH_COMPRESSING:
        return reply
    weights = dict(part.strip().partition(b";")[::2] for part in accepted.lower().split(b","))
    for encoding in (b"gzip", b"deflate"):
        if encoding in weights and weights[encoding].replace(b" ", b"") not in (b"q=0", b"q=0.0"):
            stream = zlib.compressobj(1, wbits=_WINDOWS[encoding])
            body = stream.compress(reply.body) + stream.flush()
            return reply._replace(body=body, headers={**reply.headers, "content-encoding": encoding.decode()})
    return reply


async def _send(reply: Reply, request: Request, send: Send) -> None:
    reply = _compressed(reply, request.headers.get(b"accept-encoding", b""))
    told = {"cache-control": "no-store", **reply.headers}  # a proxy's cache does not know that X-API-Key is a key
    headers = [(name.encode(), text.encode()) for name, text in told.items()]
    headers.append((b"content-length", b"%d" % len(reply.body)))
    if request.unread:  # what follows on this connection is the rest of a body, which is not waited for
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _failed(error: BaseException) -> Reply:
    """The response that tells of an error; what a client cannot mend is logged instead of told."""
    told = {"error": str(error)}
    match error:
        case BadRequest() | Failure():
            return Reply.of(told, error.status, **getattr(error, "headers", {}))
        case Invalid():
            return Reply.of(told, 400)
        case Refused():
            return Reply.of({**told, "left": error.left}, 403)
        case BudgetExhausted():
            return Reply.of({**told, "left": error.left}, 429)
        case TooFast():
            return Reply.of(told, 429, retry_after=str(max(1, math.ceil(error.retry_after))))
        case Overloaded():
            return Reply.of(told, 503, retry_after="1")
        case LedgerUnavailable():
            _log.error("%s", error)
            return Reply.of({"error": "The server's ledger cannot be used now."}, 503, retry_after="1")
        case asyncio.CancelledError():
            return Reply.of({"error": "The server is closing."}, 503, retry_after="1")
    _log.error("A request failed.", exc_info=error)
    return Reply.of({"error": "The server failed to answer this request."}, 500)
