"""A box in, a box out: what a client of an API sees, and what an auditor wraps around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from stealguard.checks import check_inputs
from stealguard.devices import device_of
from stealguard.errors import BoxFault, BudgetExhausted, Refused, StealguardError, require
from stealguard.types import BlackBox

CHUNK = 1024  # rows answered at once


class Boxed:
    """A module from inputs (N, *shape) in [0, 1] to logits, as a black box: answers (N, K) on the simplex."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...]):
        self._module, self.shape = module, tuple(shape)

    def __call__(self, x: Tensor, /) -> Tensor:
        """
        Raises:
            Invalid: `x` has another shape or dtype, a NaN, or a value outside [0, 1].
        """
        return logits(self._module, check_inputs(x, "x", self.shape)).softmax(dim=1)


@torch.no_grad()
def logits(module: nn.Module, x: Tensor) -> Tensor:
    """What a module in evaluation mode makes of inputs (N, ...), chunk by chunk: (N, K) on the inputs' device."""
    module.eval()
    device = device_of(module)
    return torch.cat([module(part.to(device)).to(x.device) for part in x.split(CHUNK)])


def outputs_of(heads: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """What each head makes of inputs (N, ...), by the heads' names."""
    return {name: logits(head, x) for name, head in heads.items()}


def top_1(answers: Tensor) -> Tensor:
    """One-hot rows (N, K) of each answer's most probable class."""
    return torch.zeros_like(answers).scatter_(1, answers.argmax(dim=1, keepdim=True), 1.0)


class Labels:
    """A box that tells no more than the most probable class: one-hot rows."""

    def __init__(self, box: BlackBox):
        self._box = box

    def __call__(self, x: Tensor, /) -> Tensor:
        return top_1(self._box(x))


class Rewritten:
    """A box whose answers go through a rule, from rows on the simplex (N, K) to such rows."""

    def __init__(self, box: BlackBox, rule: Callable[[Tensor], Tensor]):
        self._box, self._rule = box, rule

    def __call__(self, x: Tensor, /) -> Tensor:
        return self._rule(self._box(x))


class Metered:
    """A box that counts: one input answered is one query, and past the budget there are no answers.

    A box that refuses ends the budget: `left` falls to what it will still answer, and what it did not answer is not
    counted.

    Args:
        box: what is asked.
        budget: how many inputs may be answered, at least 1.
        name: what errors call the box.
    """

    def __init__(self, box: BlackBox, budget: int, name: str = "box"):
        require(budget >= 1, "budget", "at least 1", budget)
        self._box, self.budget, self._name = box, budget, name
        self.left, self.spent, self._refused = budget, 0, False

    def __call__(self, x: Tensor, /) -> Tensor:
        """
        Raises:
            BudgetExhausted: `x` has more rows than are left; nothing is asked then.
            Refused: the box answers no more than `left` inputs, fewer than `x` has; it answered none of these.
            BoxFault: the box raised something, or its answers are no rows on the simplex, one for each input.
        """
        if len(x) > self.left:
            message = f"{len(x)} queries asked with {self.left} of {self.budget} left."
            raise Refused(message, self.left) if self._refused else BudgetExhausted(message)
        self.left, self.spent = self.left - len(x), self.spent + len(x)
        try:
            answers = self._box(x)
        except Refused as refusal:
            self.left, self.spent = min(self.left + len(x), refusal.left), self.spent - len(x)
            self._refused = True
            raise
        except StealguardError:
            raise
        except Exception as e:
            raise BoxFault(f"`{self._name}` should answer. Found {type(e).__name__}: {e}") from e
        return check_answers(answers, len(x), self._name)


def ask(box: BlackBox, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The box's answers to `x`, a chunk of rows at a time, until it refuses: which rows, and their answers."""
    start = 0
    while start < len(x):
        rows = slice(start, min(start + CHUNK, len(x)))
        try:
            answers = box(x[rows])
        except Refused as refusal:
            x = x[: start + refusal.left]
            continue
        yield rows, answers
        start = rows.stop


def check_answers(answers: Tensor, n: int, name: str) -> Tensor:
    """`answers` if they are (n, K) rows on the simplex.

    Raises:
        BoxFault: they are not; names the box, the rule and what was found.
    """
    if not isinstance(answers, Tensor) or answers.dim() != 2 or len(answers) != n or answers.shape[1] < 2:
        found = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
        raise BoxFault(f"`{name}` should answer {n} inputs with ({n}, K) rows, K at least 2. Found {found}.")
    if not torch.isfinite(answers).all():
        raise BoxFault(f"`{name}` should answer finite numbers. Found a NaN or an infinity.")
    sums = answers.sum(dim=1)
    if answers.min() < 0 or (sums - 1).abs().max() > 1e-3:
        low, worst = answers.min().item(), sums[(sums - 1).abs().argmax()].item()
        raise BoxFault(f"`{name}` should answer rows on the simplex. Found a least entry {low:g}, a row sum {worst:g}.")
    return answers
