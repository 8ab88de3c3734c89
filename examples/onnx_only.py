"""Ask an exported release with ONNX Runtime and NumPy alone: neither stealguard nor torch is needed.

stealguard export runs/mine --to onnx
python examples/onnx_only.py runs/mine/model.onnx inputs.npy
"""

import json
import os
import sys

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, or version 1.32 reports to its makers
import onnxruntime

path, inputs = sys.argv[1:3]
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
notes = session.get_modelmeta().custom_metadata_map
names, scaling = json.loads(notes["class_names"]), json.loads(notes["scaling"])
print(f"release {notes['identity'][:12]}; inputs", "in [0, 1]" if scaling is None else f"within {scaling}")

x = np.load(inputs).astype(np.float32)  # (N, *shape), in the units of the release's users
(answers,) = session.run(["probabilities"], {"input": x})
for row in answers:
    print(f"{names[row.argmax()]} {row.max():.4f}")
