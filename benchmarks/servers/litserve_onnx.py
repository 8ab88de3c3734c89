"""A model behind LitServe and ONNX Runtime: `python -m benchmarks.servers.litserve_onnx MODEL.onnx PORT`."""

from __future__ import annotations

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime


class Model(litserve.LitAPI):
    def __init__(self, path: str, **settings: Any):
        super().__init__(**settings)
        self.path = path

    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def decode_request(self, request):  # LitServe reads an annotation as a schema of the body
        given = request["inputs"][0]
        return np.array(given["data"], np.float32).reshape(given["shape"])

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(["probabilities"], {self.name: x})[0]

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {
            "model_name": "model",
            "outputs": [
                {
                    "name": "probabilities",
                    "datatype": "FP32",
                    "shape": list(output.shape),
                    "data": output.ravel().tolist(),
                }
            ],
        }


if __name__ == "__main__":
    server = litserve.LitServer(Model(sys.argv[1], api_path="/json"), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
