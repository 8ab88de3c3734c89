"""A model behind a server: what it tells, what it answers, and what happens where it does neither."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from endpoint import CLASSES, SHAPE, Model, application, expected, serving
from samples import noise
from stealguard.boxes import AnswerLedger, Endpoint, ManyAccounts, Metered, RemoteBox, ask, http, remote
from stealguard.boxes.http import Client, Response
from stealguard.errors import BoxFault, BudgetExhausted, Invalid, Refused, StealguardError

X = noise(50, SHAPE)


@pytest.fixture
def url(endpoint: tuple[str, Model]) -> str:
    return endpoint[0]


def box(url: str, key: str = "", **options: Any) -> RemoteBox:
    return Endpoint(f"{url}/v2/models/m", key, **options).box(key)


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("logits", [True, False])
def test_answers_are_the_models(url: str, model: Model, binary: bool, datatype: str, logits: bool) -> None:
    model.binary, model.datatype, model.logits = binary, datatype, logits
    found = box(url, rows=16)(X)
    off = 5e-3 if datatype == "FP16" else 1e-5
    torch.testing.assert_close(found, expected(X), atol=off, rtol=off)
    assert found.dtype == torch.float32
    assert model.requests == [16, 16, 16, 2]


@pytest.mark.parametrize("binary", [True, False])
def test_float32_loses_nothing_on_the_way(url: str, model: Model, binary: bool) -> None:
    model.binary = binary
    assert torch.equal(box(url)(X), expected(X))


def test_rounded_probabilities_are_no_logits(url: str, model: Model) -> None:
    model.digits = 1
    found = box(url)(X)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(X)))
    assert (found - expected(X)).abs().max() < 0.15


def test_the_first_answers_tell_whether_all_are_logits(url: str, model: Model) -> None:
    asked = box(url)
    asked(X)
    model.logits = True
    with pytest.raises(BoxFault, match="should answer rows on the simplex"):
        asked(X)


def test_what_the_server_tells_is_known_before_anything_is_asked(url: str, model: Model) -> None:
    identity = "ab" * 32
    model.metadata = {"parameters": {"class_names": ["a", "b", "c"], "rows": 7, "identity": identity}}
    served = Endpoint(url).served
    assert (served.name, served.shape, served.classes, served.names) == ("m", SHAPE, CLASSES, ("a", "b", "c"))
    assert (served.rows, served.binary, served.identity) == (7, True, identity)
    assert model.requests == []


def test_open_dimensions_are_told_by_the_answers(url: str, model: Model) -> None:
    model.metadata = {
        "inputs": [{"name": "input", "datatype": "FP32", "shape": ["-1", "-1"]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, -1]}],
    }
    endpoint = Endpoint(url)
    assert (endpoint.served.shape, endpoint.served.classes) == ((), 0)
    torch.testing.assert_close(endpoint.box()(X), expected(X))


def test_requests_of_large_inputs_have_few_rows(url: str, model: Model) -> None:
    shape = [-1, 3, 1000, 1000]
    model.metadata = {"parameters": {"rows": 1024}, "inputs": [{"name": "input", "datatype": "FP32", "shape": shape}]}
    assert Endpoint(url).served.rows == 1
    assert Endpoint(url, rows=9).served.rows == 9
    shape[:] = [-1, 3, 32, 32]
    assert Endpoint(url).served.rows == 1024


def test_models_of_one_input_at_a_time_are_asked_so(url: str, model: Model) -> None:
    model.metadata = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, *SHAPE]}]}
    torch.testing.assert_close(box(url)(X[:3]), expected(X[:3]))
    assert model.requests == [1, 1, 1]


@pytest.mark.slow
def test_a_model_is_chosen_by_url_by_name_or_as_the_only_one(url: str, model: Model) -> None:
    assert Endpoint(url).url == Endpoint(f"{url}/v2/").url == Endpoint(url, model="m").url == f"{url}/v2/models/m"
    assert Endpoint(f"{url}/v2/models/m/versions/1/infer").url == f"{url}/v2/models/m/versions/1"
    assert Endpoint(url, model="m", version="3").url == f"{url}/v2/models/m/versions/3"
    torch.testing.assert_close(Endpoint(f"{url}/v2/models/m/versions/1").box()(X), expected(X))
    with pytest.raises(Invalid, match=r"`model` should be one that .* serves. Found `other`"):
        Endpoint(url, model="other")
    with pytest.raises(Invalid, match="`model` should be `m`, as the URL says"):
        Endpoint(f"{url}/v2/models/m", model="other")
    model.names = ("m", "n")
    with pytest.raises(Invalid, match=r"`model` should be given.* Found several models on the server: m, n"):
        Endpoint(url)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": []}, "`url` should be of a model with one input .* Found none"),
        ({"inputs": [{"name": "a", "datatype": "BYTES", "shape": [-1, 1]}]}, r"Found a \(BYTES\)"),
        ({"inputs": [{"name": "a", "datatype": "FP32", "shape": [4, 16]}]}, r"`url` should be of .* \(-1, ...\)"),
        ({"inputs": [{"name": "a", "datatype": "FP32"}]}, r"`url` should be of .* \(-1, ...\).* Found None"),
        ({"inputs": [{"datatype": "FP32"}]}, "should tell name and datatype of each of its inputs"),
        ({"outputs": [{"name": "a", "datatype": "BYTES", "shape": [-1, 1]}]}, r"`output` .* Found a \(BYTES\)"),
        ({"outputs": [{"name": n, "datatype": "FP32", "shape": [-1, 3]} for n in "ab"]}, r"Found a \(FP32\), b"),
    ],
)
def test_a_model_that_cannot_be_asked_is_named(url: str, model: Model, changes: Any, message: str) -> None:
    model.metadata = changes
    with pytest.raises(StealguardError, match=message):
        Endpoint(url)


def test_one_of_several_outputs_is_chosen_by_name(url: str, model: Model) -> None:
    outputs = [{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in ("features", "probabilities")]
    model.metadata = {"outputs": outputs}
    torch.testing.assert_close(box(url, output="probabilities")(X), expected(X))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"url": "ftp://host"}, "`url` should be an address"),
        ({"url": "http://"}, "`url` should be an address"),
        ({"url": "http://host:99999999"}, "`url` should be an address"),
        ({"url": "https://user:secret@host/v2"}, "`url` should be an address .* alone. Found one with a user"),
        ({"url": "https://host/v2?key=secret"}, "alone. Found one with a user, a query or a fragment"),
        ({"rows": 0}, "`rows` should be at least 1"),
        ({"parallel": 0}, "`parallel` should be at least 1"),
        ({"timeout": 0}, "`timeout` should be positive"),
        ({"key": "a secret\n"}, "`key` should be of printable ASCII characters without spaces. Found a key of 9"),
    ],
)
def test_bad_parameters_are_named_without_what_is_secret(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message) as caught:
        Endpoint(**{"url": "http://127.0.0.1:1", **given})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("fault", ["busy", "rate", "drop"])
def test_what_passes_is_tried_again(url: str, model: Model, fault: str) -> None:
    asked = box(url)
    model.faults.extend([fault, fault])
    assert torch.equal(asked(X), expected(X))
    assert model.answered[""] == len(X)


@pytest.mark.parametrize("fault", ["busy", "rate", "drop"])
def test_trying_ends(url: str, model: Model, fault: str) -> None:
    asked = box(url, patience=0.5)
    model.every = fault
    with pytest.raises(StealguardError, match=r"was asked \d times and did not answer"):
        asked(X)


def test_a_wait_that_is_longer_than_patience_is_not_begun(url: str, model: Model) -> None:
    asked = box(url)
    model.every = "wait"
    with pytest.raises(
        StealguardError, match=r"was asked once .* too fast.*; the next try, in 3600 s, would take more"
    ):
        asked(X)


def test_pauses_double_up_to_a_limit_and_retry_after_is_heeded(url: str, model: Model) -> None:
    """The clock here is the sum of the pauses."""
    server, slept = Client(url, patience=100.0), list[float]()
    server._sleep, server._clock = slept.append, lambda: sum(slept)
    model.every = "busy"
    with pytest.raises(StealguardError):
        server.send("POST", "/v2/models/m/infer")
    assert slept[:9] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    assert 90 < sum(slept) < 100


@pytest.mark.parametrize("value", ["Thu, 1 Jan 1970 00:00:00 -9999999999999999999", "-5", "\x00", "9" * 5000])
def test_a_retry_after_of_any_kind_is_a_number_of_seconds(value: str) -> None:
    assert http._retry_after(value) >= 0


ENDLESS = [
    (b"", b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n"),
    (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b"x"),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
]


@pytest.mark.parametrize(("first", "then"), ENDLESS, ids=["hints", "headers", "body", "trailers"])
def test_a_response_that_never_ends_is_given_up(first: bytes, then: bytes) -> None:
    ended = threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.recv(65_536)
            connection.sendall(first)
            while not ended.wait(0.02):
                connection.sendall(then)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        dripping = threading.Thread(target=drip)
        stop = threading.Timer(60, ended.set)  # the test fails then
        dripping.start()
        stop.start()
        with pytest.raises(StealguardError, match=r"did not (end|answer)"):
            Client(f"http://127.0.0.1:{listening.getsockname()[1]}", patience=0.5).send("GET", "/v2")
        assert not ended.is_set(), "only the server ended it"
        ended.set()
        stop.cancel()
        dripping.join()


def test_nothing_is_tried_again_that_cannot_help(url: str, model: Model) -> None:
    asked = box(url)
    for fault, message in {
        "internal": "Found status 500: it broke",
        "large": "Found status 413: at most 8 rows; `rows` sets how many",
        "moved": "Found status 307",
    }.items():
        model.faults.append(fault)
        with pytest.raises(BoxFault, match=message):
            asked(X)
    assert not model.faults
    assert model.requests == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("garbage", "should answer with a JSON object. Found b'<html>'"),
        ("list", "should answer with a JSON object"),
        ("length", "should tell the length of its JSON. Found `99` of 2 bytes"),
        ("packed", "without compression. Found `br`"),
        ("nan", "should answer with a JSON object"),
        ("text", "should answer with numbers"),
        ("short", r"should answer 1 input with \(1, K\) numbers. Found 1 of shape \(1, 3\)"),
        ("other", "should answer with the output `probabilities`"),
        ("bytes", "should answer with FP16, FP32, FP64. Found BYTES"),
        ("nothing", "should answer with the output `probabilities`"),
        ("silly", "or fewer than it refuses. Found 1000000 left"),
    ],
)
def test_what_is_no_answer_is_the_servers_fault(url: str, model: Model, fault: str, message: str) -> None:
    asked = box(url)
    model.faults.append(fault)
    with pytest.raises(BoxFault, match=message):
        asked(X[:1])


def test_a_response_is_read_up_to_a_limit(url: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = box(url)
    monkeypatch.setattr(http, "LARGEST", 4_000)
    model.faults.append("huge")
    with pytest.raises(BoxFault, match="should answer with at most 4,000 bytes"):
        asked(X[:1])


@given(st.binary(max_size=200), st.none() | st.integers(-5, 300))
def test_any_body_is_an_answer_or_a_fault(body: bytes, length: int | None) -> None:
    served = remote.Told("m", "", "input", "FP32", (2,), "p", 3, (), 64, True, "")
    heads = {} if length is None else {remote.BINARY: str(length)}
    outputs = b'{"outputs":[{"name":"p","datatype":"FP32","shape":[1,3],"parameters":{"binary_data_size":12}}]}'
    for reply in (Response(200, heads, body), Response(200, {remote.BINARY: str(len(outputs))}, outputs + body)):
        with suppress(BoxFault):
            assert remote._tensor(reply, served, 1, "url").shape == (1, 3)


def test_a_spent_budget_and_a_refusal_say_what_is_left(url: str, model: Model) -> None:
    model.budgets["a"] = 20
    with pytest.raises(
        BudgetExhausted, match="has a budget for this account: 20 of 50 inputs can be had: spent"
    ) as spent:
        box(url, "a")(X)
    assert spent.value.left == 20
    model.refuses = True
    with pytest.raises(Refused, match="answers this account only 20 of 50 inputs: spent") as refused:
        box(url, "a")(X)
    assert refused.value.left == 20
    assert model.answered["a"] == 0


def test_what_was_answered_before_a_refusal_is_not_paid_twice(url: str, model: Model) -> None:
    model.budgets["a"] = 20
    asked = box(url, "a", rows=16)
    with pytest.raises(BudgetExhausted) as spent:
        asked(X)
    assert spent.value.left == 20
    assert torch.equal(asked(X[:20]), expected(X[:20]))
    assert model.answered["a"] == 20


def test_an_interruption_costs_one_request(url: str, model: Model) -> None:
    """The second request is answered, and its answer is lost on the way: the server counts it twice."""
    asked = box(url, rows=16)
    model.faults.extend(["", "lost"])
    assert torch.equal(asked(X), expected(X))
    assert model.answered[""] == len(X) + 16


def test_a_call_that_failed_goes_on_where_it_stopped(url: str, model: Model) -> None:
    asked = box(url, rows=16)
    model.faults.extend(["", "", "internal"])
    with pytest.raises(BoxFault):
        asked(X)
    assert torch.equal(asked(X), expected(X))
    assert model.requests == [16, 16, 16, 2]


def test_parallel_requests_keep_the_order_of_the_answers(url: str, model: Model) -> None:
    x = noise(300, SHAPE)
    model.faults.extend(["", "busy", "", "busy", "busy"])
    assert torch.equal(box(url, rows=7, parallel=8)(x), expected(x))
    assert sorted(model.requests) == sorted([7] * 42 + [6])


def test_accounts_are_told_apart_and_a_budget_is_divided_over_them(url: str, model: Model) -> None:
    model.keys, model.budgets = frozenset({"a", "b"}), {"a": 10, "b": 10**6}
    endpoint = Endpoint(url, "a")
    many = Metered(ManyAccounts(lambda number: endpoint.box("ab"[number - 1]), 2, 50), 50)
    with pytest.raises(
        Refused, match=r"has a budget for this account: 10 of 25 inputs .* no account answers"
    ) as refused:
        many(X)
    assert refused.value.left == many.left == 35
    assert torch.equal(many(X[:35]), expected(X[:35]))
    assert model.answered == {"a": 10, "b": 25}


@pytest.mark.slow
def test_the_key_is_never_shown(url: str, model: Model) -> None:
    model.keys = frozenset({"right"})
    with pytest.raises(StealguardError, match=r"needs a key \(status 401") as caught:
        Endpoint(url)
    with pytest.raises(
        StealguardError, match=r"does not accept the key \(status 401: no account has the key"
    ) as caught:
        Endpoint(url, "sg_secret")
    assert "sg_secret" not in str(caught.value)
    assert "right" not in repr(Endpoint(url, "right").box("right"))


def test_a_key_over_an_open_line_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # nothing leaves this machine
    server = Client("http://nowhere.invalid", patience=0.01)
    with (
        pytest.warns(UserWarning, match="`http://nowhere.invalid` is not https: the key is sent") as told,
        pytest.raises(StealguardError, match="and did not answer"),
    ):
        server.send("GET", "/v2", key="sg_secret")
    assert "sg_secret" not in str(told[0].message)


def test_a_server_that_is_not_there_is_said_so_within_seconds() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(StealguardError, match=r"was asked \d times and did not answer"):
            Endpoint(f"http://127.0.0.1:{bound.getsockname()[1]}", patience=0.5)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate")
def test_certificates_are_checked(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"ssl_keyfile": str(tmp_path / "key.pem"), "ssl_certfile": str(tmp_path / "certificate.pem")}
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", files["ssl_keyfile"], "-out", files["ssl_certfile"], "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True,
    )  # fmt: skip
    with serving(application(model), **files) as url:
        with pytest.raises(
            StealguardError, match=r"The certificate of .* cannot be trusted.*SSL_CERT_FILE names further"
        ):
            box(url)
        monkeypatch.setenv("SSL_CERT_FILE", files["ssl_certfile"])
        torch.testing.assert_close(box(url)(X), expected(X))


def test_proxies_are_not_asked_for_this_machine(url: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    torch.testing.assert_close(box(url)(X), expected(X))


@pytest.mark.parametrize("x", [X[:, :3], X.long(), X / 0, X[:0]])
def test_what_is_no_input_is_not_sent(url: str, model: Model, x: torch.Tensor) -> None:
    with pytest.raises(Invalid, match="`x` should be"):
        box(url)(x)
    assert model.requests == []


def test_a_ledger_writes_each_request_before_the_next(url: str, model: Model, tmp_path: Path) -> None:
    model.faults.extend(["", "", "internal"])
    ledger = AnswerLedger(box(url, rows=16), tmp_path / "answers", "m", rows=16)
    with pytest.raises(BoxFault):
        ledger(X)
    ledger.close()
    ledger = AnswerLedger(box(url, rows=16), tmp_path / "answers", "m", rows=16)
    assert torch.equal(ledger(X), expected(X))
    ledger.close()
    assert model.answered[""] == len(X)


def test_parallel_requests_never_have_more_than_the_budget(url: str, model: Model) -> None:
    model.budgets["a"] = 30
    asked = Metered(ManyAccounts(lambda _: box(url, "a", rows=4, parallel=4), 1, 50), 50)
    answers = torch.cat([part for _, part in ask(asked, X)])
    x = X[: len(answers)]
    assert torch.equal(answers, expected(x))
    assert 30 - 3 * 4 <= len(x) <= model.answered["a"] <= 30


@pytest.mark.thorough
@pytest.mark.slow
def test_boxes_load_without_httpx() -> None:
    code = (
        "import sys, stealguard.boxes, stealguard.auditing; sys.exit('httpx' in sys.modules or 'orjson' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
