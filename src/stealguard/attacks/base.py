"""What an attack is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from stealguard.types import Asked


class Attack(Protocol):
    """A way to steal: asks the box, never more than `box.left` inputs, and trains `thief` on the answers.

    Attacks are frozen dataclasses. All an attack sees of the victim is `box`; never a gradient, a weight or the
    victim's training data. The same box, pool, thief and seed give the same questions and the same clone.

    Raises:
        NotApplicable: the attack has no meaning here; nothing was asked.
    """

    @property
    def budget(self) -> int:
        """How many inputs it may have answered."""
        ...

    @property
    def needed(self) -> int:
        """How many inputs the pool must hold, at least 1: data-free attacks need one, to see the shape."""
        ...

    def __call__(self, box: Asked, pool: Tensor, clone: nn.Module, *, seed: int) -> nn.Module: ...
