"""Audit with an attack of your own: a frozen dataclass that asks a box and trains a clone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import stealguard as sg


@dataclass(frozen=True)
class Blends:
    """Asks for blends of two inputs of the pool, and trains the clone on the answers."""

    budget: int = 1000  # how many inputs may be answered

    @property
    def needed(self) -> int:
        """How many inputs the pool must hold."""
        return 2

    def __call__(self, box: sg.BlackBox, pool: Tensor, clone: nn.Module, *, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        first, second = torch.randint(len(pool), (2, self.budget), generator=generator)
        queries = (pool[first] + pool[second]) / 2
        answers = torch.cat([part for _, part in sg.boxes.ask(box, queries)])  # fewer where the box refuses
        sg.fit(clone, queries[: len(answers)], answers, sg.Training(epochs=20), seed=seed, progress=False)
        return clone


def main() -> None:
    torch.manual_seed(0)
    x, pool = torch.rand(1200, 8), torch.rand(500, 8)
    y = x[:, :3].argmax(dim=1)
    data = (x[:1000], y[:1000], x[1000:], y[1000:])
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    victim = sg.protect(
        net, data=data, defense="none", epochs=20, out="runs/victim", overwrite=True, progress=False
    )  # fmt: skip

    for attack in (Blends(budget=2000), "own_attack:Blends"):  # the attack itself, or its name
        (row,) = sg.audit(victim, [attack], [pool], ["soft"], data=data, progress=False)
        print(f"{row.attack}: {row.queries} queries, clone accuracy {100 * row.clone_accuracy:.1f} % (chance: 33.3 %)")


if __name__ == "__main__":
    main()
