"""A small server of the Open Inference Protocol over a linear model, with the faults that real servers have."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from torch import Tensor

SHAPE, CLASSES = (16,), 3
TYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
WEIGHTS = torch.randn(16, 3, generator=torch.Generator().manual_seed(5)) * 4


def expected(x: Tensor) -> Tensor:
    """The model: its answers to inputs (N, 16)."""
    return ((x - 0.5) @ WEIGHTS).softmax(dim=1)


@dataclass
class Model:
    """What the server does, and what it was asked; tests change it while it runs."""

    binary: bool = True
    datatype: str = "FP32"
    logits: bool = False
    digits: int | None = None
    keys: frozenset[str] = frozenset()  # that are accepted; all if empty
    budgets: dict[str, int] = field(default_factory=dict)  # answers left, by key
    refuses: bool = False  # a spent budget is a refusal (403), not 429
    faults: deque[str] = field(default_factory=deque)  # of the next requests, one each
    every: str = ""  # the fault of all others
    names: tuple[str, ...] = ("m",)
    metadata: dict[str, Any] = field(default_factory=dict)  # instead of the usual ones
    answered: Counter[str] = field(default_factory=Counter)  # inputs answered, by key
    requests: list[int] = field(default_factory=list)  # rows of each request that was understood

    def described(self) -> dict[str, Any]:
        usual = {
            "name": "m", "versions": ["1"], "platform": "test",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, *SHAPE]}],
            "outputs": [{"name": "probabilities", "datatype": self.datatype, "shape": [-1, CLASSES]}],
        }  # fmt: skip
        return usual | self.metadata

    def rows(self, x: NDArray[np.float32]) -> NDArray[Any]:
        scores = (torch.from_numpy(x.copy()) - 0.5) @ WEIGHTS
        found = (scores if self.logits else scores.softmax(dim=1)).numpy().astype(TYPES[self.datatype])
        return found if self.digits is None else found.round(self.digits)


class Broken(Response):
    """A response whose connection closes before its end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"{"})


FAULTS = {
    "busy": lambda: JSONResponse({"error": "draining"}, 503),
    "rate": lambda: JSONResponse({"error": "too fast"}, 429, {"Retry-After": "0"}),
    "wait": lambda: JSONResponse({"error": "too fast"}, 429, {"Retry-After": "3600"}),
    "drop": lambda: Broken(),
    "huge": lambda: Response(b" " * 5_000),
    "garbage": lambda: Response(b"<html>"),
    "list": lambda: Response(b"[1]"),
    "length": lambda: Response(b"{}", headers={"Inference-Header-Content-Length": "99"}),
    "packed": lambda: Response(b"{}", headers={"Content-Encoding": "br"}),
    "internal": lambda: JSONResponse({"error": "it broke"}, 500),
    "large": lambda: JSONResponse({"error": "at most 8 rows"}, 413),
    "moved": lambda: Response(status_code=307, headers={"Location": "http://127.0.0.1:1/"}),
    "silly": lambda: JSONResponse({"error": "budget", "left": 10**6}, 429),
    "nan": lambda: _outputs([1, 3], [float("nan")] * 3),
    "text": lambda: _outputs([1, 3], ["a", "b", "c"]),
    "short": lambda: _outputs([1, 3], [0.5]),
    "other": lambda: JSONResponse({"outputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}),
    "bytes": lambda: _outputs([1, 3], ["a"], "BYTES"),
    "nothing": lambda: JSONResponse({"outputs": [7]}),
}  # fmt: skip


def _outputs(shape: list[int], data: list[Any], kind: str = "FP32") -> Response:
    return Response(
        json.dumps({"outputs": [{"name": "probabilities", "datatype": kind, "shape": shape, "data": data}]})
    )


def application(model: Model) -> Starlette:
    def key_of(request: Request) -> str:
        return request.headers.get("authorization", "").removeprefix("Bearer ")

    def denied(request: Request) -> Response | None:
        if not model.keys or key_of(request) in model.keys:
            return None
        return JSONResponse({"error": f"no account has the key `{key_of(request)}`"}, 401)

    async def server(request: Request) -> Response:
        extensions = ["binary_tensor_data"] if model.binary else []
        return denied(request) or JSONResponse({"name": "test", "version": "0", "extensions": extensions})

    async def index(request: Request) -> Response:
        listed = [{"name": name, "version": "1", "state": "READY", "reason": ""} for name in model.names]
        return denied(request) or JSONResponse(listed)

    async def metadata(request: Request) -> Response:
        if request.path_params["name"] not in model.names:
            return JSONResponse({"error": "no such model"}, 404)
        return denied(request) or JSONResponse(model.described())

    async def infer(request: Request) -> Response:
        if (no := denied(request)) is not None:
            return no
        body = await request.body()
        fault = model.faults.popleft() if model.faults else model.every
        if fault and fault != "lost":
            return FAULTS[fault]()
        length = int(request.headers.get("inference-header-content-length", len(body)))
        tensor = json.loads(body[:length])["inputs"][0]
        raw = np.frombuffer(body[length:], "<f4") if length < len(body) else np.asarray(tensor["data"], np.float32)
        x = raw.reshape(tensor["shape"])
        model.requests.append(len(x))
        key = key_of(request)
        left = model.budgets.get(key, 10**9)
        if len(x) > left:
            return JSONResponse({"error": "spent", "left": left}, 403 if model.refuses else 429)
        model.budgets[key] = left - len(x)
        model.answered[key] += len(x)
        return Broken() if fault == "lost" else _answer(model, model.rows(x))

    return Starlette(routes=[
        Route("/v2", server), Route("/v2/repository/index", index, methods=["POST"]),
        Route("/v2/models/{name}", metadata), Route("/v2/models/{name}/infer", infer, methods=["POST"]),
        Route("/v2/models/{name}/versions/{version}", metadata),
        Route("/v2/models/{name}/versions/{version}/infer", infer, methods=["POST"]),
    ])  # fmt: skip


def _answer(model: Model, found: NDArray[Any]) -> Response:
    output: dict[str, Any] = {"name": "probabilities", "datatype": model.datatype, "shape": list(found.shape)}
    if not model.binary:
        return JSONResponse({"model_name": "m", "outputs": [output | {"data": found.astype(float).ravel().tolist()}]})
    raw = found.tobytes()
    head = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
    return Response(head + raw, headers={"Inference-Header-Content-Length": str(len(head))})


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """The address of a server of an ASGI application on this machine, while the block lasts; options are uvicorn's."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=5, **options
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + 60
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        assert server.started
        try:
            yield f"http{'s' * config.is_ssl}://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
