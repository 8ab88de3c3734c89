"""What honest users get: accuracy on the validation split, and on test images as they are, turned, scaled and moved.

    python -m benchmarks.shifted RELEASE ...

One JSON line a release: `validation`; `plain`, the test images; `shifted` by the augmentation `affine` (up to 15
degrees, 15 %, 1.4 pixels of 28); and `twice`, by double of each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from stealguard import data, load
from stealguard.releases.protection import validation_split
from stealguard.results.metrics import accuracy
from stealguard.seeds import derive, seeded
from stealguard.training.augment import affine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="+", type=Path)
    for folder in parser.parse_args().releases:
        release = load(folder)
        recipe = release.recipe
        task = data.task(recipe["data"]["name"])
        _, validation = validation_split(task.train, recipe["seed"])
        x, y = task.test.x[:], task.test.y
        with seeded(derive(0, "shifted")), torch.no_grad():
            inputs = {"plain": x, "shifted": affine(x), "twice": affine(x, angle=0.52, scale=0.3, shift=0.2)}
        found = {name: accuracy(release.connect(name)(z.clamp(0, 1)), y) for name, z in inputs.items()}
        start = "scratch" if recipe["start"] is None else "trained"
        told = {
            "data": recipe["data"]["name"],
            "defense": recipe["defense"]["name"],
            "start": start,
            **recipe["training"],
        }
        found["validation"] = accuracy(release.box(validation.x[:]), validation.y)
        print(json.dumps({"release": str(folder), **told, "seed": recipe["seed"], **found}), flush=True)


if __name__ == "__main__":
    main()
