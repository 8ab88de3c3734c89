"""A box with a budget: it counts queries, and checks answers."""

from __future__ import annotations

import torch
from torch import Tensor

from stealguard.boxes.base import at_least_float32
from stealguard.errors import BoxFault, BudgetExhausted, Refused, StealguardError, counted, require
from stealguard.types import BlackBox


class Metered:
    """A box that counts queries and answers no more inputs than its budget. One input answered is one query.

    When the box refuses, `left` falls to the number of inputs that it will still answer, and `refusal` says why. An
    input that was not answered is not counted. Answers are where the inputs are, wherever the box computes them.

    Args:
        box: the box that answers.
        budget: number of inputs that may be answered, at least 1.
        name: of the box, for error messages.
    """

    def __init__(self, box: BlackBox, budget: int, name: str = "box"):
        require(budget >= 1, "budget", "at least 1", budget)
        self._box, self.budget, self._name = box, budget, name
        self.left, self.spent, self.refusal = budget, 0, ""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Answers (N, K) to inputs (N, ...).

        Raises:
            BudgetExhausted: `x` has more rows than are left; the box is not asked.
            Refused: the box answers no more than `left` inputs, fewer than `x` has; it answered none of these.
            BoxFault: the box raised an error of its own, or its answers are not N rows on the simplex.
        """
        if len(x) > self.left:
            message = f"{counted(len(x), 'query', 'queries')} asked with {self.left} of {self.budget} left."
            raise Refused(message, self.left) if self.refusal else BudgetExhausted(message, self.left)
        self.left, self.spent = self.left - len(x), self.spent + len(x)
        try:
            answers = self._box(x)
        except Refused as refusal:
            self.left, self.spent = min(self.left + len(x), refusal.left), self.spent - len(x)
            self.refusal = str(refusal)
            raise
        except StealguardError:
            raise
        except Exception as e:
            raise BoxFault(f"`{self._name}` should answer. Found {type(e).__name__}: {e}") from e
        return check_answers(answers, len(x), self._name).to(x.device)


def check_answers(answers: Tensor, n: int, name: str, classes: int | None = None) -> Tensor:
    """`answers`, in float32 at least, if they are (n, K) rows on the simplex.

    Rows of less precision sum to 1 up to their rounding only; they are divided by their sums.

    Args:
        answers: what a box returned.
        n: number of inputs.
        name: of the box, for error messages.
        classes: K; any K of at least 2 if None.

    Raises:
        BoxFault: a rule is broken; names the box, the rule and what was found.

    Example:
        >>> sg.boxes.check_answers(torch.tensor([[0.25, 0.75]]), 1, "mine")
        tensor([[0.2500, 0.7500]])
    """
    columns = answers.shape[1] if isinstance(answers, Tensor) and answers.dim() == 2 else 0
    if columns < 2 or len(answers) != n or columns != (classes or columns):
        rule = f"({n}, {classes}) rows" if classes else f"({n}, K) rows, K at least 2"
        found = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
        raise BoxFault(f"`{name}` should answer {counted(n, 'input')} with {rule}. Found {found}.")
    rows = at_least_float32(answers)
    if not torch.isfinite(rows).all():
        raise BoxFault(f"`{name}` should answer finite numbers. Found a NaN or an infinity.")
    sums = rows.sum(dim=1, keepdim=True)
    if rows.min() < 0 or (sums - 1).abs().max() > max(1e-3, _rounding(answers.dtype)):
        low, worst = rows.min().item(), sums[(sums - 1).abs().argmax()].item()
        raise BoxFault(f"`{name}` should answer rows on the simplex. Found a least entry {low:g}, a row sum {worst:g}.")
    return rows if rows.dtype == answers.dtype else rows / sums


def _rounding(dtype: torch.dtype) -> float:
    """The relative error of one rounding to `dtype`, 0 for integers."""
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
