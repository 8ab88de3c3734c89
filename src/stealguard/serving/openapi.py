"""The server's own OpenAPI document: the paths that a key may use, with the shapes of its models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stealguard.serving.protocol import HEADER_LENGTH, INPUT, OUTPUT, Spec

_ERRORS = {
    400: "The request breaks a rule.",
    401: "There is no key, or a wrong one.",
    404: "There is nothing at this path, or not for this key.",
    405: "The path does not take this method.",
    408: "The request took too long to arrive.",
    413: "The request is too large.",
    431: "The headers are too long.",
    500: "The server failed.",
    503: "The server has too much to do, or is closing.",
}
_ERRORS_OF_INFER = {
    403: "The guard answers this account no more than `left` further inputs.",
    429: "The budget is spent (with `left`), or requests come too fast (with Retry-After).",
    501: "The server does not do this extension.",
}
_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_NAMES = {"type": "array", "items": _TEXT}


def document(routes: Iterable[tuple[str, str, str]], specs: Mapping[str, Spec], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of routes (method, path, model); without a model where the third is empty."""
    paths: dict[str, Any] = {}
    for method, path, model in routes:
        operation = _operation(path, specs.get(model))
        if operation is not None:
            paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "stealguard", "version": version, "description": "Open Inference Protocol v2."},
        "security": [{"bearer": []}, {"header": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "schemas": {"Error": _object({"error": _TEXT, "left": _COUNT}, "error")},
        },
    }


def _operation(path: str, spec: Spec | None) -> dict[str, Any] | None:
    """What the protocol's path does; None for a path that is not the protocol's, or does nothing."""
    if path.startswith("/v2/health/"):
        told = "live" if path.endswith("live") else "ready"
        return {"security": [], **_responses(f"Whether the server is {told}.", _object({told: _FLAG}, told))}
    match path.strip("/").split("/"):
        case ["v2"]:
            server = _object({"name": _TEXT, "version": _TEXT, "extensions": _NAMES}, "name", "version", "extensions")
            return _responses("The server's name and version.", server)
        case ["v2", "repository", "index"]:
            model = _object({"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT}, "name", "version")
            return _responses("The models that the key may ask.", {"type": "array", "items": model})
        case ["v2", "models", *_, "ready"]:
            return _responses("Whether the model is ready.", _object({"ready": _FLAG}, "ready"))
        case ["v2", "models", *_, "infer"] if spec is not None:
            return _infer(spec)
        case ["v2", "models", *_] if spec is not None:
            return _responses("The model's inputs and outputs.", _metadata(spec))
    return None


def _infer(spec: Spec) -> dict[str, Any]:
    length = {
        "name": HEADER_LENGTH, "in": "header", "schema": _COUNT,
        "description": "How many bytes of the body are JSON; binary tensors follow.",
    }  # fmt: skip
    content = {"application/json": {"schema": _request(spec)}, "application/octet-stream": {}}
    return {
        "parameters": [length],
        "requestBody": {"required": True, "content": content},
        **_responses("One answer for each input.", _response(spec), _ERRORS | _ERRORS_OF_INFER, binary=True),
    }


def _request(spec: Spec) -> dict[str, Any]:
    data = {
        "type": "array", "items": {"type": ["number", "array"]},
        "description": "As many finite numbers as the shape has, flat in row-major order or nested like the shape.",
    }  # fmt: skip
    inputs = {
        "name": {"const": INPUT},
        "datatype": {"enum": ["FP32", "FP16", "FP64"]},
        "shape": _shape(spec.shape, spec.rows),
        "data": data,
    }
    outputs = {
        "name": {"const": OUTPUT},
        "parameters": {"type": "object", "properties": {"binary_data": _FLAG}},
    }
    return _object(
        {
            "id": _TEXT,
            "inputs": _list_of_one(_object(inputs, "name", "datatype", "shape", "data")),
            "outputs": _list_of_one(_object(outputs, "name"), least=0),
            "parameters": {"type": "object", "properties": {"binary_data_output": _FLAG}},
        },
        "inputs",
    )


def _response(spec: Spec) -> dict[str, Any]:
    output = {
        "name": {"const": OUTPUT},
        "datatype": {"const": "FP32"},
        "shape": _shape((spec.classes,), spec.rows),
        "data": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
    }
    outputs = _list_of_one(_object(output, "name", "datatype", "shape"))
    return _object(
        {"model_name": {"const": spec.name}, "model_version": _TEXT, "id": _TEXT, "outputs": outputs},
        "model_name", "model_version", "outputs",
    )  # fmt: skip


def _metadata(spec: Spec) -> dict[str, Any]:
    tensors = {
        "type": "array",
        "items": _object({"name": _TEXT, "datatype": _TEXT, "shape": {"type": "array"}}, "name"),
    }
    properties = {
        "name": {"const": spec.name}, "versions": _NAMES, "platform": _TEXT,
        "inputs": tensors, "outputs": tensors, "parameters": {"type": "object"},
    }  # fmt: skip
    return _object(properties, "name", "versions", "platform", "inputs", "outputs")


def _responses(
    text: str, schema: Mapping[str, Any], errors: Mapping[int, str] = _ERRORS, *, binary: bool = False
) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if binary:
        content["application/octet-stream"] = {}
    responses = {str(status): {"description": told, "content": error} for status, told in errors.items()}
    return {"summary": text, "responses": {"200": {"description": text, "content": content}, **responses}}


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list_of_one(item: Mapping[str, Any], least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": least, "maxItems": 1}


def _shape(rest: tuple[int, ...], rows: int) -> dict[str, Any]:
    """[N, *rest], N at most `rows`."""
    axes = [{"type": "integer", "minimum": 1, "maximum": rows}, *({"const": size} for size in rest)]
    return {"type": "array", "prefixItems": axes, "minItems": len(axes), "maxItems": len(axes)}
