"""Stochastic gradient descent with momentum, and Adam, by torch's own functions.

The optimizers of `torch.optim` call the same functions. Their construction imports torch's compiler, which costs each
process that trains nearly two seconds of a processor core before the first step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
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


class Adam:
    """The parameters that are trained, and the moments of each.

    Args:
        parameters: one at least, all on one device.
        betas: as `torch.optim.Adam` takes them.

    Example:
        >>> from stealguard.training.descent import Adam
        >>> weight = nn.Parameter(torch.tensor([1.0]))
        >>> weight.grad = torch.tensor([3.0])
        >>> Adam([weight]).step(0.25)
        >>> weight.item()  # the first step is as long as the rate, whatever the gradient
        0.75
    """

    def __init__(self, parameters: Iterable[nn.Parameter], betas: tuple[float, float] = (0.9, 0.999)):
        self.parameters = list(parameters)
        self._betas = betas
        self._means = [torch.zeros_like(p) for p in self.parameters]
        self._squares = [torch.zeros_like(p) for p in self.parameters]
        self._steps = [torch.tensor(0.0) for _ in self.parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the parameters that have a gradient."""
        moved = [n for n, p in enumerate(self.parameters) if p.grad is not None]
        parameters, means, squares, steps = (
            [of[n] for n in moved] for of in (self.parameters, self._means, self._squares, self._steps)
        )
        adam(
            parameters, [p.grad for p in parameters if p.grad is not None], means, squares, [], steps,
            lr=rate, beta1=self._betas[0], beta2=self._betas[1], eps=1e-8,
            weight_decay=0.0, amsgrad=False, maximize=False,
        )  # fmt: skip
