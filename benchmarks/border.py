"""How tight a border robust InI draws around MNIST, by what it is trained with and for how long.

    python -m benchmarks.border > border.jsonl

Four scripts are kept from the defender's glyphs, and are what is measured: `glyphs` is the share of theirs that is
answered honestly, `strokes` that of scribbles, which are no family of the defender's. Every setting is measured at one
accuracy, with the greatest strictness at which as many of the validation split are right; `shifted` is the accuracy on
the split when it is moved about. `seen` is the share of the very glyphs it was trained on. The test set is not read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stealguard import data
from stealguard.boxes.base import logits, outputs_of
from stealguard.data.generated import rendered
from stealguard.data.roles import divide
from stealguard.defenses import RobustInI
from stealguard.defenses.decoys import Decoyed
from stealguard.defenses.suspicion import Gate
from stealguard.nets import Normalized
from stealguard.nets.lenet import lenet5
from stealguard.progress import silent
from stealguard.releases import presets
from stealguard.releases.protection import validation_split
from stealguard.seeds import derive, seeded
from stealguard.training.augment import affine, half_affine
from stealguard.training.loop import fit
from stealguard.types import Batch

KEPT = "GREEK", "CYRILLIC", "ARMENIAN", "COPTIC"
ACCURACY = 0.983
RECIPE = presets.PRESETS["ini-robust"].training
STRICTNESSES = torch.arange(-6, 8.01, 0.25).tolist()


@dataclass(frozen=True)
class Setting:
    """What the border is drawn with; the recipe's own unless said otherwise."""

    images: int = 100_000
    moved: Literal["task", "both"] = "both"
    epochs: int = RECIPE.epochs
    width: int = 1
    weight_decay: float = RECIPE.weight_decay


SETTINGS = {  # each of the first five has one thing more than the one before
    "20,000 glyphs": Setting(images=20_000, moved="task", epochs=16, weight_decay=5e-4),
    "100,000 glyphs": Setting(moved="task", epochs=16, weight_decay=5e-4),
    "and moved": Setting(epochs=16, weight_decay=5e-4),
    "and twice the weight decay": Setting(epochs=16),
    "and 32 epochs, the recipe": Setting(),
    "twice the width, 16 epochs": Setting(width=2, epochs=16),
    "four times the width, 16 epochs": Setting(width=4, epochs=16),
}


def drawn(kept: bool, n: int) -> Tensor:
    """Glyphs (n, 1, 28, 28) of the scripts that are kept from the defender, or of the others."""
    groups = [group for name, group in rendered.scripts().items() if (name in KEPT) == kept]
    rng = np.random.default_rng(derive(0, "border", kept))
    return torch.from_numpy(rendered.render(groups, n, rng, silent)).float() / 255


def trained(setting: Setting, x: Tensor, y: Tensor, outliers: Tensor, seed: int) -> Decoyed:
    with seeded(derive(seed, "net")):
        net = Normalized(lenet5(1, 28, 10, setting.width), x.mean().view(1), x.std().view(1))
    model = RobustInI().build(net, x[:2])
    assert isinstance(model, Decoyed)

    def objective(_: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        others = half_affine(batch.z) if setting.moved == "both" else batch.z
        return model.losses(Batch(half_affine(batch.x), batch.y, others))

    training = replace(RECIPE, epochs=setting.epochs, weight_decay=setting.weight_decay, augment="none")
    fit(model, x, y, training, seed=derive(seed, "training"), objective=objective, outliers=outliers, title="border")
    return model


def answered(model: Decoyed, strictness: float, x: Tensor) -> Tensor:
    """The classes (N,) that inputs are answered with."""
    return Gate(model.measured, strictness, decoys=True).answer(outputs_of(model.heads(), x), x).argmax(dim=1)


def border(model: Decoyed, validation: tuple[Tensor, Tensor], pools: dict[str, Tensor]) -> dict[str, float]:
    """The greatest strictness of the accuracy that is asked for, and what it does."""
    x, y = validation
    accuracies = {s: (answered(model, s, x) == y).float().mean().item() for s in STRICTNESSES}
    strictness = max(s for s, accuracy in accuracies.items() if accuracy >= ACCURACY)
    with seeded(derive(0, "shifted")):
        shifted = affine(x)
    honest = {
        name: (answered(model, strictness, z) == logits(model.net, z).argmax(dim=1)).float().mean().item()
        for name, z in pools.items()
    }
    return {
        "strictness": strictness,
        "validation": accuracies[strictness],
        "shifted": (answered(model, strictness, shifted) == y).float().mean().item(),
        **honest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    glyphs, textures = drawn(False, 100_000), divide(data.images("textures"), "textures")[0]
    pools = {"glyphs": drawn(True, 10_000), "strokes": data.images("strokes")[:10_000]}
    for seed in given.seeds:
        (x, y), validation = validation_split(data.task("mnist").train, seed)
        for name in given.settings:
            setting = SETTINGS[name]
            outliers = torch.cat([glyphs[: setting.images], textures])
            model = trained(setting, x, y, outliers, seed)
            told = border(model, validation, {"seen": glyphs[:10_000], **pools})
            print(json.dumps({"setting": name, "seed": seed, **asdict(setting), **told}), flush=True)


if __name__ == "__main__":
    main()
