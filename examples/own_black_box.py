"""Audit models that stealguard did not train: anything that maps inputs to probabilities."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import nn

import stealguard as sg


def rule(x: np.ndarray) -> np.ndarray:
    """A bare function from arrays (N, 8) to probabilities (N, 3)."""
    odds = np.exp(20 * x[:, :3])
    return odds / odds.sum(axis=1, keepdims=True)


def main() -> None:
    torch.manual_seed(0)
    x, pool = torch.rand(1200, 8), torch.rand(2000, 8)
    y = x[:, :3].argmax(dim=1)
    data = (x[:1000], y[:1000], x[1000:], y[1000:])
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    clone = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    sg.fit(net, x[:1000], y[:1000], sg.Training(epochs=20), seed=0, progress=False)

    models = {"function": rule, "forest": RandomForestClassifier(random_state=0).fit(x[:1000], y[:1000]), "net": net}
    if find_spec("onnxruntime") and find_spec("onnxscript"):
        torch.onnx.export(net.eval(), (x[:2],), "net.onnx", dynamic_shapes=({0: "rows"},), dynamo=True)
        models["file"] = "net.onnx"
    for name, model in models.items():
        victim = sg.Given(model, shape=(8,), classes=3, name=name)
        rows = sg.audit(victim, [sg.attacks.Knockoff(budget=2000)], [pool], data=data, clone=clone, progress=False)
        sg.report.write_html(rows, f"{name}.html", title=f"How stealable is the {name}?")
        worst = max(row.clone_accuracy for row in rows)
        print(f"{name}: benign accuracy {100 * rows[0].benign_accuracy:.1f} %, best clone {100 * worst:.1f} %")


if __name__ == "__main__":
    main()
