"""The strongest setting of each guard that costs honest users at most a point, on validation splits.

    python -m benchmarks.strengths RELEASE ... --points 1

Releases of several seeds and tasks count together: a setting is within the points if it is so on each. A guard is put
on undefended releases; a defense that is trained (Adaptive Misinformation, HODA) needs releases of its own. The test
set is not read. Of HODA it tells the greatest distance of honest clients, of a hundred validation inputs each.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from stealguard import data, load
from stealguard.boxes import Boxed, outputs_of
from stealguard.defenses import (
    CIP,
    DCP,
    GRAD2,
    HODA,
    MAD,
    AdaptiveMisinformation,
    ModelGuardS,
    ModelGuardW,
    ReverseSigmoid,
)  # fmt: skip
from stealguard.defenses.base import Defense
from stealguard.defenses.hoda import hardness, pearson_distance
from stealguard.releases.protection import guarded, validation_split
from stealguard.releases.release import Release
from stealguard.results.metrics import accuracy

BUDGETS = (0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1, 1.2, 1.5, 2.0)
BETAS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 1.9)
STRENGTHS: dict[str, Sequence[Defense]] = {  # from the weakest to the strongest
    "reverse-sigmoid": [ReverseSigmoid(beta=beta) for beta in BETAS],
    "dcp": [DCP(beta=beta) for beta in BETAS],
    "mad": [MAD(eps=eps) for eps in BUDGETS],
    "mad, argmax": [MAD(eps=eps, keep_top=True) for eps in BUDGETS],
    "grad2": [GRAD2(eps=eps) for eps in BUDGETS],
    "modelguard-w": [ModelGuardW(eps=eps) for eps in BUDGETS],
    "modelguard-s": [ModelGuardS(eps=eps) for eps in BUDGETS],
    "adaptive-misinformation": [AdaptiveMisinformation(tau=tau) for tau in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)],
    "cip": [CIP(quantiles=(q, q + (1 - q) * 0.98)) for q in (0.99, 0.97, 0.95, 0.9, 0.8)],
}


def losses(release: Release, settings: Sequence[Defense]) -> Iterator[float]:
    """Points of validation accuracy that each guard costs, against the release's own net without one."""
    _, (x, y) = validation_split(data.task(release.recipe["data"]["name"]).train, release.recipe["seed"])
    unguarded = accuracy(Boxed(release.model, release.shape)(x[:]), y)
    with tempfile.TemporaryDirectory() as folder:
        for number, defense in enumerate(settings):
            box = guarded(release, defense, Path(folder, str(number))).box
            yield 100 * (unguarded - accuracy(box(x[:]), y))


def greatest_distance(release: Release, defense: HODA, clients: int = 1_000) -> float:
    """Of the histograms of honest clients, each of validation inputs that are drawn at random, from the normal one."""
    _, (x, _) = validation_split(data.task(release.recipe["data"]["name"]).train, release.recipe["seed"])
    outputs = outputs_of(release.model.heads(), x[:])
    degrees = hardness(outputs["past"], outputs["logits"].argmax(dim=1))
    rng = torch.Generator().manual_seed(0)
    draws = [degrees[torch.randperm(len(x), generator=rng)[: defense.queries]] for _ in range(clients)]
    normal = release.model.stages.histogram
    return max(pearson_distance(draw.bincount(minlength=len(normal)), normal) for draw in draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="+", type=Path)
    parser.add_argument("--points", type=float, default=1.0)
    given = parser.parse_args()
    releases = [load(folder) for folder in given.releases]
    for name, settings in STRENGTHS.items():
        trained = type(settings[0].basis)
        fitting = [release for release in releases if type(release.defense) is trained]
        if not fitting:
            continue
        worst = torch.tensor([list(losses(release, settings)) for release in fitting]).amax(dim=0).tolist()
        within = [s for s, loss in zip(settings, worst, strict=True) if loss <= given.points]
        told = ", ".join(f"{loss:.2f}" for loss in worst)
        print(f"{name}: {within[-1] if within else 'none'}; points lost at worst: {told}", flush=True)
    for release in releases:
        if isinstance(release.defense, HODA):
            distance, recipe = greatest_distance(release, release.defense), release.recipe
            told = f"hoda, {recipe['data']['name']}, seed {recipe['seed']}"
            print(f"{told}: greatest distance of honest accounts {distance:.4f}", flush=True)


if __name__ == "__main__":
    main()
