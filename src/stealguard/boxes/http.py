"""Requests over HTTP that always end: bounded in tries, in time and in the size of what comes back."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
import warnings
import weakref
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from stealguard.errors import BoxFault, Invalid, StealguardError, counted, require

if TYPE_CHECKING:
    import httpx

LARGEST = 64 * 2**20  # bytes of one response
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds between two tries; each pause is twice the one before
SHOWN = 300  # characters of a server's message


class Response(NamedTuple):
    """A response: header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """A client of one server, which asks again where that can help: after status 503, after 429 with `Retry-After`, and
    after errors of the connection.

    A connection that breaks after the server has answered loses the answer: the request is sent again, and the server
    counts it twice. Certificates are checked, against those of the system, of `certifi` and of `SSL_CERT_FILE`.
    Redirections are not followed, and the environment's proxies are not used for this machine's own addresses.

    Args:
        base: http(s)://host[:port][/prefix].
        timeout: seconds to wait for a connection, and for each further part of a response.
        patience: seconds that one request may take, all of its tries and pauses together.
        connections: how many may be open at once.

    Raises:
        Invalid: `base` is no such address, or a number is not positive.
        StealguardError: httpx is missing.
    """

    def __init__(self, base: str, *, timeout: float = 60.0, patience: float = 120.0, connections: int = 1):
        for name, value in {"timeout": timeout, "patience": patience, "parallel": connections}.items():
            require(value > 0, name, "positive", value)
        self.base, self._timeout, self._patience = base, timeout, patience
        local = _is_local(urlsplit(base).hostname or "")
        self._encrypted = base.startswith("https:") or local
        self._now = _Now()
        client = _client(connections, self._now, proxies=not local)
        self._client, self.close = client, weakref.finalize(self, client.close)
        self._sleep, self._clock = time.sleep, time.monotonic

    def send(
        self, method: str, path: str, *, key: str = "", body: bytes = b"", headers: Mapping[str, str] | None = None,
        patience: float | None = None,
    ) -> Response:  # fmt: skip
        """The server's response of any status that does not ask for another try.

        Args:
            path: below `base`.
            key: sent as `Authorization: Bearer KEY`; "" for none.
            patience: instead of the server's own, where that is longer.

        Raises:
            StealguardError: the server cannot be reached, or asks for more patience than there is.
            BoxFault: the response is too large, is compressed, or is not HTTP.
        """
        _check_key(key)
        if key and not self._encrypted:
            warnings.warn(f"`{self.base}` is not https: the key is sent without encryption.", stacklevel=2)
        sent = {**(headers or {}), "Accept-Encoding": "identity"}
        if key:
            sent["Authorization"] = f"Bearer {key}"
        end = self._clock() + min(self._patience, patience or self._patience)
        tries, pause = 0, FIRST_PAUSE
        while True:
            found = self._tried(method, path, sent, body, end)
            if isinstance(found, Response) and not _passing(found):
                return found
            tries, wait = tries + 1, pause
            if isinstance(found, Response):
                wait = max(pause, _retry_after(found.headers.get("retry-after")))
                found = f"status {found.status}{said(found, key)}"
            if self._clock() + wait >= end:
                times = "once" if tries == 1 else f"{tries} times"
                next_try = f"the next try, in {wait:g} s, would take more time than `patience` allows"
                raise StealguardError(f"`{self.base}` was asked {times} and did not answer ({found}); {next_try}.")
            self._sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _tried(self, method: str, path: str, headers: Mapping[str, str], body: bytes, end: float) -> Response | str:
        """The response to one try, or what went wrong with the connection."""
        import httpx

        left = max(0.001, end - self._clock())
        self._now.end = time.monotonic() + left
        wait = httpx.Timeout(min(self._timeout, left))
        try:
            with self._client.stream(
                method, f"{self.base}{path}", content=body, headers=dict(headers), timeout=wait
            ) as response:
                return Response(response.status_code, dict(response.headers), self._read(response, end))
        except (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ProxyError) as e:
            if "CERTIFICATE_VERIFY_FAILED" in str(e):
                hint = "SSL_CERT_FILE names further certificates"
                raise StealguardError(f"The certificate of `{self.base}` cannot be trusted: {e}. {hint}.") from e
            return f"{str(e) or type(e).__name__}".rstrip(".")
        except httpx.HTTPError as e:
            raise BoxFault(f"`{self.base}` should answer in HTTP. Found {type(e).__name__}: {e}") from e

    def _read(self, response: httpx.Response, end: float) -> bytes:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":  # a small response could become a huge one
            raise BoxFault(f"`{self.base}` should answer without compression. Found `{encoding}`.")
        read = bytearray()
        for part in response.iter_raw():
            read += part
            if len(read) > LARGEST:
                raise BoxFault(f"`{self.base}` should answer with at most {LARGEST:,} bytes. Found more.")
            if self._clock() > end:
                raise StealguardError(f"`{self.base}` began to answer and did not end within its time.")
        return bytes(read)


def said(reply: Response, key: str = "") -> str:
    """The server's own words in a response that is an error, as ": words", without the key; "" where it has none."""
    import orjson

    try:
        found = orjson.loads(reply.body)
        words = found["error"] if isinstance(found["error"], str) else ""
    except (ValueError, KeyError, TypeError):
        words = ""
    words = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    words = words.replace(key, "(the key)") if key else words
    return f": {words[:SHOWN].rstrip('.')}" if words else ""


class _Now(threading.local):
    """When the request of the running thread has to end, in seconds of the monotonic clock."""

    end = math.inf


class _Network:
    """A network backend of httpcore whose streams read until a request has to end, and no longer.

    A timeout is for each part that is read. Headers that arrive byte by byte, and responses of status 103 without end,
    keep every timeout and never end.
    """

    def __init__(self, backend: Any, now: _Now):
        self._backend, self._now = backend, now
        self.connect_unix_socket, self.sleep = backend.connect_unix_socket, backend.sleep

    def connect_tcp(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(self._backend.connect_tcp(*args, **kwargs), self._now)


class _Stream:
    """A connection of `_Network`."""

    def __init__(self, stream: Any, now: _Now):
        self._stream, self._now = stream, now
        self.write, self.close, self.get_extra_info = stream.write, stream.close, stream.get_extra_info

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        import httpcore

        if time.monotonic() > self._now.end:
            raise httpcore.ReadTimeout("the response began and did not end within its time")
        found: bytes = self._stream.read(max_bytes, timeout)
        return found

    def start_tls(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(self._stream.start_tls(*args, **kwargs), self._now)


def _client(connections: int, now: _Now, *, proxies: bool) -> httpx.Client:
    try:
        import httpx
        import orjson  # noqa: F401
    except ImportError as e:
        raise StealguardError(f"Remote models need httpx and orjson: pip install 'stealguard[remote]' ({e}).") from e
    trusted = httpx.create_ssl_context()
    trusted.load_default_certs()
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    client = httpx.Client(verify=trusted, limits=limits, trust_env=proxies)
    transports: list[Any] = [client._transport, *filter(None, client._mounts.values())]
    for transport in transports:  # httpx has no parameter for it
        transport._pool._network_backend = _Network(transport._pool._network_backend, now)
    return client


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _check_key(key: str) -> None:
    """A key that HTTP can carry; it is never part of a message."""
    fits = all("!" <= sign <= "~" for sign in key)
    if not fits:
        found = f"a key of {counted(len(key), 'character')}"
        raise Invalid("key", "of printable ASCII characters without spaces", found)


def _passing(reply: Response) -> bool:
    """Whether the same request may be answered later: 429 without `Retry-After` is a budget, not a rate."""
    return reply.status == 503 or (reply.status == 429 and "retry-after" in reply.headers)


def _retry_after(value: str | None) -> float:
    """The seconds that a `Retry-After` header asks for: a number of them, or a date.

    >>> _retry_after("2"), _retry_after(None), _retry_after("soon")
    (2.0, 0.0, 0.0)
    """
    if value is None:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
