"""Open Inference Protocol v2 as pure functions: bytes of a request -> inputs, answers -> bytes of a response.

Source: the REST section of the Open Inference Protocol, and its binary tensor data extension as Triton defines it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray
from simdjson import Array, Object

from stealguard.errors import StealguardError, counted

INPUT = "input"
OUTPUT = "probabilities"
HEADER_LENGTH = "inference-header-content-length"
"""Header that tells how many bytes of a body are JSON; binary tensors follow them."""

_SMALL = 65_536  # bytes of JSON that are parsed without a look at what they would become
_OTHERS = 1_000  # commas, and lists, of a request beside those of its inputs
_ENTRIES = 100  # of an object: each is looked for from its object's beginning
_REPEATED = 1_024  # bytes of JSON before a binary tensor that are kept: most of a client's requests have the same
_SHOWN = 8  # entries, at most, of a list that a message shows
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
        confidence: what the probability of the class that is named says, in sentences, or empty.
    """

    name: str
    version: str
    shape: tuple[int, ...]
    classes: int
    names: tuple[str, ...] = ()
    rows: int = 1024
    identity: str = ""
    confidence: str = ""


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
    return _query(_inputs(given, rest), given.id, given.binary)


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
    """What GET /v2/models/NAME answers; what the protocol has no place for is among the `parameters`."""
    told = {"class_names": list(spec.names), "identity": spec.identity, "confidence": spec.confidence}
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
    if isinstance(value, Object | Array):
        return f"{'an object' if isinstance(value, Object) else 'a list'} of {len(value)}"
    return f"`{str(value)[:40]}`"


def _listed(given: object) -> str:
    """A list with its entries where these are few, and anything else as `_short` has it."""
    if not isinstance(given, Array) or len(given) > _SHOWN:
        return _short(given)
    return f"[{', '.join(str(v) if type(v) in (int, float) else _short(v) for v in given)}]"


class _Given(NamedTuple):
    """What the JSON of a request says, but for the numbers in it.

    Attributes:
        id: of the request.
        binary: whether the answers go back as a binary tensor.
        x: the inputs (N, *shape), if the JSON holds them.
        datatype: of the input.
        shape: of the input.
        size: how many bytes the input has after the JSON, or None.
    """

    id: str | None
    binary: bool
    x: NDArray[np.float32] | None
    datatype: np.dtype[Any]
    shape: tuple[int, ...]
    size: object


def _given(text: bytes, spec: Spec) -> _Given:
    request = _parsed(text, spec)
    given_id = request.get("id")
    if given_id is not None and (type(given_id) is not str or len(given_id) > _ID):
        raise BadRequest(f"`id` should be a string of at most {_ID:,} characters. Found {_short(given_id)}.")
    tensors, outputs = request.get("inputs"), request.get("outputs")
    if not isinstance(tensors, Array) or len(tensors) != 1 or not isinstance(tensors[0], Object):
        raise BadRequest(f"`inputs` should be a list of one tensor, `{INPUT}`. Found {_short(tensors)}.")
    tensor = _entries(tensors[0])
    if tensor.get("name") != INPUT:
        raise BadRequest(f"The input's `name` should be `{INPUT}`. Found {_short(tensor.get('name'))}.")
    datatype = tensor.get("datatype")
    if type(datatype) is not str or datatype not in _DATATYPES:
        raise BadRequest(f"`datatype` should be one of {', '.join(_DATATYPES)}. Found {_short(datatype)}.")
    shape = _shape(tensor.get("shape"), spec)
    parameters = _parameters(tensor)
    if "shared_memory_region" in parameters:
        raise BadRequest("This server takes no tensors in shared memory.", 501)
    data, size = tensor.get("data"), parameters.get("binary_data_size")
    if data is not None and size is not None:
        raise BadRequest("A tensor should have `data` or `binary_data_size`. Found both.")
    lists = 2 + isinstance(outputs, Array)  # beside those of `data`
    x = _from_json(data, text, shape, lists) if size is None else None
    return _Given(given_id, _wants_binary(request), x, _DATATYPES[datatype], shape, size)


_repeated = lru_cache(64)(_given)


def _parsed(text: bytes, spec: Spec) -> dict[str, Any]:
    """The request, whose lists and objects stay in the parser's memory: numbers become no Python objects.

    A number or a list takes two bytes of the text at least, and 24 bytes of that memory: they are counted before.
    """
    if len(text) > _SMALL:
        lists = sum(prod(spec.shape[:axis]) for axis in range(len(spec.shape)))
        for mark, most in ((",", prod(spec.shape)), ("[", lists)):
            if _count(text, mark) > most * spec.rows + _OTHERS:
                found = f"too many `{mark}`"
                raise BadRequest(f"A request should hold at most {counted(spec.rows, 'input')}. Found {found}.", 413)
    try:
        request = simdjson.Parser().parse(text)
    except (ValueError, RuntimeError) as e:
        known = re.search(r"[A-Z]: ([^:.]+)", str(e))  # the parser's name of an error, and the error in a few words
        reason = f" ({known[1]})" if known else ""
        rule = "JSON, without NaN or Infinity, and with whole numbers of at most 64 bits"
        raise BadRequest(f"The request should be {rule}{reason}.") from None
    if not isinstance(request, Object):
        raise BadRequest(f"The request should be a JSON object. Found {_short(request)}.")
    return _entries(request)


def _entries(given: Object) -> dict[str, Any]:
    if len(given) > _ENTRIES:
        raise BadRequest(f"An object should have at most {_ENTRIES} entries. Found {len(given)}.")
    try:
        entries = dict(given)
    except KeyError:  # the parser looks for a name up to its first zero
        raise BadRequest("The names in an object should be without the character of code 0.") from None
    if len(entries) < len(given):  # the parser would read the first of them, and others the last
        raise BadRequest("The names in an object should be different. Found one again.")
    return entries


def _count(text: bytes, mark: str) -> int:
    """How many of them there are; the own way of long bytes takes five times as long as numpy's."""
    if len(text) <= _SMALL:
        return text.count(mark.encode())
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord(mark)))


def _parameters(of: Mapping[str, Any]) -> Mapping[str, Any]:
    given = of.get("parameters")
    if given is None:
        return {}
    if not isinstance(given, Object):
        raise BadRequest(f"`parameters` should be an object. Found {_short(given)}.")
    return _entries(given)


def _inputs(given: _Given, rest: memoryview) -> NDArray[np.float32]:
    """The inputs (N, *shape), from the JSON text or from the binary `rest` of the body."""
    if given.x is not None:
        if len(rest):
            raise BadRequest(f"The body should end with the JSON. Found {counted(len(rest), 'further byte')}.")
        return given.x
    size = given.size
    if type(size) is not int or size != len(rest):
        raise BadRequest(f"`binary_data_size` should be {len(rest)}, the bytes after the JSON. Found {_short(size)}.")
    return _from_bytes(rest, given.datatype, given.shape)


def _shape(given: object, spec: Spec) -> tuple[int, ...]:
    """The shape (N, *spec.shape) that a request states, checked in Python's integers, which do not overflow."""
    shape: tuple[Any, ...] = tuple(given) if isinstance(given, Array) and len(given) == 1 + len(spec.shape) else ()
    whole = {*map(type, shape)} == {int}  # a boolean is an int to isinstance
    if not whole or shape[1:] != spec.shape or shape[0] < 1:
        rule = f"[N, {', '.join(map(str, spec.shape))}] with N >= 1"
        raise BadRequest(f"`shape` should be {rule}. Found {_listed(given)}.")
    if shape[0] > spec.rows:
        raise BadRequest(f"A request should hold at most {counted(spec.rows, 'input')}. Found {shape[0]}.", 413)
    return shape


def _from_bytes(data: bytes | memoryview, datatype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    size = prod(shape) * datatype.itemsize
    if len(data) != size:
        raise BadRequest(f"The tensor should have {size} bytes. Found {len(data)}.")
    numbers = np.ndarray(shape, datatype, data)
    if datatype == np.float32:
        return numbers
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return numbers.astype(np.float32)


def _from_json(data: object, text: bytes, shape: tuple[int, ...], others: int) -> NDArray[np.float32]:
    """Inputs from `data`, flat or nested like the shape; in `text` there are at least so many other lists."""
    if not isinstance(data, Array):
        raise BadRequest(f"`data` should be a list of numbers. Found {_short(data)}.")
    lists = [data]
    if len(data) and isinstance(data[0], Array):
        lists = _nested(data, shape)
        others += sum(prod(shape[:axis]) for axis in range(len(shape) - 1))
    try:
        numbers = np.frombuffer(data.as_buffer(of_type="d"))
    except TypeError:
        raise BadRequest("`data` should be numbers alone.") from None
    count = prod(shape)
    # What has lists in place of numbers was read as if it had not; it is slow to look at.
    odd = _count(text, "[") > others + len(lists) and any(isinstance(v, Array) for numbers in lists for v in numbers)
    if odd:
        raise BadRequest(f"`data` should be flat, or nested like the shape {list(shape)}.")
    if len(numbers) != count:
        raise BadRequest(f"`data` should have {counted(count, 'number')}. Found {len(numbers)}.")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return numbers.astype(np.float32).reshape(shape)


def _nested(data: Array, shape: tuple[int, ...]) -> list[Array]:
    """The innermost lists of `data`, in their order."""
    lists: list[Any] = [data]
    for axis, size in enumerate(shape):
        if axis:
            lists = [part for each in lists for part in each]
        if any(not isinstance(each, Array) or len(each) != size for each in lists):
            raise BadRequest(f"`data` should be flat, or nested like the shape {list(shape)}.")
    return lists


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
    if outputs is None or (isinstance(outputs, Array) and not len(outputs)):
        return default
    if not isinstance(outputs, Array) or len(outputs) != 1 or not isinstance(outputs[0], Object):
        raise BadRequest(f"`outputs` should be a list of one output, `{OUTPUT}`. Found {_short(outputs)}.")
    output = _entries(outputs[0])
    if output.get("name") != OUTPUT:
        raise BadRequest(f"The output's `name` should be `{OUTPUT}`. Found {_short(output.get('name'))}.")
    parameters = _parameters(output)
    for extension in ("classification", "shared_memory_region"):
        if extension in parameters:
            raise BadRequest(f"This server does not do the extension `{extension}`.", 501)
    return _flag(parameters, "binary_data", default)


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise BadRequest(f"`{name}` should be true or false. Found {_short(value)}.")
    return value
