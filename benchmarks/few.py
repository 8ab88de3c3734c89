"""The learning rate and the batch with which a trained net is protected on a few hundred pictures.

    python -m benchmarks.few                       # 300 pictures, seeds 0, 1 and 2: about ten minutes of one core
    python -m benchmarks.few --pictures 200 --seeds 0

A net is trained on pictures of 3 x 64 x 64 in six classes (noisy waves, a class for each direction), either on the same
few pictures or on ten times as many others, as a net is that comes with weights. It is protected on the few from there,
with `Training`'s usual learning rate and batch and with smaller ones. The accuracies are those of the net alone on
2,000 further pictures, in percent: that of the start, and a column for each learning rate and batch.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from stealguard.data.generated import shaped
from stealguard.data.inputs import Stored
from stealguard.releases.presets import PRESETS
from stealguard.releases.protection import protect
from stealguard.results.honest import PoorAnswers
from stealguard.seeds import seeded
from stealguard.settings import changed
from stealguard.training import Training, fit
from stealguard.training.loop import correct

SHAPE, CLASSES = (3, 64, 64), 6
TRIED = [(0.05, 128), (0.05, 32), (0.005, 128), (0.005, 32)]  # learning rate and batch
DEFENSES = "none", "ini-robust"
WIDTHS = {"two layers": (16, 32), "four layers": (32, 64, 64, 128)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Learning rates on a few hundred pictures.")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore", PoorAnswers)  # the numbers say it
    outliers = shaped.at("wallpapers", SHAPE, None)[:1200]
    print(f"{given.pictures} pictures{'':34}start  " + "  ".join(f"{lr:g}, {batch}".rjust(10) for lr, batch in TRIED))
    for widths in WIDTHS:
        for others in (False, True):
            for seed in given.seeds:
                compare(widths, given.pictures, seed, outliers, others=others)


def compare(widths: str, n: int, seed: int, outliers: Tensor, *, others: bool) -> None:
    """A line for each defense: one net, trained on the few pictures or on `others`, and protected on the few."""
    few, test = pictures(n, 3 * seed), pictures(2000, 3 * seed + 1)
    x, y = pictures(10 * n, 3 * seed + 2) if others else few
    with seeded(seed):
        trained = net(WIDTHS[widths])
    fit(trained, x, y, Training(epochs=15 if others else 150, batch=32), seed=seed, progress=False)
    start = correct(trained, Stored(test[0]), test[1])
    for name in DEFENSES:
        found = []
        for lr, batch in TRIED:
            how = changed(PRESETS[name].training, {"lr": lr, "batch": batch}, "training")
            with tempfile.TemporaryDirectory() as folder:
                release = protect(
                    trained, few, outliers=[outliers], defense=name, training=how, start=trained, seed=seed,
                    out=Path(folder) / "release", progress=False,
                )  # fmt: skip
            found.append(correct(release.model.net, Stored(test[0]), test[1]))
        where = f"{widths}, {'other' if others else 'same'} pictures, {name}, seed {seed}"
        print(f"{where:47}{100 * start:5.1f}  " + "  ".join(f"{100 * one:10.1f}" for one in found), flush=True)


def net(widths: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = []
    for before, width in pairwise((SHAPE[0], *widths)):
        layers += [nn.Conv2d(before, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES))


def pictures(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Waves of two colors with noise, and their classes: the directions, of which neighbors overlap."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    angle = (y * math.pi / CLASSES + 0.17 * torch.randn(n, generator=generator))[:, None, None]
    length, phase, colors = (torch.rand(n, size, 1, 1, generator=generator) for size in (1, 1, 6))
    side = torch.linspace(0, 2 * math.pi, SHAPE[1])
    place = side[:, None] * angle.cos() + side * angle.sin()
    wave = (1 + torch.sin((2 + 6 * length[:, 0]) * place + 2 * math.pi * phase[:, 0]))[:, None] / 2
    noise = 0.25 * torch.randn(n, *SHAPE, generator=generator)
    return (colors[:, :3] * wave + colors[:, 3:] * (1 - wave) + noise).clamp(0, 1), y


if __name__ == "__main__":
    main()
