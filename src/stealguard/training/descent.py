"""Stochastic gradient descent with momentum, by torch's own function.

`torch.optim.SGD` calls the same function. Its construction imports torch's compiler, which costs each process that
trains nearly two seconds of a processor core before the first step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd


class Descent:
    """The parameters that are trained, and the momentum of each.

    Args:
        parameters: one at least, all on one device.
        momentum, weight_decay: as `torch.optim.SGD` takes them.

    Attributes:
        momenta: of the parameters that have had a gradient, by their places in `parameters`; empty without momentum.

    Example:
        >>> from stealguard.training.descent import Descent
        >>> weight = nn.Parameter(torch.tensor([1.0]))
        >>> descent = Descent([weight], momentum=0.5, weight_decay=0.0)
        >>> weight.grad = torch.tensor([1.0])
        >>> descent.step(0.25), descent.step(0.25)
        (None, None)
        >>> weight.item()  # 1 - 0.25 * 1 - 0.25 * 1.5
        0.375
    """

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float, weight_decay: float):
        self.parameters = list(parameters)
        self.momenta: dict[int, Tensor] = {}
        self._momentum, self._weight_decay = momentum, weight_decay
        self._fused = True if self.parameters[0].device.type == "cuda" else None

    @torch.no_grad()
    def step(self, rate: float | Tensor) -> None:
        """Move the parameters that have a gradient; `rate`, (), may be a tensor on a GPU."""
        moved = [n for n, p in enumerate(self.parameters) if p.grad is not None]
        parameters: list[Tensor] = [self.parameters[n] for n in moved]
        momenta = [self.momenta.get(n) for n in moved]
        sgd(
            parameters, [p.grad for p in parameters if p.grad is not None], momenta,
            fused=self._fused, lr=rate, momentum=self._momentum, weight_decay=self._weight_decay,  # type: ignore[arg-type]
            dampening=0.0, nesterov=False, maximize=False,
        )  # fmt: skip
        self.momenta |= {n: momentum for n, momentum in zip(moved, momenta, strict=True) if momentum is not None}
