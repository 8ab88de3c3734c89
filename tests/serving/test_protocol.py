"""Bodies of requests and responses: what is read, what is refused and how, and that no bytes whatever crash it."""

from __future__ import annotations

import math
import os
import random
import re
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stealguard.serving import protocol
from stealguard.serving.protocol import BadRequest, Query, Spec, read, write

SPEC = Spec("digits", "2", (1, 2, 3), 4, ("a", "b", "c", "d"), rows=5)
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 1, 2, 3)


def tensor(x: Any = X, **changed: Any) -> dict[str, Any]:
    """An input as JSON; a change to None leaves the entry out."""
    given = {"name": "input", "datatype": "FP32", "shape": list(np.shape(x)), "data": np.ravel(x).tolist(), **changed}
    return {name: value for name, value in given.items() if value is not None}


def body(*tensors: dict[str, Any], **more: Any) -> bytes:
    return orjson.dumps({"inputs": list(tensors) or [tensor()], **more})


def binary(x: NDArray[Any] = X, datatype: str = "FP32", **more: Any) -> tuple[bytes, int]:
    """A body with a binary tensor, and the length of its JSON."""
    data = x.tobytes()
    text = body(tensor(x, datatype=datatype, data=None, parameters={"binary_data_size": len(data)}), **more)
    return text + data, len(text)


def refused(sent: bytes, header_length: int | None = None) -> BadRequest:
    with pytest.raises(BadRequest) as e:
        read(sent, header_length, SPEC)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600
    return e.value


@pytest.mark.parametrize("data", [X.ravel().tolist(), X.tolist()], ids=["flat", "nested"])
def test_json_numbers_are_read_as_they_are(data: list[Any]) -> None:
    query = read(body(tensor(data=data)), None, SPEC)
    np.testing.assert_array_equal(query.x, X)
    assert query.x.dtype == np.float32
    assert (query.id, query.binary) == (None, False)


def test_whole_numbers_are_numbers() -> None:
    np.testing.assert_array_equal(read(body(tensor(np.ones((1, 1, 2, 3), int))), None, SPEC).x, 1)


@pytest.mark.parametrize(("datatype", "numpy"), [("FP32", "<f4"), ("FP16", "<f2"), ("FP64", "<f8")])
def test_binary_tensors_are_read_in_each_datatype(datatype: str, numpy: str) -> None:
    sent, length = binary(X.astype(numpy), datatype)
    x = read(sent, length, SPEC).x
    np.testing.assert_array_equal(x, X.astype(numpy).astype(np.float32))
    assert x.dtype == np.float32


@pytest.mark.parametrize("header", [True, False], ids=["after JSON", "raw"])
def test_binary_numbers_of_single_precision_are_not_copied(header: bool) -> None:
    sent, length = binary() if header else (X[:1].tobytes(), 0)
    assert np.shares_memory(read(sent, length, SPEC).x, np.frombuffer(sent, np.uint8))


BELOW_1, ABOVE_1 = (float(np.nextafter(np.float32(1), np.float32(to))) for to in (0, 2))


@pytest.mark.parametrize("value", [0.0, 1e-45, BELOW_1, 1.0, ABOVE_1, 3e38, -1e-45, -1.0])
@pytest.mark.parametrize("place", [0, 5, 11])
def test_numbers_from_0_to_1_are_known_as_such(value: float, place: int) -> None:
    x = np.full(12, 0.5, np.float32)
    x[place] = value
    x = x.reshape(2, 1, 2, 3)
    for sent, length in (binary(x), (body(tensor(x)), None)):
        assert read(sent, length, SPEC).unit == (0 <= value <= 1)


def test_a_header_that_came_before_is_read_for_its_own_tensor_and_model() -> None:
    sent, length = binary(id="again")
    other, more = binary(X + 1, id="again")
    assert sent[:length] == other[:more]
    for tensor_bytes, expected in ((sent, X), (other, X + 1), (sent, X)):
        query = read(tensor_bytes, length, SPEC)
        np.testing.assert_array_equal(query.x, expected)
        assert query.id == "again"
    refused(sent[:-1], length)
    with pytest.raises(BadRequest, match=r"at most 1 input\."):
        read(sent, length, SPEC._replace(rows=1))


def test_a_memoryview_is_read_like_bytes() -> None:
    sent, length = binary()
    np.testing.assert_array_equal(read(memoryview(sent), length, SPEC).x, X)


def test_a_header_length_of_zero_means_raw_numbers_of_one_input() -> None:
    query = read(X[:1].tobytes(), 0, SPEC)
    np.testing.assert_array_equal(query.x, X[:1])
    assert query.binary
    assert "24 bytes" in str(refused(X.tobytes(), 0))
    assert refused(np.full(6, np.nan, np.float32).tobytes(), 0).status == 400


def test_json_may_state_its_own_length() -> None:
    np.testing.assert_array_equal(read(body(), len(body()), SPEC).x, X)


@pytest.mark.parametrize("length", [-1, 10**6])
def test_a_wrong_header_length_is_refused(length: int) -> None:
    assert protocol.HEADER_LENGTH in str(refused(body(), length))


@pytest.mark.parametrize("name", ["", "a", 'sequence 7 \N{SNOWMAN}\n"\\', "x" * 10_000])
def test_an_id_comes_back_as_it_was(name: str) -> None:
    query = read(body(id=name), None, SPEC)
    assert orjson.loads(write(np.ones((2, 4), np.float32), query, SPEC)[0])["id"] == name


def test_no_id_is_left_out_of_the_response() -> None:
    for sent in (body(), body(id=None)):
        assert "id" not in orjson.loads(write(np.ones((2, 4), np.float32), read(sent, None, SPEC), SPEC)[0])


def flagged(value: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "probabilities", "parameters": {"binary_data": value, **more}}]


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"parameters": {"binary_data_output": False}}, False),
        ({"outputs": flagged(True)}, True),
        ({"outputs": flagged(False), "parameters": {"binary_data_output": True}}, False),
        ({"outputs": flagged(True), "parameters": {"binary_data_output": False}}, True),
        ({"outputs": [{"name": "probabilities"}], "parameters": {"binary_data_output": True}}, True),
        ({"outputs": [], "parameters": {"binary_data_output": True}}, True),
        ({"outputs": None, "parameters": None}, False),
        ({"parameters": {"priority": 3, "timeout": 1_000, "of_my_own": [1]}}, False),
    ],
)
def test_what_outputs_say_counts_before_the_parameters(more: dict[str, Any], wanted: bool) -> None:
    assert read(body(**more), None, SPEC).binary is wanted


@pytest.mark.parametrize("extension", [{"classification": 3}, {"classification": 0}, {"shared_memory_region": "r"}])
def test_extensions_that_are_not_there_are_refused_as_such(extension: dict[str, Any]) -> None:
    assert refused(body(outputs=flagged(True, **extension))).status == 501


def test_a_tensor_in_shared_memory_is_refused_as_such() -> None:
    assert refused(body(tensor(parameters={"shared_memory_region": "r"}))).status == 501


@pytest.mark.parametrize(
    "shape",
    [
        [0, 1, 2, 3],
        [-1, 1, 2, 3],
        [True, 1, 2, 3],
        [1, True, 2, 3],
        [1.0, 1, 2, 3],
        ["1", 1, 2, 3],
        [2, 2, 3],
        [2, 1, 2, 3, 1],
        [2, 1, 3, 2],
        [],
        [None],
        [[2], 1, 2, 3],
        {"0": 2},
        "2123",
        12,
        [2**63, 2**62, 4, 4],
        [-(2**62), 1, 2, 3],
        [1] * 10_000,
    ],
    ids=lambda shape: str(shape)[:30],
)  # fmt: skip
def test_shapes_other_than_the_models_are_refused(shape: Any) -> None:
    text = body(tensor(shape=shape))
    assert refused(text).status == 400
    data = X.tobytes()
    text = body(tensor(shape=shape, data=None, parameters={"binary_data_size": len(data)}))
    assert refused(text + data, len(text)).status == 400


@pytest.mark.parametrize("n", [6, 2**31, 2**62, 2**64 - 1])
def test_more_inputs_than_a_request_may_hold_are_too_large(n: int) -> None:
    assert refused(body(tensor(shape=[n, 1, 2, 3]))).status == 413


@pytest.mark.parametrize(
    "data",
    [
        [],
        [1.0] * 11,
        [1.0] * 13,
        [True] * 12,
        [1.0] * 11 + [False],
        ["1"] * 12,
        [None] * 12,
        [1.0] * 11 + [{}],
        [1.0] * 11 + [[1.0]],
        [[1.0] * 6] * 2,
        X[:1].tolist(),
        X.reshape(2, 2, 1, 3).tolist(),
        [X.tolist()],
        [[[[1.0, 2.0, 3.0], [1.0, 2.0]]], [[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]]],
        [[[[1.0, 2.0, 3.0], [1.0, 2.0, [3.0]]]], [[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]]],
        "AAAA",
        {"0": 1.0},
        1.0,
        [1e39] * 12,
        [-1e300] * 12,
    ],
    ids=lambda data: str(data)[:30],
)
def test_data_that_are_not_the_shapes_numbers_are_refused(data: Any) -> None:
    assert refused(body(tensor(data=data))).status == 400


@pytest.mark.parametrize("outputs", [None, flagged(True)], ids=["", "with outputs"])
@pytest.mark.parametrize("data", [X.ravel().tolist(), X.tolist()], ids=["flat", "nested"])
@pytest.mark.parametrize("place", ["-1.0", "1.0]"])
def test_a_list_in_place_of_a_number_is_refused(data: Any, outputs: Any, place: str) -> None:
    """Though the numbers in it would be as many."""
    given = {} if outputs is None else {"outputs": outputs}
    sent = body(tensor(data=data), **given)
    number = place.strip("]")
    for odd in (f"[{number}]", f"[[{number}]]"):
        changed = sent.replace(place.encode(), place.replace(number, odd).encode(), 1)
        assert changed != sent
        assert "flat, or nested" in str(refused(changed))


@pytest.mark.parametrize("data", [X.ravel().tolist(), X.tolist()], ids=["flat", "nested"])
def test_brackets_in_strings_are_no_lists(data: Any) -> None:
    assert read(body(tensor(data=data), id="[[[["), None, SPEC).id == "[[[["


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1e39", "nan", "0x1", "1_0", "01", "+1"])
def test_what_is_no_finite_number_of_json_is_refused(number: str) -> None:
    sent = body().replace(b"-1.0", number.encode(), 1)
    assert sent != body()
    assert refused(sent).status == 400


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("datatype", "numpy"), [("FP32", "<f4"), ("FP16", "<f2"), ("FP64", "<f8")])
def test_binary_numbers_that_are_not_finite_are_refused(value: float, datatype: str, numpy: str) -> None:
    x = X.astype(numpy)
    x[1, 0, 1, 2] = value
    assert "finite" in str(refused(*binary(x, datatype)))


def test_a_binary_number_beyond_single_precision_is_refused() -> None:
    assert "finite" in str(refused(*binary(np.full_like(X, 1e300, np.float64), "FP64")))


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "x"},
        {"name": None},
        {"datatype": None},
        {"datatype": "INT64"},
        {"datatype": "BYTES"},
        {"datatype": ["FP32"]},
        {"shape": None},
        {"data": None},
        {"parameters": []},
        {"parameters": {"binary_data_size": 48}},
    ],
    ids=str,
)
def test_a_tensor_that_breaks_a_rule_is_refused(changed: dict[str, Any]) -> None:
    assert refused(body(tensor(**changed))).status == 400


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"inputs"',
        b"{}",
        b'{"inputs": null}',
        b'{"inputs": []}',
        b'{"inputs": [1]}',
        b'{"inputs": {"input": 1}}',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"inputs": "\xff"}',
        b'{"id": "\\ud800"}',
        b'{"i\\u0000d": 1}',
        b"[" * 10_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
        body(tensor(), tensor()),
        body(id=1),
        body(id="a" * 10_001),
        body(id=["a"]),
        body(parameters=[1]),
        body(parameters={"binary_data_output": 1}),
        body(parameters={"binary_data_output": None}),
        body(outputs={}),
        body(outputs=[1]),
        body(outputs=[{"name": "logits"}]),
        body(outputs=flagged(True) * 2),
        body(outputs=flagged("true")),
        body(outputs=[{"name": "probabilities", "parameters": 1}]),
    ],
    ids=lambda sent: repr(sent[:25]),
)
def test_requests_that_break_a_rule_are_refused(sent: bytes) -> None:
    assert refused(sent).status in (400, 413)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b'{"inputs": [NaN]}', "The JSON document has an improper structure"),
        (b'{"inputs": [', "The JSON document has an improper structure"),
        (b'{"inputs": [1e999]}', "Problem while parsing a number"),
        (b'{"id": 99999999999999999999999}', "Big integer value that cannot be represented using 64 bits"),
        (b'{"id": "\xff"}', "The input is not valid UTF-8"),
        (b"", "no JSON found"),
    ],
)
def test_what_is_no_json_is_told_in_a_sentence(sent: bytes, reason: str) -> None:
    rule = "JSON, without NaN or Infinity, and with whole numbers of at most 64 bits"
    assert str(refused(sent)) == f"The request should be {rule} ({reason})."


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ([4, 2, 2, 3], "[4, 2, 2, 3]"),
        ([4, 1, 3], "[4, 1, 3]"),
        ([2.5, "a", True, None, [1], {}, 7, 8], "[2.5, `a`, `True`, `None`, a list of 1, an object of 0, 7, 8]"),
        ([1] * 9, "a list of 9"),
        ([], "[]"),
        ("2123", "`2123`"),
    ],
)
def test_a_wrong_shape_is_told_by_its_numbers(shape: Any, found: str) -> None:
    rule = "`shape` should be [N, 1, 2, 3] with N >= 1"
    assert str(refused(body(tensor(shape=shape)))) == f"{rule}. Found {found}."


@pytest.mark.parametrize("change", [-1, 1, 4])
def test_bytes_that_are_left_over_or_missing_are_refused(change: int) -> None:
    sent, length = binary()
    assert refused(sent[:change] if change < 0 else sent + bytes(change), length).status == 400


@pytest.mark.parametrize("size", [0, -48, 47, 49, 48.0, "48", True, 2**70, None])
def test_a_wrong_binary_size_is_refused(size: Any) -> None:
    text = orjson.dumps({"inputs": [tensor(data=None, parameters={"binary_data_size": 0})]})
    text = text.replace(b'_size":0', b'_size":' + str(orjson.dumps(size).decode() if size != 2**70 else size).encode())
    assert refused(text + X.tobytes(), len(text)).status == 400


def test_binary_bytes_for_a_shape_of_other_size_are_refused() -> None:
    text = body(tensor(X[:1], data=None, parameters={"binary_data_size": X.nbytes}))
    assert "24 bytes" in str(refused(text + X.tobytes(), len(text)))


def test_a_tensor_with_data_and_bytes_is_refused() -> None:
    text = body(tensor(parameters={"binary_data_size": X.nbytes}))
    assert "Found both" in str(refused(text + X.tobytes(), len(text)))


@pytest.mark.parametrize("filler", [b"[],", b"{},", b"1.5,"])
def test_a_text_that_would_take_much_memory_once_parsed_is_too_large(filler: bytes) -> None:
    assert refused(b'{"inputs": [' + filler * 50_000 + b"1]}").status == 413


@pytest.mark.parametrize("where", ["", "tensor", "parameters", "output"])
def test_an_object_of_many_entries_is_refused_at_once(where: str) -> None:
    """Each entry is looked for from the beginning, so that reading all of them would take hours."""
    many = {f"k{number}": number for number in range(900)}
    output = flagged(True)[0]
    sent = {
        "": body(**many),
        "tensor": body(tensor(**many)),
        "parameters": body(parameters=many),
        "output": body(outputs=[output | many]),
    }[where]
    assert "at most 100 entries" in str(refused(sent))


@pytest.mark.parametrize("name", ["id", "data", "shape", "priority"])
def test_a_name_that_is_given_twice_is_refused(name: str) -> None:
    """Some readers take the first of the values, and others the last."""
    sent = body(tensor(parameters={"priority": 1}), id="a")
    again = sent.replace(f'"{name}":'.encode(), f'"{name}":0,"{name}":'.encode(), 1)
    assert again != sent
    assert "names in an object should be different" in str(refused(again))


def test_the_greatest_request_in_its_most_nested_form_is_read() -> None:
    spec = Spec("m", "1", (3, 16, 16), 2, rows=64)
    x = np.random.default_rng(0).random((64, 3, 16, 16), np.float32)
    sent = orjson.dumps({"inputs": [tensor(x, data=x.tolist())], "outputs": flagged(True)})
    np.testing.assert_array_equal(read(sent, None, spec).x, x)


# Responses --------------------------------------------------------------------------------------------------


def answers(n: int) -> NDArray[np.float32]:
    return np.random.default_rng(n).dirichlet(np.ones(4), n).astype(np.float32)


@pytest.mark.parametrize("n", [1, 5])
def test_answers_are_written_as_json_to_the_last_bit(n: int) -> None:
    text, headers = write(answers(n), Query(X, "7", False), SPEC)
    assert headers == {"content-type": "application/json"}
    response = orjson.loads(text)
    assert (response["id"], response["model_name"], response["model_version"]) == ("7", "digits", "2")
    (output,) = response["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [n, 4])
    np.testing.assert_array_equal(np.array(output["data"]).astype(np.float32).reshape(n, 4), answers(n))


@pytest.mark.parametrize("n", [1, 5])
def test_answers_are_written_as_bytes(n: int) -> None:
    sent, headers = write(answers(n), Query(X, None, True), SPEC)
    length = int(headers[protocol.HEADER_LENGTH])
    (output,) = orjson.loads(sent[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 16 * n}
    assert "data" not in output
    np.testing.assert_array_equal(np.frombuffer(sent[length:], "<f4").reshape(output["shape"]), answers(n))


def test_answers_that_are_a_view_are_written_in_their_order() -> None:
    view = np.asfortranarray(answers(5))[::2]
    text, _ = write(view, Query(X, None, False), SPEC)
    np.testing.assert_array_equal(np.float32(orjson.loads(text)["outputs"][0]["data"]), view.ravel())
    sent, headers = write(view, Query(X, None, True), SPEC)
    np.testing.assert_array_equal(np.frombuffer(sent[int(headers[protocol.HEADER_LENGTH]) :], "<f4"), view.ravel())


def test_metadata_tell_shapes_versions_and_names() -> None:
    found = protocol.model_metadata(SPEC, ["1", "2"])
    assert found["versions"] == ["1", "2"]
    assert found["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 2, 3]}]
    assert found["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 4]}]
    assert found["parameters"] == {"rows": 5, "class_names": ["a", "b", "c", "d"]}
    told = protocol.model_metadata(SPEC._replace(confidence="All alike."), ["1"])["parameters"]
    assert told["confidence"] == "All alike."
    assert "binary_tensor_data" in protocol.server_metadata("1.0")["extensions"]
    assert protocol.repository_index([SPEC]) == [{"name": "digits", "version": "2", "state": "READY", "reason": ""}]
    assert protocol.repository_index([SPEC], ready=False)[0]["state"] == "UNAVAILABLE"


# Any bytes --------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def python_json(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()  # NaN and Infinity too


def reads_or_refuses(sent: bytes, length: int | None) -> bool:
    """Whether the body is read; a query that is read obeys the rules. Anything but `BadRequest` is a crash."""
    try:
        query = read(sent, length, SPEC)
    except BadRequest as e:
        status = e.status
    else:
        status = 200
        check_query(query)
    assert status in (200, 400, 413, 501)
    return status == 200


def check_query(query: Query) -> None:
    assert query.x.dtype == np.float32
    assert query.x.shape[1:] == SPEC.shape
    assert 1 <= len(query.x) <= SPEC.rows
    assert np.isfinite(query.x).all()
    assert type(query.binary) is bool
    assert query.id is None or type(query.id) is str
    write(np.zeros((len(query.x), 4), np.float32), query, SPEC)


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
def test_any_bytes_are_read_or_refused(sent: bytes, length: int | None) -> None:
    reads_or_refuses(sent, length)


@pytest.mark.slow
@given(
    st.fixed_dictionaries(
        {},
        optional={"id": JSON, "inputs": JSON, "outputs": JSON, "parameters": JSON},
    )
)
def test_any_values_are_read_or_refused(request: dict[str, Any]) -> None:
    reads_or_refuses(python_json(request), None)


@pytest.mark.slow
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(["name", "datatype", "shape", "data", "parameters"], JSON)
        | {"binary_data_size": st.integers(-10, 100)},
    ),
    st.binary(max_size=60),
)
def test_any_tensor_is_read_or_refused(changed: dict[str, Any], data: bytes) -> None:
    text = python_json({"inputs": [{**tensor(), **changed}]})
    reads_or_refuses(text + data, len(text))


@pytest.mark.slow
@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6 * n, max_size=6 * n)
    )
)
def test_any_finite_numbers_are_read_exactly_in_each_form(numbers: list[float]) -> None:
    x = np.array(numbers, np.float32).reshape(-1, 1, 2, 3)
    for sent, length in [(body(tensor(x)), None), (body(tensor(x, data=x.tolist())), None), binary(x)]:
        np.testing.assert_array_equal(read(sent, length, SPEC).x.view(np.uint32) << 1, x.view(np.uint32) << 1)


SEEDS = [
    (body(), None),
    (body(tensor(data=X.tolist()), id="1"), None),
    (body(outputs=flagged(True), parameters={"binary_data_output": False}), None),
    binary(),
    binary(X.astype(np.float64), "FP64", id="2"),
    binary(X.astype(np.float16), "FP16", parameters={"binary_data_output": True}),
    (X[:1].tobytes(), 0),
]
PARTS = [b"[", b"]", b"{", b"}", b",", b":", b'"', b"1e309", b"-0", b"NaN", b"true", b"null", b"\\u0000", b"\xff",
         b"9" * 40, b'"inputs"', b'"shape"', b'"data"', b"binary_data_size", b"[" * 2_000, b"0.1,", b"\0"]  # fmt: skip


def mutated(rng: random.Random) -> tuple[bytes, int | None]:
    """A valid body after a few edits: cut, repeated, overwritten or with parts put in."""
    sent, length = rng.choice(SEEDS)
    text = bytearray(sent)
    for _ in range(rng.randint(1, 4)):
        at, to = sorted(rng.randint(0, len(text)) for _ in range(2))
        match rng.randrange(6):
            case 0:
                del text[at : min(to, at + 20)]
            case 1:
                text[at:at] = rng.choice(PARTS)
            case 2:
                text[at:at] = text[at : min(to, at + 50)]
            case 3 if text:
                text[min(at, len(text) - 1)] = rng.randrange(256)
            case 4:
                del text[at:]
            case _:
                found = [m.span() for m in re.finditer(rb"[\d.]+|true|false|\w+", bytes(text))]
                if found:
                    start, end = rng.choice(found)
                    text[start:end] = rng.choice(PARTS)
    if length is not None and rng.random() < 0.3:
        length = rng.choice([0, 1, length + rng.randint(-3, 3), len(text), len(text) + 1, -1])
    return bytes(text), length


def test_mutated_bodies_are_read_or_refused() -> None:
    count = 1_000_000 if os.environ.get("STEALGUARD_ALL") else 2_000
    rng = random.Random(19)
    read_ones = sum(reads_or_refuses(*mutated(rng)) for _ in range(count))
    assert 0.01 * count < read_ones < 0.6 * count, "the edits are neither too gentle nor too rough"
