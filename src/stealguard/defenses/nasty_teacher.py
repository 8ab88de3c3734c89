"""Nasty Teacher (Ma et al., ICLR 2021, arXiv 2105.07381): right answers whose other probabilities mislead a clone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.defenses.base import Cost, Defended, Defense
from stealguard.errors import require, require_weight
from stealguard.nets import sibling
from stealguard.training.losses import kl
from stealguard.types import Batch


class Opposed(Defended):
    """The user's net and an `ordinary` one that it learns to differ from; forward is the first one's logits."""

    steady = True

    def __init__(self, net: nn.Module, ordinary: nn.Module, settings: NastyTeacher):
        super().__init__(net)
        self.ordinary, self.settings = ordinary, settings

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        nasty, ordinary = self.net(batch.x), self.ordinary(batch.x)
        terms = {"task": F.cross_entropy(nasty, batch.y), "ordinary": F.cross_entropy(ordinary, batch.y)}
        if self.settings.omega:
            tau = self.settings.tau
            log_p, log_q = ((logits / tau).log_softmax(dim=1) for logits in (nasty, ordinary.detach()))
            terms["nastiness"] = -self.settings.omega * tau**2 * kl(log_p, log_q)
        return terms


@dataclass(frozen=True)
class NastyTeacher(Defense):
    """L = CE(f(x), y) - omega tau^2 KL(softmax(f(x)/tau) || softmax(a(x)/tau)), a an ordinary net, held fixed.

    In the paper a is trained beforehand. Here it is a part of the module and learns in the same run from its own
    cross-entropy; the divergence sees its logits detached, so that it stays the ordinary net that it would be alone.
    After the first epochs, when it knows the task, the two are the same but for the run's length. It is released with
    the rest, and answers nothing.

    Args:
        omega: the strength, at least 0: 0.04 for CIFAR-10 and 0.005 for CIFAR-100 in the authors' settings.
        tau: the temperature, above 0: 4 and 20 there.
    """

    # What misleads a clone is in the other probabilities; the top class is right.
    countered_by = ("labels",)

    omega: float = 0.04
    tau: float = 4.0

    def __post_init__(self) -> None:
        require_weight(self.omega, "omega")
        require(self.tau > 0 and math.isfinite(self.tau), "tau", "a positive number", self.tau)

    @property
    def cost(self) -> Cost:
        return Cost(trained="an ordinary net of the same architecture")

    def build(self, net: nn.Module, like: Tensor) -> Defended:
        return Opposed(net, sibling(net, 1), self)
