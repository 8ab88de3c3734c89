"""The connection itself: deadlines, which are short here, caps, broken requests, and how a server ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from served import Linear, exchange, rest_of, running, wait_until
from stealguard.errors import StealguardError
from stealguard.serving.app import Application
from stealguard.serving.http import Server
from stealguard.serving.limits import Limits
from stealguard.serving.service import Answered

X = np.random.default_rng(4).random((2, 1, 4, 4), np.float32)
BODY = json.dumps(
    {"inputs": [{"name": "input", "datatype": "FP32", "shape": [2, 1, 4, 4], "data": X.ravel().tolist()}]}
).encode()
INFER = b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: a\r\n"
GOOD = INFER + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = LIVE.replace(b"Host", b"Connection: close\r\nHost")
SHORT = Limits(
    body_bytes=100_000, header_bytes=4_000, connections=20, per_address=10,
    connect_seconds=0.3, header_seconds=0.3, body_seconds=0.3, idle_seconds=0.3, drain_seconds=30,
)  # fmt: skip


@pytest.fixture
def service() -> Linear:
    return Linear()


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Linear, int]]:
    """A server with short deadlines."""
    service = Linear()
    with running(Application({("linear", "1"): service}, None, SHORT)) as server:
        yield service, server.port


@pytest.fixture
def port(shared: tuple[Linear, int]) -> Iterator[int]:
    """The server's port; after the test, the server must still answer a good request rightly."""
    yield shared[1]
    good(shared[1], shared[0])


def good(port: int, service: Linear) -> None:
    response = httpx.post(f"http://127.0.0.1:{port}/v2/models/linear/infer", content=BODY, timeout=30)
    assert response.status_code == 200, response.text
    np.testing.assert_array_equal(np.float32(response.json()["outputs"][0]["data"]), service.expected(X).ravel())


def responses(received: bytes) -> list[tuple[int, Any]]:
    """Status and JSON of each response in a connection's bytes."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        headers = {
            n.strip().lower(): v.strip() for n, _, v in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        length = int(headers[b"content-length"])
        found.append((int(head.split(b" ")[1]), json.loads(rest[:length])))
        received = rest[length:]
    return found


def only(received: bytes) -> tuple[int, str]:
    """Status and message of the only response, an error."""
    ((status, body),) = responses(received)
    return status, body["error"]


# Deadlines --------------------------------------------------------------------------------------------------


def dripping(port: int, start: bytes, piece: bytes) -> bytes:
    """What the server sends until it closes, to a client that sends a start, then a piece again and again."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(start)
        with ThreadPoolExecutor(1) as pool:
            received = pool.submit(rest_of, connection)
            while not received.done():
                with contextlib.suppress(OSError):
                    connection.sendall(piece)
                wait([received], 0.02)
        return received.result()


def test_a_connection_without_a_request_is_closed(port: int) -> None:
    assert exchange(port, b"") == b""


def test_headers_that_never_end_are_timed_out(port: int) -> None:
    assert only(exchange(port, b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: "))[0] == 408


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /", b"x"),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: ", b"x"),
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\n", b"x: y\r\n"),
        (INFER + b"Content-Length: 90000\r\n\r\n", b" "),
        (INFER + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
    ids=["first line", "a header", "headers", "body", "chunks"],
)
def test_a_request_that_drips_is_timed_out(port: int, start: bytes, piece: bytes) -> None:
    assert only(dripping(port, start, piece))[0] == 408


def test_a_body_that_stays_away_is_timed_out(port: int) -> None:
    assert only(exchange(port, INFER + b"Content-Length: 5\r\n\r\n{"))[0] == 408


def test_an_idle_connection_is_closed_after_its_answer(port: int) -> None:
    assert [status for status, _ in responses(exchange(port, LIVE + LIVE))] == [200, 200]


def test_answers_take_as_long_as_they_take(service: Linear) -> None:
    """No deadline holds while the server computes: it is not the client who is late."""
    with running(Application({("linear", "1"): service}, None, SHORT)) as server:
        waited = threading.Event()

        async def slow(*args: Any) -> Any:
            await asyncio.sleep(4 * SHORT.body_seconds)
            waited.set()
            return Answered(service.expected(args[1].x))

        service.answer = slow  # type: ignore[method-assign]
        good(server.port, service)
        assert waited.is_set()


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """Megabytes of answers to a client that never reads: the server's memory of it ends with the deadline."""
    service = Linear(rows=200_000)
    limits = Limits(body_bytes=10_000_000, body_seconds=0.5, idle_seconds=0.5)
    x = np.zeros((100_000, 1, 4, 4), np.float32)
    tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
    text = json.dumps({"inputs": [tensor]}).encode()
    lengths = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(text), len(text) + x.nbytes)
    sent = INFER + lengths
    with running(Application({("linear", "1"): service}, None, limits)) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(30)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(sent + text + x.tobytes())
            wait_until(lambda: service.asked == 1 and not server.server_state.connections)
        good(server.port, service)


# Caps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5_000 + b"\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\n" + b"a: b\r\n" * 700 + b"\r\n",
        b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x" * 5_000_000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1_000_000,
        INFER + b"X: " + b"x" * 5_000 + b"\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
        GOOD.replace(b"Host: a", b"Host: " + b"a" * 5_000),
    ],
    ids=range(7),
)
def test_long_headers_are_refused(port: int, sent: bytes) -> None:
    assert only(flood(port, sent)) == (431, "The headers are too long.")


def flood(port: int, sent: bytes) -> bytes:
    """As `exchange`, for more bytes than the server may take."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(connection.sendall, sent)
        try:
            received = rest_of(connection)
        except ConnectionResetError:  # the server closed while bytes of `sent` were unread: its response may be lost
            received = b""
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            sending.result(30)
    return received


@pytest.mark.parametrize("length", [100_001, 2**31, 2**32 + 5, 2**63 - 1])
def test_a_stated_length_beyond_the_limit_is_refused_before_the_body(port: int, length: int) -> None:
    assert only(exchange(port, INFER + b"Content-Length: %d\r\n\r\n{" % length))[0] == 413


def test_a_long_body_is_refused_although_it_is_still_being_sent(port: int) -> None:
    assert only(flood(port, INFER + b"Content-Length: 20000000\r\n\r\n" + bytes(20_000_000)))[0] == 413
    chunks = b"10000\r\n" + bytes(65_536) + b"\r\n"
    assert only(flood(port, INFER + b"Transfer-Encoding: chunked\r\n\r\n" + chunks * 100))[0] == 413


def test_a_bomb_is_refused(port: int) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    head = INFER + b"Content-Encoding: gzip\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    assert only(exchange(port, head + bomb))[0] == 413


@pytest.mark.parametrize("limits", [Limits(per_address=3), Limits(connections=3)], ids=["address", "all"])
def test_connections_beyond_a_cap_are_refused_and_freed_ones_are_taken_again(limits: Limits, service: Linear) -> None:
    with running(Application({("linear", "1"): service}, None, limits)) as server, contextlib.ExitStack() as stack:
        first = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30)) for _ in range(3)]
        wait_until(lambda: len(server.server_state.connections) == 3)
        assert only(exchange(server.port, b"")) == (503, "Too many connections.")
        wait_until(lambda: len(server.server_state.connections) == 3)
        first[0].sendall(GOOD.replace(b"Host: a", b"Host: a\r\nConnection: close"))
        assert responses(rest_of(first[0]))[0][0] == 200
        first[1].close()
        wait_until(lambda: len(server.server_state.connections) == 1)
        good(server.port, service)


def test_a_closed_connection_is_freed_without_the_collector(service: Linear) -> None:
    with running(Application({("linear", "1"): service}, None)) as server:
        gc.disable()
        try:
            with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
                connection.sendall(GOOD)
                wait_until(lambda: service.asked == 1)
                (held,) = map(weakref.ref, server.server_state.connections)
            wait_until(lambda: held() is None)
        finally:
            gc.enable()


# Broken requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"\0",
        b"\r\n\r\n\r\nnonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost a\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n: a\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nA: b\0c\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        INFER + b"Content-Length: x\r\n\r\n",
        INFER + b"Content-Length: -1\r\n\r\n",
        INFER + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        INFER + b"Content-Length: 99999999999999999999999\r\n\r\n",
        INFER + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        INFER + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        INFER + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
        INFER + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n",
        INFER + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[-30:]),
)
def test_what_is_no_http_is_refused_in_json(port: int, sent: bytes) -> None:
    assert only(exchange(port, sent))[0] == 400


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", BODY[:-1], BODY + b"x", BODY.replace(b"[2, 1", b"[0, 1"), BODY.replace(b"[2, 1", b"[3, 1"),
     BODY.replace(b"FP32", b"FP31"), BODY.replace(b'"data": [', b'"data": [NaN, '), b"\xff" * 1_000, b"[" * 50_000],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_request_of_the_protocol_is_refused_and_the_connection_goes_on(port: int, content: bytes) -> None:
    sent = INFER + b"Content-Length: %d\r\n\r\n" % len(content) + content
    found = responses(exchange(port, sent + GOOD))
    assert [status for status, _ in found] == [400, 200]
    assert type(found[0][1]["error"]) is str


@pytest.mark.parametrize("cut", [10, 60, len(GOOD) - 200, len(GOOD) - 1])
def test_a_request_that_is_cut_off_is_dropped(port: int, cut: int) -> None:
    assert exchange(port, GOOD[:cut], end=True) == b""


def test_nonsense_after_a_good_request_does_not_cost_its_answer(port: int) -> None:
    for nonsense in (b"\0\0\0", b"nonsense", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 50_000):
        found = responses(flood(port, GOOD + nonsense))
        assert found[0][0] == 200
        assert [status for status, _ in found[1:]] in ([], [400], [431], [408])


def test_requests_in_one_packet_are_answered_in_their_order(port: int) -> None:
    found = responses(exchange(port, LIVE + GOOD + LIVE + GOOD))
    assert [list(body) for _, body in found] == [["live"], ["model_name", "model_version", "outputs"]] * 2


def test_requests_that_come_while_another_is_answered_wait_their_turn(service: Linear) -> None:
    service.gate = threading.Event()
    with (
        running(Application({("linear", "1"): service}, None)) as server,
        socket.create_connection(("127.0.0.1", server.port), 30) as connection,
    ):
        connection.sendall(GOOD)
        wait_until(lambda: service.asked == 1)
        connection.sendall(LIVE)
        connection.sendall(LIVE + GOOD[:100])
        service.gate.set()
        connection.sendall(GOOD[100:])
        connection.sendall(LIVE.replace(b"Host", b"Connection: close\r\nHost"))
        found = responses(rest_of(connection))
    assert [next(iter(body)) for _, body in found] == ["model_name", "live", "live", "model_name", "live"]


def test_a_request_to_upgrade_is_answered_like_any_other(port: int) -> None:
    for protocol in (b"websocket", b"h2c"):
        sent = LIVE.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\nHost")
        assert responses(exchange(port, sent))[0][0] == 200


def test_what_follows_a_request_to_upgrade_is_answered(port: int) -> None:
    upgrade = GOOD.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost")
    assert [status for status, _ in responses(exchange(port, upgrade + LIVE + upgrade + LIVE))] == [200] * 4
    in_chunks = chunked().replace(b"Host", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost")
    empty = upgrade[: upgrade.index(b"Content-Length")] + b"Content-Length: 0\r\n\r\n"
    assert [status for status, _ in responses(exchange(port, in_chunks + empty + LIVE))] == [200, 400, 200]


def test_the_body_of_a_request_to_upgrade_is_no_request(port: int) -> None:
    head = INFER + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(LIVE)
    assert [status for status, _ in responses(exchange(port, head + LIVE))] == [400]
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(head.replace(b"POST", b"GET").replace(b"Content", b"Expect: 100-continue\r\nContent"))
        connection.sendall(LIVE + LIVE)
        assert only(rest_of(connection))[0] == 405


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_to_upgrade_is_answered_however_it_is_cut(port: int, size: int) -> None:
    sent = GOOD.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost") + LAST
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), size):
            connection.sendall(sent[start : start + size])
        assert [status for status, _ in responses(rest_of(connection))] == [200, 200]


def chunked(*trailers: bytes) -> bytes:
    """The good request in chunks, with trailers."""
    head = INFER + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY) + b"".join(trailers) + b"\r\n"


def test_a_trailer_is_no_header(port: int) -> None:
    sent = chunked(b"Inference-Header-Content-Length: 9\r\n", b"Content-Encoding: gzip\r\n")
    assert [status for status, _ in responses(exchange(port, sent + LIVE))] == [200, 200]


@pytest.mark.parametrize("trailers", [b"a:b\r\n" * 1_000_000, b"a:" + b"b" * 5_000_000], ids=["many", "long"])
def test_trailers_have_the_limit_of_headers(port: int, trailers: bytes) -> None:
    assert only(flood(port, chunked(trailers))) == (431, "The headers are too long.")


def test_of_requests_that_come_together_a_number_is_answered(port: int) -> None:
    found = responses(flood(port, GOOD + LIVE * 5_000))
    assert [status for status, _ in found] == [200] * 100


@pytest.mark.slow
def test_a_request_that_the_server_does_not_read_yet_is_not_late(service: Linear) -> None:
    with running(Application({("linear", "1"): service}, None, SHORT)) as server:
        answer = service.answer

        async def slow(*args: Any) -> Any:
            await asyncio.sleep(4 * SHORT.body_seconds)
            return await answer(*args)

        service.answer = slow  # type: ignore[method-assign]
        with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
            connection.sendall(GOOD + GOOD[:-5])
            connection.sendall(GOOD[-5:])
            assert [status for status, _ in responses(rest_of(connection))] == [200, 200]


def test_nothing_is_done_for_a_request_after_one_that_is_refused(service: Linear) -> None:
    ended: list[int] = []
    application = Application(
        {("linear", "1"): service}, None, Limits(bodies_bytes=1_000),
        observers=[lambda lines: ended.extend(line.status for line in lines)],
    )  # fmt: skip
    with running(application) as server:
        sent = INFER + b"Content-Length: 2000\r\n\r\n" + b" " * 2_000 + b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n"
        assert only(exchange(server.port, sent))[0] == 503
    assert ended == [499]


def test_nothing_is_asked_after_the_last_response() -> None:
    """An old client, whose connection ends with the first response, which it takes slowly."""
    service = Linear(rows=200_000)
    x = np.zeros((100_000, 1, 4, 4), np.float32)
    tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
    text = json.dumps({"inputs": [tensor]}).encode()
    lengths = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(text), len(text) + x.nbytes)
    sent = INFER.replace(b"1.1", b"1.0") + lengths + text + x.tobytes() + GOOD
    with running(Application({("linear", "1"): service}, None, Limits(body_bytes=10_000_000))) as server:
        ((status, body),) = responses(exchange(server.port, sent))
    assert (status, len(body["outputs"][0]["data"])) == (200, 300_000)
    assert service.asked == 1


def test_a_body_in_small_chunks_takes_little_more_memory_than_its_bytes(service: Linear) -> None:
    with (
        running(Application({("linear", "1"): service}, None, SHORT)) as server,
        socket.create_connection(("127.0.0.1", server.port), 30) as connection,
    ):
        tracemalloc.start()
        connection.sendall(INFER + b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\n  \r\n" * 45_000)
        assert only(rest_of(connection))[0] == 408
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1_200_000  # what is sent takes half of it


def test_an_old_client_is_given_no_leave_to_send(port: int) -> None:
    sent = GOOD.replace(b"1.1\r\n", b"1.0\r\nExpect: 100-continue\r\n")
    assert [status for status, _ in responses(exchange(port, sent))] == [200]


def test_a_client_that_waits_for_leave_to_send_gets_it(port: int) -> None:
    head = INFER + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(head)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert responses(rest_of(connection))[0][0] == 200


def test_health_by_head_has_no_body(port: int) -> None:
    received = exchange(port, LIVE.replace(b"GET", b"HEAD"))
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"\r\n\r\n")


PARTS = [
    b"\r\n", b"\r\n\r\n", b": ", b"0\r\n\r\n", b"\0", b"\xff", b"HTTP/1.0", b"//", b"%00", b" ", b"\n", b"x" * 5_000,
    b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Inference-Header-Content-Length: 9\r\n",
]  # fmt: skip


def mutated(rng: random.Random) -> bytes:
    """A good request after a few edits, most of them in its head."""
    text = bytearray(GOOD.replace(b"Host: a", b"Host: a\r\nConnection: close"))
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(text) if rng.random() < 0.5 else 120)
        match rng.randrange(4):
            case 0:
                del text[at : at + rng.randint(1, 20)]
            case 1:
                text[at:at] = rng.choice(PARTS)
            case 2:
                text[at:at] = text[at : at + rng.randint(1, 80)]
            case _:
                text[at] = rng.randrange(256)
    return bytes(text)


@pytest.mark.slow
def test_mutated_requests_get_a_response_in_json_or_none(service: Linear) -> None:
    limits = Limits(header_bytes=4_000, connect_seconds=0.2, header_seconds=0.2, body_seconds=0.2, idle_seconds=0.2)
    count = 20_000 if os.environ.get("STEALGUARD_ALL") else 300
    rng, statuses = random.Random(19), Counter[int]()
    with running(Application({("linear", "1"): service}, None, limits)) as server, ThreadPoolExecutor(32) as pool:
        for received in pool.map(flood, [server.port] * count, [mutated(rng) for _ in range(count)]):
            for status, body in responses(received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")):
                statuses[status] += 1
                if status == 200:
                    assert np.float32(body["outputs"][0]["data"]).sum() == pytest.approx(2, abs=1e-5)
                else:
                    assert type(body["error"]) is str
        good(server.port, service)
    assert set(statuses) <= {200, 400, 404, 405, 408, 413, 431}
    assert statuses[200] > 0.01 * count
    assert statuses[400] > 0.2 * count


# The end ----------------------------------------------------------------------------------------------------


def test_the_end_waits_for_answers_that_are_due_and_takes_nothing_new(service: Linear) -> None:
    service.gate = threading.Event()
    application = Application({("linear", "1"): service}, None, Limits(drain_seconds=60))
    with running(application) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert httpx.get(f"{url}/v2/health/ready").status_code == 200
        with socket.create_connection(("127.0.0.1", server.port), 60) as due:
            due.sendall(GOOD)
            wait_until(lambda: service.asked == 1)
            server.stop()
            wait_until(lambda: httpx.get(f"{url}/v2/health/ready").status_code == 503)
            assert httpx.get(f"{url}/v2/health/live").status_code == 200
            assert httpx.get(f"{url}/v2/models/linear/ready").status_code == 503
            refused = httpx.post(f"{url}/v2/models/linear/infer", content=BODY)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            service.gate.set()
            ((status, body),) = responses(rest_of(due))
    assert status == 200
    np.testing.assert_array_equal(np.float32(body["outputs"][0]["data"]), service.expected(X).ravel())
    assert service.asked == 1
    assert service.closed


def test_the_end_does_not_wait_beyond_its_bound(service: Linear) -> None:
    service.gate = threading.Event()
    application = Application({("linear", "1"): service}, None, Limits(drain_seconds=0.3, body_seconds=1_000))
    with running(application) as server, contextlib.ExitStack() as stack:
        due, dripping, idle = (
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60)) for _ in range(3)
        )
        due.sendall(GOOD)
        dripping.sendall(GOOD[:-5])
        wait_until(lambda: service.asked == 1 and len(server.server_state.connections) == 3)
        server.stop()
        assert only(rest_of(due)) == (503, "The server is closing.")
        assert only(rest_of(dripping)) == (503, "The server is closing.")
        assert rest_of(idle) == b""


PROGRAM = """
import sys
from served import Linear
from stealguard.serving.app import Application
from stealguard.serving.http import Server
async def metrics(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"some"})
Server(Application({("linear", "1"): Linear()}, None), port=0, metrics=metrics,
       started=lambda server: print(server.port, server.metrics_port, flush=True)).run()
print("closed", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)])
def test_a_process_ends_cleanly_on_a_signal(which: signal.Signals) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        assert process.stdout is not None
        port, metrics_port = map(int, process.stdout.readline().split())
        good(port, Linear())
        assert httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text == "some"
        with httpx.Client() as kept:  # an idle connection does not hold the server up
            assert kept.get(f"http://127.0.0.1:{port}/v2/health/live").status_code == 200
            process.send_signal(which)
            assert process.wait(60) == 0
        assert process.stdout.read() == "closed\n"


def test_metrics_are_on_their_own_loopback_port_alone(service: Linear) -> None:
    async def metrics(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"some"})

    with running(Application({("linear", "1"): service}, None), metrics=metrics) as server:
        assert httpx.get(f"http://127.0.0.1:{server.metrics_port}/").text == "some"
        assert httpx.get(f"http://127.0.0.1:{server.port}/metrics").status_code == 404


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StealguardError, match=f"127.0.0.1, port {port}"):
            Server(Application({}, None), port=port)
    with pytest.raises(StealguardError, match="cannot listen on nowhere"):
        Server(Application({}, None), host="nowhere.invalid", port=0)


@pytest.mark.parametrize("setting", ["bodies_bytes", "rows", "idle_seconds", "drain_seconds"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_are_numbers_above_zero(setting: str, value: float) -> None:
    with pytest.raises(StealguardError, match=setting):
        Limits(**{setting: value})


def test_bodies_may_be_as_long_as_the_rows_of_the_largest_model_need() -> None:
    small, large = Limits(rows=10).fitting([(3,)]), Limits(rows=10).fitting([(3,), (1, 28, 28)])
    assert 10 * 784 * len("-1.2345678901234567e-100,") <= large.body_bytes < 2**20
    assert small.body_bytes < large.body_bytes
    assert Limits().fitting([(3, 1000, 1000)]).body_bytes == 64 * 2**20
    assert Limits(body_bytes=7).fitting([(3,)]).body_bytes == 7


def test_bodies_that_wait_have_a_limit_together(service: Linear) -> None:
    limits = Limits(body_bytes=100_000, bodies_bytes=100_000)
    with running(Application({("linear", "1"): service}, None, limits)) as server:
        head = INFER + b"Connection: close\r\nContent-Length: 90000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), 30) as first:
            first.sendall(head + b" " * 60_000)
            wait_until(
                lambda: [n for n, _ in responses(exchange(server.port, head + b" " * 60_000, end=True))] == [503]
            )
            good(server.port, service)
        wait_until(lambda: only(exchange(server.port, head + b" " * 90_000))[0] == 400)


def test_a_body_counts_until_its_request_has_ended_although_its_client_has_gone(service: Linear) -> None:
    service.gate = threading.Event()
    limits = Limits(body_bytes=100_000, bodies_bytes=100_000)
    with running(Application({("linear", "1"): service}, None, limits)) as server:
        padded = INFER + b"Content-Length: %d\r\n\r\n" % (len(BODY) + 60_000) + BODY + b" " * 60_000
        with socket.create_connection(("127.0.0.1", server.port), 30) as gone:
            gone.sendall(padded)
            wait_until(lambda: service.asked == 1)
        wait_until(lambda: not server.server_state.connections)
        assert only(exchange(server.port, padded))[0] == 503
        service.gate.set()
        wait_until(lambda: not server.server_state.tasks)
        assert [status for status, _ in responses(exchange(server.port, padded + LAST))] == [200, 200]
