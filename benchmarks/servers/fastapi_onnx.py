"""A model behind FastAPI and ONNX Runtime: `python -m benchmarks.servers.fastapi_onnx MODEL.onnx PORT`."""

from __future__ import annotations

import sys
from typing import Annotated

import numpy as np
import onnxruntime
import uvicorn
from fastapi import Body, FastAPI, Response
from pydantic import BaseModel


class Input(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Request(BaseModel):
    inputs: list[Input]


def application(path: str) -> FastAPI:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape[1:]
    app = FastAPI()

    def answers(x: np.ndarray) -> np.ndarray:
        return session.run(["probabilities"], {name: x})[0]

    @app.post("/json")
    def json(request: Request) -> dict[str, object]:
        given = request.inputs[0]
        found = answers(np.array(given.data, np.float32).reshape(given.shape))
        return {
            "model_name": "model",
            "outputs": [
                {
                    "name": "probabilities",
                    "datatype": "FP32",
                    "shape": list(found.shape),
                    "data": found.ravel().tolist(),
                }
            ],
        }

    @app.post("/binary")
    def binary(body: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Response:
        x = np.frombuffer(body, "<f4").reshape(-1, *shape)
        return Response(answers(x).tobytes(), media_type="application/octet-stream")

    return app


if __name__ == "__main__":
    uvicorn.run(
        application(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False
    )
