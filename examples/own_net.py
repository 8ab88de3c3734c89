"""Protect a net of your own: any torch module from inputs in [0, 1] to logits, here for tables of eight columns."""

from __future__ import annotations

import torch
from torch import nn

import stealguard as sg


def net() -> nn.Module:
    """From rows (N, 8) to logits (N, 3). Recipes name it `own_net:net`."""
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


def main() -> None:
    torch.manual_seed(0)
    x = torch.rand(1200, 8)
    y = x[:, :3].argmax(dim=1)  # the class is the greatest of the first three columns
    outliers = torch.rand(600, 8).round()  # stand-ins for stealing queries: rows of zeros and ones

    release = sg.protect(
        "own_net:net", data=(x[:1000], y[:1000], x[1000:], y[1000:]), outliers=outliers,
        defense=sg.InI(epsilon=1.0), epochs=40, out="runs/own-net", overwrite=True, progress=False,
    )  # fmt: skip
    again = sg.load(release.folder, net="own_net:net")  # a release never imports code by itself: name it
    accuracy = (again.box(x[1000:]).argmax(dim=1) == y[1000:]).float().mean()
    print(f"benign accuracy: {100 * accuracy:.1f} % (chance: 33.3 %)")


if __name__ == "__main__":
    main()
