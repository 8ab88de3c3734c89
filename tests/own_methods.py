"""Methods and nets of a user's own, sound and otherwise, for tests that name them as `own_methods:Name`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stealguard.attacks import Knockoff
from stealguard.defenses.base import Defense, Rule
from stealguard.types import Asked, Guard


@dataclass(frozen=True)
class Halves(Defense):
    """Only changes answers, by a share."""

    share: float = 0.5
    surrogate: str = "lenet5"


@dataclass(frozen=True)
class Uniform(Defense):
    """Only changes answers, and makes them worthless: every class is as probable as every other."""

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        return Rule(lambda answers: torch.full_like(answers, 1 / answers.shape[1]))


@dataclass(frozen=True)
class Lazy:
    """Asks for the whole pool, and learns nothing from the answers."""

    budget: int = 10
    patience: int = 1

    @property
    def needed(self) -> int:
        return self.budget

    def __call__(self, box: Asked, pool: Tensor, clone: nn.Module, *, seed: int) -> nn.Module:
        box(pool[: self.budget])
        return clone


@dataclass(frozen=True)
class Needy(Knockoff):
    """Has a rule of its own, which it breaks with an error of its own."""

    levels: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        sum(self.levels)


@dataclass(frozen=True)
class Failing(Knockoff):
    """Has an error of its own."""

    def __call__(self, box: Asked, pool: Tensor, clone: nn.Module, *, seed: int) -> nn.Module:  # type: ignore[override]
        raise RuntimeError("cannot steal")


@dataclass(frozen=True)
class Bare(Defense):
    """A field without a default."""

    strength: float


@dataclass(frozen=True)
class Unbudgeted:
    """An attack without a budget."""

    needed: int = 1

    def __call__(self, box: Asked, pool: Tensor, clone: nn.Module, *, seed: int) -> nn.Module:
        return clone


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
