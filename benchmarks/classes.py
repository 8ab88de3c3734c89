"""Which classes an attacker gets of robust InI: those of which the pool has look-alikes.

    python -m benchmarks.classes RELEASE ... --pool letters

One JSON line a release and class: `honest`, the share of the queries that are answered honestly and with this class;
`clone_accuracy`, of an attacker that takes whole answers, on the validation split's inputs of the class. The test set
is not read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from stealguard import data, load
from stealguard.attacks import Knockoff
from stealguard.boxes import Metered, logits
from stealguard.defenses.decoys import Decoyed
from stealguard.nets import reinitialized
from stealguard.releases.protection import validation_split
from stealguard.releases.release import Release
from stealguard.seeds import derive
from stealguard.training.loop import correct

BUDGET = 20_000


def by_class(release: Release, pool: Tensor) -> Iterator[dict[str, float]]:
    model, seed = release.model, derive(release.recipe["seed"], "classes")
    assert isinstance(model, Decoyed), "a release of robust InI"
    asked = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:BUDGET]]
    answered, believed = release.box(asked).argmax(dim=1), logits(model.net, asked).argmax(dim=1)
    clone = reinitialized(model.net, seed=seed)
    Knockoff(budget=BUDGET)(Metered(release.box, BUDGET, "classes"), asked, clone, seed=seed)
    task = data.task(release.recipe["data"]["name"])
    _, (x, y) = validation_split(task.train, release.recipe["seed"])
    for k in range(task.classes):
        honest = ((answered == k) & (believed == k)).float().mean().item()
        yield {"class": k, "honest": honest, "clone_accuracy": correct(clone, x[y == k], y[y == k])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="+", type=Path)
    parser.add_argument("--pool", default="letters")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pool = data.images(given.pool)[:]
    for folder in given.releases:
        for row in by_class(load(folder), pool):
            print(json.dumps({"release": str(folder), "pool": given.pool, **row}), flush=True)


if __name__ == "__main__":
    main()
