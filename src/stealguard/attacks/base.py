"""What an attack is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from stealguard.data.inputs import Inputs
from stealguard.errors import NotApplicable, require
from stealguard.types import Asked, Opening

QueryPool = Tensor | Inputs
"""Unlabeled inputs (N, *shape) in [0, 1] to ask with. Attacks read `len`, `shape` and some rows at a time."""


class Attack(Protocol):
    """A way to steal a model: asks the box at most `box.left` inputs and trains `clone` on the answers.

    Attacks are frozen dataclasses whose fields are their settings. `box` is all that an attack sees of the victim:
    never a gradient, a weight or the victim's training data. The same box, pool, clone and seed give the same queries
    and the same trained clone. An attack that makes its own queries may say so by an attribute `data_free`, True.
    """

    @property
    def budget(self) -> int:
        """The greatest number of inputs that the attack may have answered."""
        ...

    @property
    def needed(self) -> int:
        """The least number of inputs in the pool, at least 1: attacks that make their queries read the shape there."""
        ...

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        """Ask and train.

        Args:
            box: the victim.
            pool: inputs (N, *shape) that the attacker has, without labels.
            clone: a module from inputs (N, *shape) to logits (N, K); it is trained in place.
            seed: what all random choices follow from.

        Returns:
            The trained clone, in evaluation mode.

        Raises:
            NotApplicable: the attack has no meaning for these inputs or answers.
            NoAnswers: the box answers nothing, of which nothing can be learned.
        """
        ...


@dataclass(frozen=True)
class PoolAttack:
    """What the attacks share that ask each input of a pool at most once.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
    """

    budget: int = 20_000

    def __post_init__(self) -> None:
        check_budget(self.budget)

    @property
    def needed(self) -> int:
        return self.budget


@dataclass(frozen=True)
class OpeningAttack(PoolAttack, ABC):
    """What the attacks share that open accounts when they like, where others divide the budget over them equally.

    An audit gives them an `Opening` box.
    """

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        """Ask and train; see `Attack`.

        Raises:
            NotApplicable: there is one account, or the answers are treated. Nothing was asked.
        """
        if not isinstance(box, Opening) or box.accounts_left < 2:
            raise NotApplicable(
                "This attack opens accounts one after another: it needs several, and untreated answers."
            )
        return self.steal(box, pool, clone, seed=seed)

    @abstractmethod
    def steal(self, box: Opening, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        """Ask from at least two accounts, none of which has been opened, and train."""


def check_budget(budget: int) -> None:
    """Raise `Invalid` unless at least one query is allowed."""
    require(budget >= 1, "budget", "at least 1", budget)
