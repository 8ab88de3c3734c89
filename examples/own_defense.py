"""Protect with a defense of your own: one that changes answers, and one that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import stealguard as sg
from stealguard.types import Batch


@dataclass(frozen=True)
class Tempered(sg.Defense):
    """Changes answers, not weights: each probability to the power of 1 / `temperature`, renormalized."""

    temperature: float = 4.0

    def guard(self, net: nn.Module, like: Tensor) -> sg.defenses.Rule:
        return sg.defenses.Rule(lambda rows: nn.functional.normalize(rows ** (1 / self.temperature), p=1, dim=1))


class Exposed(sg.defenses.Defended):
    """A net that also learns to answer outliers evenly."""

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        return {**super().losses(batch), "even": -self(batch.z).log_softmax(dim=1).mean()}


@dataclass(frozen=True)
class Exposure(sg.Defense):
    """Is trained into the weights: cross-entropy between the answers to outliers and the uniform distribution."""

    @property
    def needs_outliers(self) -> bool:
        return True

    def build(self, net: nn.Module, like: Tensor) -> Exposed:
        return Exposed(net)


def main() -> None:
    torch.manual_seed(0)
    x, outliers = torch.rand(1200, 8), torch.rand(600, 8).round()
    y = x[:, :3].argmax(dim=1)
    data = (x[:1000], y[:1000], x[1000:], y[1000:])
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    protect = partial(sg.protect, net, data, outliers=outliers, epochs=20, overwrite=True, progress=False)
    for defense in ("none", "own_defense:Tempered", "own_defense:Exposure"):
        box = protect(defense=defense, out=f"runs/{defense.rpartition(':')[2]}").box
        task, others = (box(part).max(dim=1).values.mean() for part in (x[1000:], outliers))
        print(f"{defense}: mean top probability {task:.2f} on the task, {others:.2f} on outliers")


if __name__ == "__main__":
    main()
