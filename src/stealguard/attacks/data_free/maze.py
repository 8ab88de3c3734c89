"""MAZE (Kariyappa, Prakash & Qureshi, CVPR 2021): DFME's algorithm on KL, with more directions and replay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stealguard.attacks.data_free.alternating import Alternating
from stealguard.attacks.data_free.zeroth_order import ZerothOrder


@dataclass(frozen=True)
class MAZE(ZerothOrder):
    """The generator finds inputs of the greatest KL(victim || clone), and the clone learns them and earlier ones.

    N_G = 1 step of the generator down -KL along m = 10 forward differences, N_C = 5 steps of the clone down KL on new
    images, N_R on replayed ones. The settings are `ZerothOrder`'s.

    Where paper and public program differ: the program lets the clone's first step have the generator's images and
    does not count their second answer, and it replays each round's last batch only; here every step has new images,
    every answer counts and is replayed. The paper keeps all answers, here the latest `replay` stay. The defaults are
    for budgets far below the paper's: fewer replayed steps (N_R = 10 in the paper), and Adam for the generator.
    """

    budget: int = 500_000
    replay_steps: int = 2
    directions: int = 10
    loss: Literal["l1", "kl"] = "kl"
    training: Alternating = field(default_factory=lambda: Alternating(batch=128, lr=0.1, generator_lr=1e-2))

    @classmethod
    def paper(cls) -> MAZE:
        """5 million queries (30 million for CIFAR-10), N_R = 10, and SGD for both, as the authors' program."""
        training = Alternating(batch=128, generator_optimizer="sgd", width=64)
        return cls(budget=5_000_000, replay_steps=10, replay=1_000_000, training=training)
