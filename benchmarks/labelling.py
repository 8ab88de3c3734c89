"""What an attacker gets, by what the outliers are answered with, all else being equal.

    python -m benchmarks.labelling RELEASE ... --pool letters

Each release is one of robust InI; its net and its border stand for all. An input that the net holds to be the task's is
answered by the net, every other one with the class that a labelling gives it; the attacker takes labels. One JSON line
a release and labelling, with the share of the pool that is answered honestly and the clone's accuracy on the validation
split: the test set is not read. Labellings that are learned are learned from the task's fitting split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from stealguard import data, load
from stealguard.attacks import Knockoff
from stealguard.boxes import Metered, logits, top_1
from stealguard.defenses.decoys import Decoyed, Decoys, wrong_names
from stealguard.defenses.suspicion import Gate
from stealguard.nets import reinitialized
from stealguard.releases.protection import validation_split
from stealguard.releases.release import Release
from stealguard.seeds import derive, seeded
from stealguard.training.loop import Training, correct, fit

BUDGET = 20_000


class Setting:
    """A release's net, its border and its task; what labellings are made from."""

    def __init__(self, release: Release):
        assert isinstance(release.model, Decoyed), "a release of robust InI"
        task = data.task(release.recipe["data"]["name"])
        self.model, self.net = release.model, release.model.net
        self.strictness = Gate(release.model.measured, release.defense.strictness, decoys=True).strictness
        self.fitting, self.validation = validation_split(task.train, release.recipe["seed"])
        self.classes, self.seed = task.classes, derive(release.recipe["seed"], "labelling")
        self.wrong = wrong_names(self.classes, 1, self.seed)[:, 0]

    def standardized(self, module: nn.Module) -> Labelling:
        """The classes of a random module, its scores standardized over task inputs."""
        scores = logits(module, self.fitting[0][:2000])
        mean, deviation = scores.mean(dim=0), scores.std(dim=0)
        return lambda x: (logits(module, x) - mean) / deviation

    def learned(self, module: nn.Module, epochs: int, rows: int | None = None) -> Labelling:
        """The classes that a module gives once it has learned to call the task's by wrong names."""
        x, y = self.fitting
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))[:rows]
        fit(module, x[order], self.wrong[y[order]], Training(epochs=epochs), seed=self.seed, progress=False)
        return lambda x: logits(module, x)


Labelling = Callable[[Tensor], Tensor]
"""Inputs (N, ...) -> scores of classes (N, K); the greatest one of a wrong class is answered."""


def _random_classes(setting: Setting) -> Labelling:
    rng = torch.Generator().manual_seed(setting.seed)
    return lambda x: torch.rand(len(x), setting.classes, generator=rng)


def _one_class(setting: Setting) -> Labelling:
    return lambda x: torch.eye(setting.classes)[:1].expand(len(x), -1)


def _next_class(setting: Setting) -> Labelling:
    return lambda x: top_1(logits(setting.net, x)).roll(1, dims=1)


def _least_likely(setting: Setting) -> Labelling:
    return lambda x: -logits(setting.net, x)


def _random_net(setting: Setting) -> Labelling:
    return setting.standardized(reinitialized(setting.net, seed=setting.seed))


def _random_linear(setting: Setting) -> Labelling:
    with seeded(setting.seed):
        decoys = Decoys(setting.fitting[0][:2], setting.classes, setting.seed)
        nn.init.normal_(decoys.linear.weight)
    return setting.standardized(decoys)


def _early_net(setting: Setting) -> Labelling:
    return setting.learned(reinitialized(setting.net, seed=setting.seed), epochs=1, rows=150 * 128)


def _late_net(setting: Setting) -> Labelling:
    return setting.learned(reinitialized(setting.net, seed=setting.seed), epochs=3)


def _perceptron(setting: Setting) -> Labelling:
    with seeded(setting.seed):
        pixels = setting.fitting[0][0].numel()
        module = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 80), nn.ReLU(), nn.Linear(80, setting.classes))
    return setting.learned(module, epochs=3)


def _decoys(setting: Setting) -> Labelling:
    decoys = setting.model.decoys
    return lambda x: logits(decoys, x)


LABELLINGS: dict[str, Callable[[Setting], Labelling]] = {
    "random classes": _random_classes,
    "one class": _one_class,
    "the next class": _next_class,
    "the least likely class": _least_likely,
    "a random net": _random_net,
    "a random linear map": _random_linear,
    "the net, early in learning wrong names": _early_net,
    "the net, late": _late_net,
    "a perceptron that learned wrong names": _perceptron,
    "a linear map that learned wrong names (decoys)": _decoys,
}


def stolen(setting: Setting, labelling: Labelling | None, pool: Tensor) -> dict[str, float]:
    """What an attacker gets from labels where the border lets outliers of the pool be answered like that."""

    def box(x: Tensor) -> Tensor:
        v = logits(setting.net, x)
        honest = top_1(v)
        if labelling is None:
            return honest
        wrong = top_1(labelling(x).masked_fill(honest.bool(), -torch.inf))
        return torch.where((v.logsumexp(dim=1) >= setting.strictness)[:, None], honest, wrong)

    asked = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(setting.seed))[:BUDGET]]
    honest = (box(asked) == top_1(logits(setting.net, asked))).all(dim=1).float().mean().item()
    clone = reinitialized(setting.net, seed=derive(setting.seed, "clone"))
    Knockoff(budget=BUDGET)(Metered(box, BUDGET, "labelling"), asked, clone, seed=setting.seed)
    return {"honest": honest, "clone_accuracy": correct(clone, *setting.validation)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="+", type=Path)
    parser.add_argument("--pool", default="letters")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pool = data.images(given.pool)[:]
    for folder in given.releases:
        setting = Setting(load(folder))
        for name, make in {"honest answers": None, **LABELLINGS}.items():
            row = stolen(setting, make and make(setting), pool)
            print(json.dumps({"release": str(folder), "pool": given.pool, "labelling": name, **row}), flush=True)


if __name__ == "__main__":
    main()
