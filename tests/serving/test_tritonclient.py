"""Triton's own client, unchanged, against the server: each call that it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from served import Linear, MemoryLedger, running
from stealguard.serving.app import Application

triton = pytest.importorskip("tritonclient.http")
from tritonclient.utils import InferenceServerException  # noqa: E402 - it comes with the line above

X = np.random.default_rng(3).random((50, 1, 4, 4), np.float32)


class World:
    port: int

    def __init__(self) -> None:
        self.old, self.new = Linear("two words", "1"), Linear("two words", "2", seed=1)
        self.ledger = MemoryLedger()
        self.token = self.ledger.add("ann")
        self.application = Application({(s.spec.name, s.spec.version): s for s in (self.old, self.new)}, self.ledger)

    @property
    def headers(self) -> dict[str, str]:
        """New at each call: the client adds to the dictionary that it is given."""
        return {"Authorization": f"Bearer {self.token}"}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[World, Any]]:
    world = World()
    with running(world.application) as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=60, connection_timeout=60)
        world.port = server.port
        yield world, client
        client.close()


def tensor(x: Any = X, datatype: str = "FP32", *, binary: bool = True) -> Any:
    given = triton.InferInput("input", list(x.shape), datatype)
    given.set_data_from_numpy(x, binary_data=binary)
    return given


def wanted(*, binary: bool) -> list[Any]:
    return [triton.InferRequestedOutput("probabilities", binary_data=binary)]


def test_the_server_and_its_models_are_live_and_ready(served: tuple[World, Any]) -> None:
    world, client = served
    assert client.is_server_live()
    assert client.is_server_ready()
    for version in ("", "1", "2"):
        assert client.is_model_ready("two words", version, headers=world.headers)
    assert not client.is_model_ready("two words", "3", headers=world.headers)
    assert not client.is_model_ready("none", headers=world.headers)


def test_metadata_are_read(served: tuple[World, Any]) -> None:
    world, client = served
    assert client.get_server_metadata(headers=world.headers)["name"] == "stealguard"
    for version in ("", "1"):
        found = client.get_model_metadata("two words", version, headers=world.headers)
        assert found["versions"] == ["1", "2"]
        assert found["inputs"][0]["shape"] == [-1, 1, 4, 4]
    index = client.get_model_repository_index(headers=world.headers)
    assert [(e["name"], e["version"], e["state"]) for e in index] == [
        ("two words", "2", "READY"), ("two words", "1", "READY"),
    ][::-1]  # fmt: skip


@pytest.mark.parametrize("compressed", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("binary_in", [True, False])
def test_answers_are_the_models(
    served: tuple[World, Any], binary_in: bool, binary_out: bool | None, compressed: str | None
) -> None:
    world, client = served
    result = client.infer(
        "two words",
        [tensor(binary=binary_in)],
        outputs=None if binary_out is None else wanted(binary=binary_out),
        request_id="7 of 9",
        headers=world.headers,
        request_compression_algorithm=compressed,
        response_compression_algorithm=compressed,
        timeout=1_000,
        priority=2,
        sequence_id=0,
        parameters={"my_own": "x"},
    )
    np.testing.assert_array_equal(result.as_numpy("probabilities"), world.new.expected(X))
    assert result.get_response()["id"] == "7 of 9"
    assert result.get_response()["model_version"] == "2"
    assert result.get_output("probabilities")["datatype"] == "FP32"


@pytest.mark.parametrize(
    ("datatype", "binary"), [("FP16", True), ("FP32", True), ("FP32", False), ("FP64", True), ("FP64", False)]
)
def test_other_precisions_are_taken(served: tuple[World, Any], datatype: str, binary: bool) -> None:
    world, client = served
    x = X.astype({"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}[datatype])
    result = client.infer("two words", [tensor(x, datatype, binary=binary)], "1", headers=world.headers)
    np.testing.assert_array_equal(result.as_numpy("probabilities"), world.old.expected(x.astype(np.float32)))


def test_many_requests_at_once_get_their_own_answers(served: tuple[World, Any]) -> None:
    world, _ = served
    client = triton.InferenceServerClient(f"127.0.0.1:{world.port}", concurrency=8, network_timeout=60)
    asked = [
        client.async_infer("two words", [tensor(X[i : i + 1])], request_id=str(i), headers=world.headers)
        for i in range(50)
    ]
    for i, request in enumerate(asked):
        result = request.get_result()
        np.testing.assert_array_equal(result.as_numpy("probabilities"), world.new.expected(X[i : i + 1]))
        assert result.get_response()["id"] == str(i)
    client.close()


def test_bodies_that_the_client_makes_and_reads_apart_are_the_same(served: tuple[World, Any]) -> None:
    world, _ = served
    body, length = triton.InferenceServerClient.generate_request_body([tensor()])
    response = httpx.post(
        f"http://127.0.0.1:{world.port}/v2/models/two%20words/infer",
        content=body,
        headers={**world.headers, "Inference-Header-Content-Length": str(length)},
    )
    result = triton.InferenceServerClient.parse_response_body(
        response.content, header_length=int(response.headers["inference-header-content-length"])
    )
    np.testing.assert_array_equal(result.as_numpy("probabilities"), world.new.expected(X))


def test_what_is_not_there_raises_the_servers_own_message(served: tuple[World, Any]) -> None:
    world, client = served
    headers = world.headers
    calls = {
        "501": [
            lambda: client.load_model("two words", headers=headers),
            lambda: client.unload_model("two words", headers=headers),
            lambda: client.infer(
                "two words",
                [tensor()],
                outputs=[triton.InferRequestedOutput("probabilities", class_count=2)],
                headers=world.headers,
            ),
        ],
        "404": [
            lambda: client.get_inference_statistics(headers=headers),
            lambda: client.get_inference_statistics("two words", headers=headers),
            lambda: client.get_inference_statistics("two words", "1", headers=headers),
            lambda: client.get_model_config("two words", headers=headers),
            lambda: client.get_model_metadata("none", headers=headers),
            lambda: client.get_trace_settings(headers=headers),
            lambda: client.update_trace_settings("two words", {}, headers=headers),
            lambda: client.get_log_settings(headers=headers),
            lambda: client.update_log_settings({}, headers=headers),
            lambda: client.get_system_shared_memory_status(headers=headers),
            lambda: client.register_system_shared_memory("a", "b", 1, headers=headers),
            lambda: client.unregister_system_shared_memory(headers=headers),
            lambda: client.get_cuda_shared_memory_status(headers=headers),
            lambda: client.register_cuda_shared_memory("a", b"b", 0, 1, headers=headers),
            lambda: client.unregister_cuda_shared_memory(headers=headers),
            lambda: client.infer("none", [tensor()], headers=world.headers),
            lambda: client.infer("two words", [tensor()], "9", headers=world.headers),
        ],
        "400": [
            lambda: client.infer("two words", [tensor(X[:, :, :2])], headers=world.headers),
            lambda: client.infer("two words", [tensor(X.astype(np.int32), "INT32")], headers=world.headers),
            lambda: client.infer("two words", [tensor(np.full_like(X, np.nan))], headers=world.headers),
            lambda: client.infer("two words", [tensor(), tensor()], headers=world.headers),
        ],
        "413": [lambda: client.infer("two words", [tensor(np.tile(X, (2, 1, 1, 1)))], headers=world.headers)],
        "401": [
            lambda: client.get_server_metadata(),
            lambda: client.get_model_repository_index(),
            lambda: client.infer("two words", [tensor()]),
        ],
    }
    for status, of_that_status in calls.items():
        for call in of_that_status:
            with pytest.raises(InferenceServerException) as e:
                call()
            assert e.value.status() == status
            assert "decoding" not in str(e.value), "the client could read the error's body"
    result = client.infer("two words", [tensor()], headers=world.headers)
    np.testing.assert_array_equal(result.as_numpy("probabilities"), world.new.expected(X))
