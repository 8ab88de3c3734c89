"""Releases that were not trained, and what they are exported to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import stealguard as sg
from samples import mlp, noise
from stealguard.defenses import DEFENSES
from stealguard.defenses.base import Defense
from stealguard.identity import fingerprint
from stealguard.nets import structure
from stealguard.releases.release import read_recipe, write_into
from stealguard.settings import describe


def written(
    folder: Path, defense: Defense | None = None, net: nn.Module | None = None, sharpness: float = 1.0, **recipe: Any
) -> sg.Release:
    """A release of a small net of drawn weights, for inputs (N, 16) and 3 classes, with logits `sharpness` as great."""
    defense = defense or Defense()
    torch.manual_seed(0)
    net = net or mlp()
    if isinstance(net, nn.Sequential) and isinstance(net[-1], nn.Linear):
        with torch.no_grad():
            net[-1].weight.mul_(sharpness)
    like = noise(8, (16,))
    model = defense.build(net, like).eval()
    decoys = getattr(model, "decoys", None)
    if decoys is not None:
        nn.init.normal_(decoys.linear.weight)
    name, settings = describe(DEFENSES, defense)
    made = {
        "net": "given:Sequential", "structure": fingerprint(structure(net)), "shape": [16], "classes": 3, "names": [],
        "classes_given": None, "scaling": None, "data": {"name": "arrays", "train_sha256": "1", "test_sha256": "2"},
        "outliers": [], "defense": {"name": name, "settings": settings}, "training": {}, "start": None, "seed": 0,
        "history": [], "validation_rows": 0, "created": "2026-01-01T00:00:00+00:00", "seconds": 0.0,
        "provenance": {"version": sg.__version__, "torch": torch.__version__, "python": "3"},
    } | recipe  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_into(folder, model, made)
    return sg.Release(folder, read_recipe(folder), model, defense)
