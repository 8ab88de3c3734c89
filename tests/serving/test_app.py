"""Routes, keys, statuses, budgets and compression of a running server."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import socket
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote

import httpx
import numpy as np
import pytest

from served import Linear, MemoryLedger, exchange, rest_of, running, wait_until
from stealguard.errors import Invalid
from stealguard.serving.app import Application, LogLine, Reply, Request, Route, log_to
from stealguard.serving.batching import Overloaded
from stealguard.serving.keys import Restriction
from stealguard.serving.ledger.base import LedgerUnavailable
from stealguard.serving.limits import Limits

X = np.random.default_rng(1).random((3, 1, 4, 4), np.float32)
INFER = "/v2/models/linear/infer"


class World:
    """A server with two models, one of them in two versions, and a ledger."""

    def __init__(self) -> None:
        self.linear, self.newer = Linear(version="2"), Linear(version="10", seed=1)
        self.other = Linear("other one", seed=2)
        self.services = {(s.spec.name, s.spec.version): s for s in (self.newer, self.linear, self.other)}
        self.ledger, self.entries = MemoryLedger(), list[LogLine]()
        self.application = Application(
            self.services, self.ledger, Limits(body_bytes=50_000), observers=[self.entries.extend], keep_hashes=True
        )
        self.reset()

    def reset(self) -> None:
        """As at the start."""
        self.ledger.reset()
        self.entries.clear()
        self.token = self.ledger.add("ann")
        for service in self.services.values():
            service.asked, service.fails = 0, None
            service.refused.clear()

    def told(self, account: str, n: int) -> list[LogLine]:
        """The lines of the log on an account's requests, once there are so many; earlier tests' come late, too."""
        wait_until(lambda: sum(entry.account == account for entry in self.entries) >= n)
        return [entry for entry in self.entries if entry.account == account]

    def headers(self, token: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {token or self.token}"}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[World, int]]:
    world = World()
    with running(world.application) as server:
        yield world, server.port


@pytest.fixture
def world(served: tuple[World, int]) -> World:
    served[0].reset()
    return served[0]


@pytest.fixture
def client(world: World, served: tuple[World, int]) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{served[1]}"
    with httpx.Client(base_url=url, headers=world.headers(), timeout=30) as client:
        yield client


def asked(x: Any = X, **more: Any) -> dict[str, Any]:
    data = np.ravel(x).tolist()
    return {"inputs": [{"name": "input", "datatype": "FP32", "shape": list(np.shape(x)), "data": data}], **more}


def answered(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    output = response.json()["outputs"][0]
    return np.float32(output["data"]).reshape(output["shape"])


def error(response: httpx.Response, status: int) -> str:
    """The message of an error; its form is the same for all of them."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert type(response.json()["error"]) is str
    return response.json()["error"]


def test_a_request_is_answered_by_the_models_latest_version(world: World, client: httpx.Client) -> None:
    np.testing.assert_array_equal(answered(client.post(INFER, json=asked())), world.newer.expected(X))
    for service in (world.linear, world.newer):
        response = client.post(f"/v2/models/linear/versions/{service.spec.version}/infer", json=asked(id="a"))
        np.testing.assert_array_equal(answered(response), service.expected(X))
        assert response.json()["model_version"] == service.spec.version
        assert response.json()["id"] == "a"
    np.testing.assert_array_equal(
        answered(client.post("/v2/models/other%20one/infer", json=asked())), world.other.expected(X)
    )


def test_names_that_are_no_numbers_keep_the_order_of_their_versions() -> None:
    services = {("m", v): Linear("m", v, seed=i) for i, v in enumerate(["b", "a"])}
    with running(Application(services, None)) as server:
        found = httpx.get(f"http://127.0.0.1:{server.port}/v2/models/m").json()
    assert found["versions"] == ["b", "a"]


def test_metadata_and_the_index_tell_what_is_served(world: World, client: httpx.Client) -> None:
    assert client.get("/v2").json() == client.get("/v2/").json()
    assert client.get("/v2/models/linear").json()["versions"] == ["2", "10"]
    assert client.get("/v2/models/linear/versions/2").json()["parameters"]["class_names"] == ["ant", "bee", "cat"]
    index = client.post("/v2/repository/index").json()
    assert sorted((e["name"], e["version"]) for e in index) == sorted(world.services)
    assert client.post("/v2/repository/index", json={"ready": True}).json() == index
    assert client.get("/v2/models/linear/versions/2/ready").status_code == 200


def aliases(path: str) -> set[str]:
    """Other spellings of a path that some server or proxy takes for the same."""
    encoded = "".join(f"%{ord(c):02x}" if c.isalpha() else c for c in path)
    spellings = {path, quote(path), encoded, encoded.replace("/", "%2f"), path.upper(), f"{path}/", f"/{path}"}
    return spellings | {f"{path}?key=1", f"/x/..{path}", f"{path}/.", f"{path};a", f"{path}%00", f"{path}%20"}


OTHERS = ["/", "/metrics", "/docs", "/v1", "/v2x", "/v2/models", "/v2/models/stats", "/v2/models/none/infer",
          "/v2/health", "/v2/models/linear/stats", "/v2/models/linear/config", "/v2/logging", "/v2/trace/setting",
          "/favicon.ico", "/v2/systemsharedmemory/status", "/v2/models/linear/versions/3", "*", "//",
          "/v2/health/live/x"]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]
PUBLIC = {"/v2/health/live", "/v2/health/ready"}


def raw_status(port: int, method: str, target: str, header: str = "") -> int:
    sent = f"{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{header}Content-Length: 0\r\n\r\n"
    return int(exchange(port, sent.encode()).split(b" ", 2)[1])


@pytest.mark.slow
def test_no_route_and_no_alias_answers_without_a_key(world: World, served: tuple[World, int]) -> None:
    paths = {route.path for route in world.application.routes}
    assert {"/v2", INFER, "/openapi.json", "/v2/models/linear/versions/2/infer"} <= paths
    assert {route.path for route in world.application.routes if route.public} == PUBLIC
    walked, port = 0, served[1]
    for path in sorted({*paths, *OTHERS}):
        for target in sorted(aliases(path)):
            for method in METHODS if target == path else ("GET", "POST"):
                status = raw_status(port, method, quote(target, safe="/%?;*=&"))
                public = target.startswith("/") and _decoded(target) in PUBLIC
                walked += 1
                assert status in ((200,) if public and method in ("GET", "HEAD") else (400, 401)), (method, target)
    assert walked > 500
    assert world.linear.asked == world.newer.asked == world.other.asked == 0
    wrong = "Authorization: Bearer sg_0000000000000000_" + "0" * 64 + "\r\n"
    for path in sorted(paths - PUBLIC):
        assert raw_status(port, "GET", quote(path), wrong) == 401


def _decoded(target: str) -> str:
    return unquote(target.split("?")[0])


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer sg_"},
        {"Authorization": "Basic {token}"},
        {"Authorization": "{token}"},
        {"Authorization": "Bearer {token}0"},
        {"Authorization": "Bearer x{token}"},
        {"Authorization": "Bearer {token}", "wrong": "last digit"},
        {"X-API-Key": ""},
        {"Cookie": "key={token}"},
    ],
    ids=str,
)
def test_a_wrong_key_is_refused_before_anything_else(
    world: World, client: httpx.Client, headers: dict[str, str]
) -> None:
    token = world.token
    if headers.get("wrong"):
        token = token[:-1] + ("0" if token[-1] != "0" else "1")
    del client.headers["authorization"]
    for path in (INFER, "/nothing"):
        response = client.post(path, headers={k: v.format(token=token) for k, v in headers.items()}, content=b"{")
        assert "key" in error(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
        assert world.token not in response.text


@pytest.mark.parametrize("name", ["Authorization", "authorization", "X-API-Key", "x-api-key"])
def test_a_key_is_taken_from_either_header(world: World, client: httpx.Client, name: str) -> None:
    del client.headers["authorization"]
    value = world.token if name.lower().startswith("x") else f"bearer {world.token}"
    assert client.get("/v2", headers={name: value}).status_code == 200


def test_no_response_is_kept_by_a_cache(world: World, client: httpx.Client) -> None:
    """A cache in front would give what one key was told to requests without it: it does not know X-API-Key."""
    for response in (client.get("/v2"), client.post(INFER, json=asked()), client.get("/nothing")):
        assert response.headers["cache-control"] == "no-store"


def test_a_revoked_key_is_refused(world: World, client: httpx.Client) -> None:
    import dataclasses

    assert client.get("/v2").status_code == 200
    world.ledger.known = {id_: dataclasses.replace(key, revoked=1.0) for id_, key in world.ledger.known.items()}
    error(client.get("/v2"), 401)


def test_a_key_sees_only_its_models(world: World, client: httpx.Client) -> None:
    headers = world.headers(world.ledger.add("bob", models=("linear",)))
    assert client.post(INFER, json=asked(), headers=headers).status_code == 200
    for method, path in [
        ("POST", "infer"),
        ("GET", ""),
        ("GET", "ready"),
        ("PUT", "infer"),
        ("POST", "versions/1/infer"),
    ]:
        path = f"/v2/models/other one/{path}".rstrip("/")
        known = client.request(method, path, headers=headers)
        unknown = client.request(method, path.replace("other one", "nothing"), headers=headers)
        assert error(known, 404) == error(unknown, 404)
    assert {e["name"] for e in client.post("/v2/repository/index", headers=headers).json()} == {"linear"}
    assert not any("other" in path for path in client.get("/openapi.json", headers=headers).json()["paths"])


def test_a_wrong_method_is_told_the_right_ones(client: httpx.Client) -> None:
    response = client.get(INFER)
    assert "POST" in error(response, 405)
    assert response.headers["allow"] == "POST"


def test_models_are_neither_loaded_nor_unloaded(client: httpx.Client) -> None:
    for change in ("load", "unload"):
        error(client.post(f"/v2/repository/models/linear/{change}", json={}), 501)
    for path in ("/v2/models/linear/stats", "/v2/models/stats", "/v2/models/linear/config", "/v2/nothing"):
        error(client.get(path), 404)


# Budgets and the ledger -------------------------------------------------------------------------------------


def test_rows_are_counted_and_recorded(world: World, client: httpx.Client) -> None:
    answered(client.post(INFER, json=asked()))
    assert world.ledger.counted == {("ann", "weights of linear"): 3}
    (event,) = world.ledger.events
    assert (event.account, event.model, event.rows, event.outcome) == ("ann", "linear", 3, "answered")
    assert world.token.split("_")[1] == event.key
    assert len(set(event.hashes)) == 3


def test_a_bad_request_costs_nothing(world: World, client: httpx.Client) -> None:
    for content in (b"{", json.dumps(asked(np.zeros((0, 1, 4, 4)))).encode(), json.dumps(asked(X[:, :, :2])).encode()):
        error(client.post(INFER, content=content), 400)
    error(client.post(INFER, json=asked(np.zeros((65, 1, 4, 4)))), 413)
    assert world.ledger.counted == {}
    assert world.newer.asked == 0


def test_a_spent_budget_tells_what_is_left(world: World, client: httpx.Client) -> None:
    headers = world.headers(world.ledger.add("bob", budget=4))
    answered(client.post(INFER, json=asked(), headers=headers))
    response = client.post(INFER, json=asked(), headers=headers)
    error(response, 429)
    assert response.json()["left"] == 1
    assert "retry-after" not in response.headers
    answered(client.post(INFER, json=asked(X[:1]), headers=headers))
    assert [e.outcome for e in world.ledger.events] == ["answered", "budget", "answered"]
    assert world.newer.asked == 2


def test_a_request_that_comes_too_fast_is_told_when_to_come_again(world: World, client: httpx.Client) -> None:
    world.ledger.fast = 1.2
    response = client.post(INFER, json=asked())
    error(response, 429)
    assert response.headers["retry-after"] == "2"
    assert "left" not in response.json()
    assert world.ledger.events[0].outcome == "rate"


def test_what_a_guard_refuses_is_given_back(world: World, client: httpx.Client) -> None:
    world.newer.refused["ann"] = 2
    response = client.post(INFER, json=asked())
    error(response, 403)
    assert response.json()["left"] == 2
    assert world.ledger.counted["ann", "weights of linear"] == 0
    assert world.ledger.events[0].outcome == "refused"


@pytest.mark.parametrize(
    ("fault", "status", "told"),
    [
        (Overloaded("Too many inputs wait."), 503, "Too many"),
        (LedgerUnavailable("The secret `/home/ann/ledger` is away."), 503, "cannot be used"),
        (Invalid("input", "in [0, 1]", "2"), 400, "[0, 1]"),
        (RuntimeError("secret of the machine"), 500, "failed"),
        (MemoryError(), 500, "failed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_has_its_status_and_is_given_back(
    world: World, client: httpx.Client, caplog: pytest.LogCaptureFixture, fault: Exception, status: int, told: str
) -> None:
    world.newer.fails = fault
    response = client.post(INFER, json=asked())
    assert told in error(response, status)
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)
    assert world.ledger.counted["ann", "weights of linear"] == 0
    assert world.ledger.events[0].outcome == "failed"
    assert (type(fault) is not Overloaded and status >= 500) == any(r.levelno >= logging.ERROR for r in caplog.records)
    world.newer.fails = None
    answered(client.post(INFER, json=asked()))


def test_restrictions_of_a_key_hold_whatever_is_asked(world: World, client: httpx.Client) -> None:
    headers = world.headers(world.ledger.add("bob", Restriction(labels=True)))
    widest = [{"name": "probabilities", "parameters": {"binary_data": False, "labels": False}}]
    for more in ({}, {"outputs": widest}, {"parameters": {"labels": False, "top_k": 3}}):
        found = answered(client.post(INFER, json=asked(**more), headers=headers))
        np.testing.assert_array_equal(found, np.eye(3)[world.newer.expected(X).argmax(axis=1)])
    for value in (1, 3):
        scores = [{"name": "probabilities", "parameters": {"classification": value}}]
        error(client.post(INFER, json=asked(outputs=scores), headers=headers), 501)


def test_a_client_that_goes_while_it_sends_costs_nothing(world: World, client: httpx.Client) -> None:
    port = client.base_url.port
    assert port is not None
    token = world.ledger.add("gone")
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n{{"
    exchange(port, head.encode(), end=True)
    answered(client.post(INFER, json=asked(), headers=world.headers(token)))
    assert [entry.status for entry in world.told("gone", 2)] == [499, 200]
    assert world.ledger.counted == {("gone", "weights of linear"): 3}


def test_a_key_that_is_revoked_while_its_request_arrives_gets_no_answer(world: World, client: httpx.Client) -> None:
    content = json.dumps(asked()).encode()
    token = world.ledger.add("hasty")
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nX-API-Key: {token}\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), 30) as connection:
        connection.sendall(f"{head}{{".encode())
        assert client.get("/v2").status_code == 200  # the server has read what was sent before
        world.ledger.known.clear()
        connection.sendall(content[1:])
        assert b" 401 " in connection.recv(100)
    assert world.newer.asked == 0


def test_hashes_are_kept_only_of_what_was_computed(world: World, client: httpx.Client) -> None:
    """Requests beyond a budget cost nothing, and would fill the disk."""
    headers = world.headers(world.ledger.add("bob", budget=2))
    error(client.post(INFER, json=asked(), headers=headers), 429)
    world.newer.refused["ann"] = 2
    error(client.post(INFER, json=asked()), 403)
    assert [(event.outcome, len(event.hashes)) for event in world.ledger.events] == [("budget", 0), ("refused", 3)]


def test_a_client_that_goes_while_its_answers_are_computed_is_charged(world: World) -> None:
    slow = Linear()
    slow.gate = threading.Event()
    content = json.dumps(asked()).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nX-API-Key: {world.token}\r\nContent-Length: {len(content)}\r\n\r\n"
    with running(Application({("linear", "1"): slow}, world.ledger)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + content)
            wait_until(lambda: slow.asked == 1)
        wait_until(lambda: not server.server_state.connections)
        slow.gate.set()
    assert world.ledger.counted == {("ann", slow.weights): 3}
    assert world.ledger.events[0].outcome == "answered"


def test_an_observer_that_fails_costs_no_answer_and_no_other_observer(caplog: pytest.LogCaptureFixture) -> None:
    entries = list[LogLine]()

    def fail(entries: Sequence[LogLine]) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    application = Application({("linear", "1"): Linear()}, None, observers=[fail, entries.extend])
    with running(application) as server, httpx.Client() as client:
        for _ in range(2):
            answered(client.post(f"http://127.0.0.1:{server.port}{INFER}", json=asked()))
    assert [entry.status for entry in entries] == [200, 200]
    assert "could not be written: Broken pipe" in caplog.text


def test_a_client_that_goes_before_its_answers_leaves_a_line(
    world: World, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.dumps(asked()).encode()
    token = world.ledger.add("hasty")
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nX-API-Key: {token}\r\nContent-Length: {len(content)}\r\n\r\n"
    exchange(client.base_url.port or 0, head.encode() + content, end=True)
    assert [entry.rows for entry in world.told("hasty", 1)] in ([3], [0])
    assert not caplog.records, "uvicorn logs an exception"


def test_an_open_server_needs_no_key_and_counts_nothing() -> None:
    service = Linear()
    entries = list[LogLine]()
    with running(Application({("linear", "1"): service}, None, observers=[entries.extend])) as server:
        url = f"http://127.0.0.1:{server.port}"
        np.testing.assert_array_equal(answered(httpx.post(url + INFER, json=asked())), service.expected(X))
        error(httpx.get(url + "/nothing"), 404)
    assert [(e.account, e.rows, e.status) for e in entries] == [("", 3, 200), ("", 0, 404)]


# Bodies -----------------------------------------------------------------------------------------------------


def zlibbed(body: bytes) -> bytes:
    return zlib.compress(body)


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlibbed), ("GZIP", gzip.compress)]
)
def test_compressed_bodies_are_read(
    world: World, client: httpx.Client, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    body = compress(json.dumps(asked()).encode())
    response = client.post(INFER, content=body, headers={"Content-Encoding": encoding})
    np.testing.assert_array_equal(answered(response), world.newer.expected(X))


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", b"", 400),
        ("gzip", b"{}", 400),
        ("gzip", gzip.compress(json.dumps(asked()).encode())[:-9], 400),
        ("gzip", gzip.compress(json.dumps(asked()).encode()) + b"x", 400),
        ("gzip", zlib.compress(json.dumps(asked()).encode()), 400),
        ("gzip", gzip.compress(bytes(50_001)), 413),
        ("gzip", gzip.compress(bytes(20_000_000)), 413),
        ("deflate", zlib.compress(bytes(20_000_000)), 413),
        ("br", b"x", 400),
        ("gzip, gzip", gzip.compress(gzip.compress(json.dumps(asked()).encode())), 400),
    ],
    ids=range(10),
)
def test_a_compressed_body_that_is_broken_or_too_long_is_refused(
    world: World, client: httpx.Client, encoding: str, body: bytes, status: int
) -> None:
    error(client.post(INFER, content=body, headers={"Content-Encoding": encoding}), status)
    answered(client.post(INFER, json=asked()))


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"), ("deflate", "deflate"), ("deflate, gzip;q=0.5", "gzip"), ("gzip;q=0, deflate", "deflate"),
        ("identity", None), ("", None), ("br", None), ("gzip; q=0", None),
    ],
)  # fmt: skip
def test_long_responses_are_compressed_as_the_client_accepts(
    world: World, client: httpx.Client, accepted: str, encoding: str | None
) -> None:
    x = np.random.default_rng(2).random((60, 1, 4, 4), np.float32)
    response = client.post(INFER, json=asked(x), headers={"Accept-Encoding": accepted})
    assert response.headers.get("content-encoding") == encoding
    np.testing.assert_array_equal(answered(response), world.newer.expected(x))


def test_a_body_is_counted_as_it_arrives(client: httpx.Client, world: World) -> None:
    def parts(n: int) -> Iterator[bytes]:
        yield from (b" " * 1_000 for _ in range(n))
        yield json.dumps(asked()).encode()

    answered(client.post(INFER, content=parts(40)))
    error(client.post(INFER, content=parts(60)), 413)
    answered(client.post(INFER, json=asked()))


def test_a_body_in_a_thousand_tiny_chunks_is_read(client: httpx.Client, world: World) -> None:
    body = json.dumps(asked()).encode()
    response = client.post(INFER, content=(body[i : i + 1] for i in range(len(body))))
    np.testing.assert_array_equal(answered(response), world.newer.expected(X))


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999999999999999999", "0x10", "\u0663"])
def test_a_header_length_that_is_no_number_is_refused(client: httpx.Client, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode()}
    error(client.post(INFER, json=asked(), headers=headers), 400)


# What is told of requests -----------------------------------------------------------------------------------


def test_the_log_has_a_line_for_each_request_and_no_secrets(world: World) -> None:
    stream = io.BytesIO()
    application = Application(world.services, world.ledger, observers=[log_to(stream)])
    with running(application) as server, httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        client.get("/v2/health/live")
        answered(client.post(INFER, json=asked(id="secret id"), headers=world.headers()))
        error(client.post(INFER, json=asked()), 401)
        error(client.post(INFER, content=b"{", headers=world.headers()), 400)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    found = [(e["account"], e["model"], e["rows"], e["status"]) for e in lines]
    assert found == [("ann", "linear", 3, 200), ("", "", 0, 401), ("ann", "linear", 0, 400)]
    assert all(set(e) == {"time", "account", "model", "rows", "status", "milliseconds"} for e in lines)
    assert all(e["milliseconds"] > 0 for e in lines)
    text = stream.getvalue().decode()
    assert world.token.split("_")[2] not in text
    assert "secret" not in text


def test_requests_of_an_event_loop_that_was_closed_are_told_with_later_ones() -> None:
    entries = list[LogLine]()
    application = Application({("linear", "1"): Linear()}, None, observers=[entries.extend])

    async def send(message: object) -> None: ...

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    async def request(lines: int = 0) -> None:
        await application({"type": "http", "method": "GET", "path": "/v2", "headers": []}, receive, send)
        while len(entries) < lines:
            await asyncio.sleep(0.01)

    asyncio.run(request())
    asyncio.run(asyncio.wait_for(request(2), 60))
    assert [entry.status for entry in entries] == [200, 200]


def test_the_log_is_complete_where_a_server_is_ended_at_once() -> None:
    """By a second SIGINT, while a request is under way."""
    entries, slow = list[LogLine](), Linear()
    slow.gate = threading.Event()
    with running(Application({("linear", "1"): slow}, None, observers=[entries.extend])) as server:
        content = json.dumps(asked()).encode()
        head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + content)
            wait_until(lambda: slow.asked == 1)
            server.force_exit = True
            server.stop()
            rest_of(connection)
    assert [entry.status for entry in entries] == [503]


def test_further_routes_need_a_key_unless_they_are_public(world: World) -> None:
    async def page(request: Request) -> Reply:
        return Reply(200, b"<p>", {"content-type": "text/html"})

    async def account(request: Request) -> Reply:
        return Reply.of({"account": request.key.account})

    routes = [Route("GET", "/", page, public=True), Route("GET", "/account", account, "linear")]
    with running(Application(world.services, world.ledger, routes=routes)) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert httpx.get(url).text == "<p>"
        assert httpx.get(url).headers["content-type"] == "text/html"
        error(httpx.get(f"{url}/account"), 401)
        assert httpx.get(f"{url}/account", headers=world.headers()).json() == {"account": "ann"}
        error(httpx.get(f"{url}/account", headers=world.headers(world.ledger.add("bob", models=("other",)))), 404)


@pytest.mark.slow
def test_sixty_four_clients_at_once_spend_a_budget_exactly(world: World, client: httpx.Client) -> None:
    headers = world.headers(world.ledger.add("bob", budget=100))
    statuses = list[int]()

    def ask() -> None:
        for _ in range(3):
            statuses.append(client.post(INFER, json=asked(X[:1]), headers=headers).status_code)

    threads = [threading.Thread(target=ask) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(statuses) == [200] * 100 + [429] * 92
