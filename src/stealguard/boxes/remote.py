"""A model behind a server that speaks the Open Inference Protocol, version 2, as a black box.

The protocol: https://github.com/kserve/open-inference-protocol. Tensors travel as binary data where the server's
`extensions` list `binary_tensor_data`, and as JSON elsewhere; both carry float32 without any loss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealguard.boxes.base import SUM_OFF, as_answers, looks_like_logits
from stealguard.boxes.http import Client, Response, said
from stealguard.boxes.metered import check_answers
from stealguard.checks import check_numbers
from stealguard.errors import BoxFault, BudgetExhausted, Invalid, Refused, StealguardError, counted, require

ROWS = 64  # in a request, where neither the server nor the user says how many
ROUNDED_SUM = 1.5  # the largest sum of probabilities that were rounded, each for itself; logits are soon beyond it
QUICK = 5.0  # seconds of patience for what is read before anything is asked
LARGEST_BODY = 16 * 2**20  # bytes of a request's inputs, where the user does not say how many rows it has
BINARY = "inference-header-content-length"
_DTYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_PATH = re.compile(
    r"(?P<prefix>.*?)(?:/v2(?:/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/infer)?)?)?/*"
)


class Told(NamedTuple):
    """What a server tells of a model; `shape` is () and `classes` 0 where it does not."""

    name: str
    version: str
    input: str
    input_type: str
    shape: tuple[int, ...]  # of one input
    output: str
    classes: int
    names: tuple[str, ...]  # of the classes
    rows: int  # in one request, at most
    binary: bool  # whether tensors may travel as binary data
    identity: str  # SHA-256 (hex) of all that the answers follow from, as a stealguard server tells it; "" elsewhere
    versions: tuple[str, ...] = ()  # that the server has of the model


class Endpoint:
    """A model behind a server. Reading what the server tells of it is all that making one asks.

    Args:
        url: `http(s)://host[:port][/prefix][/v2[/models/NAME[/versions/VERSION]]]`.
        key: with which the server is asked what it serves; see `box`.
        model: its name, where the URL does not say; needed only where the server has several.
        version: of the model; the server chooses if "".
        output: the name of the output with the answers; the only floating one of two dimensions if "".
        rows: in one request, at most; if None, what the server tells, or 64, and never more than `LARGEST_BODY` bytes.
        parallel: requests at a time, at least 1. Answers keep the order of the inputs.
        timeout, patience: in seconds; see `Client`.

    Raises:
        Invalid: a parameter breaks its rule; names it.
        BoxFault: the server does not tell what the protocol demands.
        StealguardError: the server cannot be reached, or does not accept the key.
    """

    def __init__(
        self, url: str, key: str = "", *, model: str = "", version: str = "", output: str = "",
        rows: int | None = None, parallel: int = 1, timeout: float = 60.0, patience: float = 120.0,
    ):  # fmt: skip
        require(rows is None or rows >= 1, "rows", "at least 1", rows)
        require(parallel >= 1, "parallel", "at least 1", parallel)
        base, named, of = _address(url)
        require(not model or named in ("", model), "model", f"`{named}`, as the URL says", f"`{model}`")
        require(not version or of in ("", version), "version", f"`{of}`, as the URL says", f"`{version}`")
        self._client = Client(base, timeout=timeout, patience=patience, connections=parallel)
        self.close = self._client.close
        told = self._told("/v2", key) or {}
        name = model or named or self._only_model(key)
        self._path = f"/v2/models/{quote(name, safe='')}"
        if version or of:
            self._path += f"/versions/{quote(version or of, safe='')}"
        self.url = f"{base}{self._path}"
        metadata = self._told(self._path, key)
        if metadata is None:
            raise Invalid("model", f"one that `{base}` serves", f"`{name}` (status 404)")
        self.served = _served(metadata, told, name, version or of, output, rows, self.url)
        self.parallel = parallel
        self._logits: bool | None = None  # known from the first answers on
        self._classes = self.served.classes

    def box(self, key: str = "") -> RemoteBox:
        """The black box of the account that the key belongs to."""
        return RemoteBox(self, key)

    def ask(self, x: Tensor, key: str) -> Tensor:
        """The answers (N, K) to inputs (N, *shape) that fit into one request.

        Raises:
            BudgetExhausted, Refused: the server answers `left` further inputs of this account, and none of these.
            BoxFault: it answers something that is not an answer.
            StealguardError: it does not answer, or does not accept the key.
        """
        body, headers = _request(x.detach().cpu().numpy(), self.served)
        reply = self._client.send("POST", f"{self._path}/infer", key=key, body=body, headers=headers)
        if reply.status != 200:
            raise _error(reply, len(x), self.url, key)
        found = _tensor(reply, self.served, len(x), self.url)
        return self._checked(torch.from_numpy(found.astype(np.float64 if found.dtype == np.float64 else np.float32)))

    def _checked(self, found: Tensor) -> Tensor:
        """Answers (N, K) from an output (N, K), or (N, 1) for two classes. The first output tells whether all of them
        are logits."""
        columns = found.squeeze(1) if found.shape[1] == 1 else found
        rows = _whole(columns)
        logits = looks_like_logits(rows) if self._logits is None else self._logits
        answers = as_answers(columns if logits else rows, logits=logits).to(torch.float32)
        answers = check_answers(answers, len(found), self.url, self._classes or None)
        self._logits, self._classes = logits, answers.shape[1]
        return answers

    def _told(self, path: str, key: str) -> dict[str, Any] | None:
        """The JSON object at that path; None where there is none."""
        reply = self._client.send("GET", path, key=key, patience=QUICK)
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise _error(reply, 0, f"{self._client.base}{path}", key)
        return _json(reply.body, f"{self._client.base}{path}")

    def _only_model(self, key: str) -> str:
        """The name of the one model that the server has."""
        rule = "given, or part of the URL: `/v2/models/NAME`"
        reply = self._client.send(
            "POST", "/v2/repository/index", key=key, headers={"Content-Type": "application/json"}, patience=QUICK
        )
        if reply.status in (401, 403):
            raise _error(reply, 0, self._client.base, key)
        entries = _list(_parsed(reply.body)) if reply.status == 200 else []
        names = sorted({str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry})
        found = f"several models on the server: {', '.join(names)}"[:500] if names else "a server that lists no models"
        require(len(names) == 1, "model", rule, found)
        return names[0]


class RemoteBox:
    """The black box of one account of a remote model: inputs (N, *shape), of any finite values -> answers (N, K).

    Inputs are sent in requests of at most `rows` rows. Where a later one of them fails, the answers that were had are
    kept for the repetition of the same inputs, so that what is paid twice is at most `parallel` requests. Where a
    process ends, what it was answered is lost unless a `AnswerLedger` has it.
    """

    def __init__(self, endpoint: Endpoint, key: str):
        self._endpoint, self._key = endpoint, key
        self._kept: tuple[Tensor, Tensor] | None = None  # inputs and answers of a call that failed

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input; () where the server does not tell."""
        return self._endpoint.served.shape

    def __call__(self, x: Tensor, /) -> Tensor:
        """Answers (N, K), float32.

        Raises:
            Invalid: `x` has another shape or dtype, a NaN or an infinity.
            BudgetExhausted, Refused: only the first `left` rows of `x` can be answered.
            BoxFault, StealguardError: see `Endpoint.ask`.
        """
        x = check_numbers(x, "x", self.shape or None)
        parts = self._answered(x)
        try:
            for answers in self._answers(x[sum(map(len, parts)) :]):
                parts.append(answers)
        except (BudgetExhausted, Refused) as refusal:
            n = self._keep(x, parts)
            raise type(refusal)(str(refusal), n + refusal.left) from refusal
        except StealguardError:
            self._keep(x, parts)
            raise
        return torch.cat(parts).to(x.device)

    def _answers(self, x: Tensor) -> Iterator[Tensor]:
        """The answers to each request's rows, in their order, until one fails."""
        requests = x.split(self._endpoint.served.rows) if len(x) else ()
        if self._endpoint.parallel == 1:
            yield from (self._endpoint.ask(part, self._key) for part in requests)
            return
        with ThreadPoolExecutor(self._endpoint.parallel) as pool:
            for start in range(0, len(requests), self._endpoint.parallel):
                together: list[Future[Tensor]] = [
                    pool.submit(self._endpoint.ask, part, self._key)
                    for part in requests[start : start + self._endpoint.parallel]
                ]
                yield from (one.result() for one in together)

    def _answered(self, x: Tensor) -> list[Tensor]:
        """The answers that are kept to the first rows of `x`, if it begins as a call that failed."""
        kept, self._kept = self._kept, None
        if kept is None or not torch.equal(x[: len(kept[0])], kept[0][: len(x)]):
            return []
        return [kept[1][: len(x)]]

    def _keep(self, x: Tensor, parts: Sequence[Tensor]) -> int:
        """Keep the answers to the first rows of `x`; how many these are."""
        n = sum(map(len, parts))
        self._kept = (x[:n].clone(), torch.cat(list(parts))) if parts else None
        return n


# What the server tells ---------------------------------------------------------------------------------------------


def _address(url: str) -> tuple[str, str, str]:
    """The server's address, and the model and the version that the URL names, "" where it names none.

    >>> _address("https://host:8000/api/v2/models/digits/versions/2")
    ('https://host:8000/api', 'digits', '2')
    """
    parts = urlsplit(url)
    rule = "an address http(s)://host[:port][/prefix][/v2/models/NAME[/versions/VERSION]]"
    secret = parts.username is not None or parts.password is not None or parts.query or parts.fragment
    require(not secret, "url", f"{rule} alone", "one with a user, a query or a fragment")  # which may hold a key
    try:
        complete = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is none
        complete = False
    found = _PATH.fullmatch(parts.path)
    if not complete or found is None:
        raise Invalid("url", rule, f"`{url}`")
    base = f"{parts.scheme}://{parts.netloc}{found['prefix'].rstrip('/')}"
    return base, unquote(found["model"] or ""), unquote(found["version"] or "")


def _served(
    metadata: Mapping[str, Any], told: Mapping[str, Any], name: str, version: str, output: str, rows: int | None,
    url: str,
) -> Told:  # fmt: skip
    parameters = _object(metadata.get("parameters"))
    entry, leaving = _input(metadata, url), _output(metadata, output, url)
    shape, columns = _shape(entry), _shape(leaving)[-1]
    rule = "of a model whose inputs have the shape (-1, ...), or (1, ...) for one at a time"
    require(len(shape) > 1 and shape[0] in (-1, 1), "url", rule, f"{entry.get('shape')} at `{url}`")
    binary = "binary_tensor_data" in _list(told.get("extensions"))
    known = shape[1:] if min(shape[1:]) > 0 else ()
    size = (8 if entry["datatype"] == "FP64" else 4 if binary else 16) * math.prod(known)  # bytes, about 16 in JSON
    fitting = max(1, LARGEST_BODY // size) if known else ROWS
    classes = 0 if columns < 1 else max(2, columns)
    return Told(
        name=name, version=version, input=str(entry["name"]), input_type=str(entry["datatype"]),
        shape=known, output=str(leaving["name"]), classes=classes,
        names=_names({**_object(leaving.get("parameters")), **parameters}, classes),
        rows=1 if shape[0] == 1 else rows or min(_rows(parameters), fitting), binary=binary,
        identity=_identity(parameters), versions=tuple(map(str, _list(metadata.get("versions")))),
    )  # fmt: skip


def _input(metadata: Mapping[str, Any], url: str) -> Mapping[str, Any]:
    entries = _tensors(metadata, "inputs", url)
    if len(entries) != 1 or entries[0]["datatype"] not in _DTYPES:
        found = ", ".join(f"{entry['name']} ({entry['datatype']})" for entry in entries)
        raise Invalid("url", f"of a model with one input of type {', '.join(_DTYPES)}", f"{found or 'none'} at `{url}`")
    return entries[0]


def _output(metadata: Mapping[str, Any], name: str, url: str) -> Mapping[str, Any]:
    entries = _tensors(metadata, "outputs", url)
    fitting = [entry for entry in entries if entry["datatype"] in _DTYPES and len(_shape(entry)) == 2]
    chosen = [entry for entry in fitting if entry["name"] == name] if name else fitting
    if len(chosen) != 1:
        found = ", ".join(f"{entry['name']} ({entry['datatype']})" for entry in entries)
        rule = f"the name of a floating output of two dimensions at `{url}`"
        raise Invalid("output", rule, f"`{name}` among {found}" if name else found or "no output")
    return chosen[0]


def _tensors(metadata: Mapping[str, Any], which: str, url: str) -> list[Mapping[str, Any]]:
    entries = [entry for entry in _list(metadata.get(which)) if isinstance(entry, dict)]
    if not all(isinstance(entry.get("name"), str) and isinstance(entry.get("datatype"), str) for entry in entries):
        raise BoxFault(f"`{url}` should tell name and datatype of each of its {which}. Found {str(entries)[:300]}.")
    return list(entries)


def _shape(entry: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of a tensor, -1 where a dimension is open; () where none is told. Some servers write it as text."""
    try:
        return tuple(int(n) for n in entry["shape"])
    except (KeyError, TypeError, ValueError):
        return ()


def _names(parameters: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The classes' names, from a list or the text of one; () where none fits the number of classes."""
    for name in ("classes", "class_names", "labels", "names"):
        found = parameters.get(name)
        found = _parsed(found.encode()) if isinstance(found, str) else found
        if isinstance(found, list) and len(found) == classes and all(isinstance(one, str) for one in found):
            return tuple(found)
    return ()


def _rows(parameters: Mapping[str, Any]) -> int:
    """How many rows a request may have, as the server tells."""
    for name in ("rows", "max_rows", "max_batch_size"):
        found = parameters.get(name)
        number = int(found) if isinstance(found, str) and found.isdecimal() else found
        if isinstance(number, int) and not isinstance(number, bool) and number >= 1:
            return number
    return ROWS


def _identity(parameters: Mapping[str, Any]) -> str:
    found = parameters.get("identity")
    return found if isinstance(found, str) and re.fullmatch(r"[0-9a-f]{64}", found) else ""


# One request -------------------------------------------------------------------------------------------------------


def _request(x: NDArray[Any], served: Told) -> tuple[bytes, dict[str, str]]:
    """The body and the headers that ask for the answers to `x`, (N, *shape)."""
    import orjson

    data = np.ascontiguousarray(x, _DTYPES[served.input_type])
    tensor: dict[str, Any] = {"name": served.input, "shape": list(data.shape), "datatype": served.input_type}
    output: dict[str, Any] = {"name": served.output}
    if not served.binary:
        tensor["data"] = data.astype(np.float64 if data.itemsize == 8 else np.float32).ravel()
        body = orjson.dumps({"inputs": [tensor], "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return body, {"Content-Type": "application/json"}
    tensor["parameters"] = {"binary_data_size": data.nbytes}
    output["parameters"] = {"binary_data": True}
    header = orjson.dumps({"inputs": [tensor], "outputs": [output]})
    headers = {"Content-Type": "application/octet-stream", BINARY.title(): str(len(header))}
    return header + data.tobytes(), headers


def _tensor(reply: Response, served: Told, n: int, url: str) -> NDArray[Any]:
    """The output (n, K) in a response.

    Raises:
        BoxFault: there is none.
    """
    head, tail = _split(reply, url)
    place = 0
    for output in _tensors(_json(head, url), "outputs", url):
        size = _object(output.get("parameters")).get("binary_data_size")
        size = size if isinstance(size, int) and size >= 0 else 0
        if output["name"] == served.output:
            return _values(output, tail[place : place + size], n, url)
        place += size
    raise BoxFault(f"`{url}` should answer with the output `{served.output}`. Found another one, or none.")


def _split(reply: Response, url: str) -> tuple[bytes, bytes]:
    """The JSON of a response, and the binary data after it."""
    length = reply.headers.get(BINARY)
    if length is None:
        return reply.body, b""
    if not length.isdecimal() or int(length) > len(reply.body):
        raise BoxFault(f"`{url}` should tell the length of its JSON. Found `{length}` of {len(reply.body)} bytes.")
    return reply.body[: int(length)], reply.body[int(length) :]


def _values(output: Mapping[str, Any], raw: bytes, n: int, url: str) -> NDArray[Any]:
    kind = _DTYPES.get(output["datatype"])
    if kind is None:
        raise BoxFault(f"`{url}` should answer with {', '.join(_DTYPES)}. Found {output['datatype']}.")
    shape = _shape(output)
    try:
        if "data" in output:
            values = np.asarray(output["data"], np.float64).astype(kind).ravel()
        else:
            values = np.frombuffer(raw, kind)
    except (TypeError, ValueError, OverflowError) as e:
        raise BoxFault(f"`{url}` should answer with numbers. Found something else ({e}).") from e
    if len(shape) != 2 or shape[0] != n or shape[1] < 1 or math.prod(shape) != values.size:
        rule = f"should answer {counted(n, 'input')} with ({n}, K) numbers"
        raise BoxFault(f"`{url}` {rule}. Found {values.size} of shape {shape}.")
    return values.reshape(shape)


def _whole(rows: Tensor) -> Tensor:
    """Rows (N, K) of probabilities that were rounded or cut off, so that they do not sum to 1, divided by their sums.

    Rows that sum to 1 up to `SUM_OFF`, and what cannot be probabilities, stay as they are.
    """
    if rows.dim() != 2:
        return rows
    sums = rows.sum(dim=1, keepdim=True)
    if not bool(((rows >= 0) & (rows <= 1)).all() and ((sums > 0) & (sums <= ROUNDED_SUM)).all()):
        return rows
    return torch.where((sums - 1).abs() > SUM_OFF, rows / sums, rows)


def _error(reply: Response, n: int, url: str, key: str) -> StealguardError:
    """What a response that is no answer to `n` inputs means."""
    words, left, inputs = said(reply, key), _left(reply), counted(n, "input")
    if reply.status in (403, 429) and left is not None:
        if left >= max(n, 1):
            return BoxFault(f"`{url}` should answer {inputs}, or fewer than it refuses. Found {left} left{words}.")
        if reply.status == 429:
            can = f"{left} of {inputs} can be had"
            return BudgetExhausted(f"`{url}` has a budget for this account: {can}{words}.", left)
        return Refused(f"`{url}` answers this account only {left} of {inputs}{words}.", left)
    if reply.status in (401, 403):
        what = "does not accept the key" if key else "needs a key"
        return StealguardError(f"`{url}` {what} (status {reply.status}{words}).")
    hint = "; `rows` sets how many inputs a request has" if reply.status == 413 else ""
    return BoxFault(f"`{url}` should answer {inputs}. Found status {reply.status}{words}{hint}.")


def _left(reply: Response) -> int | None:
    found = _object(_parsed(reply.body)).get("left")
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


# JSON of somebody else ---------------------------------------------------------------------------------------------


def _parsed(body: bytes) -> Any:
    """The value in a JSON text; None where it is none."""
    import orjson

    try:
        return orjson.loads(body)
    except ValueError:
        return None


def _json(body: bytes, url: str) -> dict[str, Any]:
    found = _parsed(body)
    if not isinstance(found, dict):
        raise BoxFault(f"`{url}` should answer with a JSON object. Found {body[:60]!r}.")
    return found


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
