"""Open Inference Protocol v2 as pure functions: bytes of a request -> inputs, answers -> bytes of a response.

Source: the REST section of the Open Inference Protocol, and its binary tensor data extension as Triton defines it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from stealguard.errors import StealguardError

INPUT = "input"
OUTPUT = "probabilities"
HEADER_LENGTH = "inference-header-content-length"
"""Header that tells how many bytes of a body are JSON; binary tensors follow them."""

_SMALL = 65_536  # bytes of JSON that are parsed without a look at what they would become
_OTHERS = 1_000  # commas, lists and objects of a request beside those of its inputs
_REPEATED = 1_024  # bytes of JSON before a binary tensor that are kept: most of a client's requests have the same
_ID = 10_000  # characters of an `id`, which is kept until its request is answered
_DATATYPES: Mapping[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2"), "FP64": np.dtype("<f8")}
_ONE = int(np.float32(1).view(np.uint32))


class Spec(NamedTuple):
    """What the protocol tells of a served model.

    Attributes:
        name: of the model.
        version: of the model.
        shape: of one input, without the batch's axis.
        classes: how many probabilities an answer has.
        names: of the classes, or empty.
        rows: how many inputs a request may hold.
        identity: SHA-256 (hex) of all that the answers follow from, or empty.
    """

    name: str
    version: str
    shape: tuple[int, ...]
    classes: int
    names: tuple[str, ...] = ()
    rows: int = 1024
    identity: str = ""


class Query(NamedTuple):
    """What a request asks.

    Attributes:
        x: the inputs (N, *shape), finite, in the units that users have. They may be the body's own memory, which is
            read-only, and not aligned.
        id: that the response repeats, or None.
        binary: whether the answers go back as a binary tensor.
        unit: whether all numbers are known to be in [0, 1].
    """

    x: NDArray[np.float32]
    id: str | None = None
    binary: bool = False
    unit: bool = False


class BadRequest(StealguardError):
    """A request breaks a rule of the protocol or a limit; `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type[BadRequest], tuple[str, int]]:
        return type(self), (str(self), self.status)


def read(body: bytes | memoryview, header_length: int | None, spec: Spec) -> Query:
    """The inputs that a request's body holds.

    Args:
        body: decompressed.
        header_length: how many of its bytes are JSON; None for all, 0 for one input as raw FP32 numbers.
        spec: of the model that is asked.

    Raises:
        BadRequest: the body breaks a rule of the protocol (400), holds too many inputs (413), or asks for something
            that this server does not do (501).

    >>> spec = Spec("m", "1", (2,), classes=3)
    >>> read(b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1]}]}', None, spec).x
    array([[0.5, 1. ]], dtype=float32)
    """
    text, rest = bytes(body), memoryview(b"")  # bytes are not copied
    if header_length == 0:
        return _query(_from_bytes(text, _DATATYPES["FP32"], (1, *spec.shape)), None, True)
    if header_length is not None:
        if not 0 < header_length <= len(text):
            raise BadRequest(f"`{HEADER_LENGTH}` should be from 0 to the body's {len(text)}. Found {header_length}.")
        text, rest = text[:header_length], memoryview(text)[header_length:]
    given = (_repeated if len(rest) and len(text) <= _REPEATED else _given)(text, spec)
    return _query(_inputs(given, text, rest), given.id, given.binary)


def write(answers: NDArray[np.float32], query: Query, spec: Spec) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of the response that carries the answers (N, K)."""
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": answers.shape}
    response: dict[str, Any] = {"model_name": spec.name, "model_version": spec.version, "outputs": [output]}
    if query.id is not None:
        response["id"] = query.id
    if not query.binary:
        output["data"] = np.ascontiguousarray(answers).ravel()
        return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY), {"content-type": "application/json"}
    data = answers.astype("<f4", copy=False).tobytes()
    output["parameters"] = {"binary_data_size": len(data)}
    text = orjson.dumps(response)
    return text + data, {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def server_metadata(version: str) -> dict[str, Any]:
    """What GET /v2 answers."""
    return {"name": "stealguard", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(spec: Spec, versions: Sequence[str]) -> dict[str, Any]:
    """What GET /v2/models/NAME answers; the classes' names and the identity are among the `parameters`."""
    told = {"class_names": list(spec.names), "identity": spec.identity}
    return {
        "name": spec.name,
        "versions": list(versions),
        "platform": "stealguard",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *spec.shape]}],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, spec.classes]}],
        "parameters": {"rows": spec.rows, **{name: value for name, value in told.items() if value}},
    }


def repository_index(specs: Iterable[Spec], ready: bool = True) -> list[dict[str, str]]:
    """What POST /v2/repository/index answers."""
    state = {"state": "READY", "reason": ""} if ready else {"state": "UNAVAILABLE", "reason": "The server is closing."}
    return [{"name": spec.name, "version": spec.version, **state} for spec in specs]


def _short(value: object) -> str:
    """A value as messages show it: a client may send one of any size."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return f"`{str(value)[:40]}`"


class _Given(NamedTuple):
    """What the JSON of a request says, but for the numbers in it.

    Attributes:
        id: of the request.
        binary: whether the answers go back as a binary tensor.
        tensor: the input.
        datatype: of the input.
        shape: of the input.
        size: how many bytes the input has after the JSON, or None.
    """

    id: str | None
    binary: bool
    tensor: Mapping[str, Any]
    datatype: np.dtype[Any]
    shape: tuple[int, ...]
    size: object


def _given(text: bytes, spec: Spec) -> _Given:
    request = _parsed(text, spec)
    given_id = request.get("id")
    if given_id is not None and (type(given_id) is not str or len(given_id) > _ID):
        raise BadRequest(f"`id` should be a string of at most {_ID:,} characters. Found {_short(given_id)}.")
    tensors = request.get("inputs")
    if type(tensors) is not list or len(tensors) != 1 or type(tensors[0]) is not dict:
        raise BadRequest(f"`inputs` should be a list of one tensor, `{INPUT}`. Found {_short(tensors)}.")
    tensor = tensors[0]
    if tensor.get("name") != INPUT:
        raise BadRequest(f"The input's `name` should be `{INPUT}`. Found {_short(tensor.get('name'))}.")
    datatype = tensor.get("datatype")
    if type(datatype) is not str or datatype not in _DATATYPES:
        raise BadRequest(f"`datatype` should be one of {', '.join(_DATATYPES)}. Found {_short(datatype)}.")
    shape = _shape(tensor.get("shape"), spec)
    parameters = _parameters(tensor)
    if "shared_memory_region" in parameters:
        raise BadRequest("This server takes no tensors in shared memory.", 501)
    size = parameters.get("binary_data_size")
    return _Given(given_id, _wants_binary(request), tensor, _DATATYPES[datatype], shape, size)


_repeated = lru_cache(64)(_given)


def _parsed(text: bytes, spec: Spec) -> dict[str, Any]:
    if len(text) > _SMALL:
        _check_marks(text, spec)
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError as e:
        raise BadRequest(f"The request should be JSON ({e}).") from None
    if type(request) is not dict:
        raise BadRequest(f"The request should be a JSON object. Found {_short(request)}.")
    return request


def _check_marks(text: bytes, spec: Spec) -> None:
    """The text has no more commas, lists and objects than the greatest request needs.

    Each takes two or three bytes of the text, and up to 70 bytes of memory once it is parsed.
    """
    lists = sum(prod(spec.shape[:axis]) for axis in range(len(spec.shape)))
    for mark, most in ((",", prod(spec.shape)), ("[", lists), ("{", 0)):
        if np.count_nonzero(np.frombuffer(text, np.uint8) == ord(mark)) > most * spec.rows + _OTHERS:
            raise BadRequest(f"A request should hold at most {spec.rows} inputs. Found too many `{mark}`.", 413)


def _parameters(of: Mapping[str, Any]) -> Mapping[str, Any]:
    given = of.get("parameters")
    if given is None:
        return {}
    if type(given) is not dict:
        raise BadRequest(f"`parameters` should be an object. Found {_short(given)}.")
    return given


def _inputs(given: _Given, text: bytes, rest: memoryview) -> NDArray[np.float32]:
    """The inputs (N, *shape), from the JSON text or from the binary `rest` of the body."""
    tensor, size = given.tensor, given.size
    if size is None:
        if len(rest):
            raise BadRequest(f"The body should end with the JSON. Found {len(rest)} further bytes.")
        return _from_json(tensor.get("data"), text, given.shape)
    if type(size) is not int or size != len(rest):
        raise BadRequest(f"`binary_data_size` should be the {len(rest)} bytes after the JSON. Found {_short(size)}.")
    if "data" in tensor:
        raise BadRequest("A tensor should have `data` or `binary_data_size`. Found both.")
    return _from_bytes(rest, given.datatype, given.shape)


def _shape(given: object, spec: Spec) -> tuple[int, ...]:
    """The shape (N, *spec.shape) that a request states, checked in Python's integers, which do not overflow."""
    if (
        type(given) is not list
        or {*map(type, given)} != {int}  # a boolean is an int to isinstance
        or len(given) != 1 + len(spec.shape)
        or tuple(given[1:]) != spec.shape
        or given[0] < 1
    ):
        found = f"[{', '.join(map(_short, given[:8]))}]" if type(given) is list else _short(given)
        raise BadRequest(f"`shape` should be [N, {', '.join(map(str, spec.shape))}] with N >= 1. Found {found}.")
    if given[0] > spec.rows:
        raise BadRequest(f"A request should hold at most {spec.rows} inputs. Found {given[0]}.", 413)
    return tuple(given)


def _from_bytes(data: bytes | memoryview, datatype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    size = prod(shape) * datatype.itemsize
    if len(data) != size:
        raise BadRequest(f"The tensor should have {size} bytes. Found {len(data)}.")
    numbers = np.ndarray(shape, datatype, data)
    if datatype == np.float32:
        return numbers
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return numbers.astype(np.float32)


def _from_json(data: object, text: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Inputs from `data`, flat or nested like the shape; `text` is the JSON that it came from."""
    if type(data) is not list:
        raise BadRequest(f"`data` should be a list of numbers. Found {_short(data)}.")
    numbers = _flat(data, shape)
    count = prod(shape)
    if len(numbers) != count:
        raise BadRequest(f"`data` should have {count} numbers. Found {len(numbers)}.")
    x = np.empty(count, np.float32)
    try:
        struct.pack_into(f"{count}f", x.data, 0, *numbers)  # twice as fast as numpy, which also takes strings and null
    except struct.error:
        raise BadRequest("`data` should be numbers alone.") from None
    # A text without these letters holds neither true nor false; types are slow to look at.
    if (b"r" in text or b"l" in text) and bool in set(map(type, numbers)):
        raise BadRequest("`data` should be numbers alone. Found true or false.")
    return x.reshape(shape)


def _flat(data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The numbers in `data` in their order, whether it is flat or nested."""
    if not data or type(data[0]) is not list:
        return data
    rows: list[Any] = [data]
    for size in shape:
        if any(type(row) is not list or len(row) != size for row in rows):
            raise BadRequest(f"`data` should be flat, or nested like the shape {list(shape)}.")
        rows = list(chain.from_iterable(rows))
    return rows


def _query(x: NDArray[np.float32], given_id: str | None, binary: bool) -> Query:
    """The query, if its inputs are finite.

    As whole numbers, the bits of the numbers from 0 to 1 are in their order, and those of all others, -0 too, are
    greater: one look at each number tells whether all are finite and in [0, 1].
    """
    bits = x.view(np.uint32)
    unit = bits.item(bits.argmax()) <= _ONE  # `max` takes five times as long for few numbers
    if not (unit or np.isfinite(x).all()):
        raise BadRequest("The inputs should be finite numbers within the range of FP32.")
    return Query(x, given_id, binary, unit)


def _wants_binary(request: Mapping[str, Any]) -> bool:
    """Whether the answers go back as a binary tensor: what `outputs` says counts before `parameters`."""
    default = _flag(_parameters(request), "binary_data_output", False)
    outputs = request.get("outputs")
    if outputs is None or outputs == []:
        return default
    if type(outputs) is not list or len(outputs) != 1 or type(outputs[0]) is not dict:
        raise BadRequest(f"`outputs` should be a list of one output, `{OUTPUT}`. Found {_short(outputs)}.")
    if outputs[0].get("name") != OUTPUT:
        raise BadRequest(f"The output's `name` should be `{OUTPUT}`. Found {_short(outputs[0].get('name'))}.")
    parameters = _parameters(outputs[0])
    for extension in ("classification", "shared_memory_region"):
        if extension in parameters:
            raise BadRequest(f"This server does not do the extension `{extension}`.", 501)
    return _flag(parameters, "binary_data", default)


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise BadRequest(f"`{name}` should be true or false. Found {_short(value)}.")
    return value
