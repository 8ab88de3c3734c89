"""Data-free model extraction (Truong, Maini, Walls & Papernot, CVPR 2021): a generator against a clone."""

from __future__ import annotations

from dataclasses import dataclass, field

from stealguard.attacks.data_free.alternating import Alternating
from stealguard.attacks.data_free.zeroth_order import ZerothOrder


@dataclass(frozen=True)
class DFME(ZerothOrder):
    """The generator finds inputs on which clone and victim differ most, and the clone learns them.

    That is min_S max_G E_z L(S, V; G(z)), with L = |s - l|_1 between the clone's logits s and those recovered from the
    answers p, l = log p - mean log p. The generator's gradient comes from m = 1 forward difference on its output before
    the tanh; n_G = 1 step of the generator for n_C = 5 of the clone. The settings are `ZerothOrder`'s.

    Where paper and public program differ: the program takes the logarithm of the softmax of the victim's own logits,
    so that no probability is ever 0; here there is only the box's probability, and less than 1e-12 counts as
    1e-12. L is a mean over classes here and in the program, a sum in the paper. The default rates are for budgets far
    below the paper's.
    """

    budget: int = 400_000
    training: Alternating = field(default_factory=lambda: Alternating(batch=128, lr=0.1, generator_lr=1e-2))

    @classmethod
    def paper(cls) -> DFME:
        """20 million queries for CIFAR-10 (2 million for SVHN), and the rates of the authors' program."""
        return cls(budget=20_000_000, training=Alternating(drops=(0.1, 0.3, 0.5), latent=256, width=64))
