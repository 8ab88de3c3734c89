"""Black boxes: what one account of an API sees, and rules that change the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from stealguard.checks import check_inputs
from stealguard.devices import device_of
from stealguard.errors import Refused
from stealguard.types import BlackBox

CHUNK, NUMBERS = 1024, 2**24  # rows that a module is asked at once, and numbers in them, at most
SUM_OFF = 1e-3  # how far from 1 the sum of a row on the simplex may be


class Boxed:
    """A module from inputs (N, *shape) to logits (N, K), as a black box that answers rows on the simplex.

    Args:
        module: put into evaluation mode by the first question.
        shape: of one input.

    >>> Boxed(nn.Identity(), (2,))(torch.zeros(1, 2))
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, module: nn.Module, shape: tuple[int, ...]):
        self._module, self.shape = module, tuple(shape)

    def __call__(self, x: Tensor, /) -> Tensor:
        """Answers (N, K) to inputs of any floating dtype.

        Raises:
            Invalid: `x` has another shape or dtype, a NaN, or a value outside [0, 1].
        """
        return logits(self._module, check_inputs(x, "x", self.shape)).softmax(dim=1)


@torch.no_grad()
def logits(module: nn.Module, x: Tensor) -> Tensor:
    """The outputs (N, K) of a module in evaluation mode, computed in chunks, on the device of the inputs (N, ...).

    The module is asked in the dtype of its weights. It answers in float32 at least, so that a softmax of half-precision
    outputs sums to 1.

    Example:
        >>> sg.boxes.logits(nn.Linear(4, 3), torch.rand(5, 4)).shape
        torch.Size([5, 3])
    """
    module.eval()
    device, dtype = device_of(module), dtype_of(module)
    parts = [at_least_float32(module(part.to(device, dtype))).to(x.device) for part in in_chunks(x)]
    return torch.cat(parts)


def in_chunks(x: Tensor) -> tuple[Tensor, ...]:
    """The rows of inputs (N, ...) in parts that a module can be asked at once: of photographs fewer than of digits.

    >>> [len(part) for part in in_chunks(torch.empty(200, 3, 224, 224, device="meta"))]
    [111, 89]
    """
    return x.split(max(1, min(CHUNK, NUMBERS // max(1, x.shape[1:].numel()))))


def outputs_of(heads: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """The outputs of each head for inputs (N, ...), by the heads' names.

    Example:
        >>> outputs = sg.boxes.outputs_of({"logits": nn.Linear(4, 3)}, torch.rand(5, 4))
        >>> outputs["logits"].shape
        torch.Size([5, 3])
    """
    return {name: logits(head, x) for name, head in heads.items()}


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 where its dtype is less precise, as float16 and bfloat16 are; unchanged where it is not.

    >>> at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype, at_least_float32(torch.zeros(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def on_simplex(rows: Tensor) -> bool:
    """Whether rows (N, K) are probabilities: none is negative, and each row sums to 1 within `SUM_OFF`."""
    return bool(rows.dim() == 2 and (rows >= 0).all() and ((rows.sum(dim=1) - 1).abs() <= SUM_OFF).all())


def looks_like_logits(found: Tensor) -> bool:
    """Whether what a net gives, (N, K), or (N,) for two classes, is not probabilities already."""
    return not on_simplex(found) if found.dim() == 2 else not bool(((found >= 0) & (found <= 1)).all())


def as_answers(found: Tensor, *, logits: bool) -> Tensor:
    """Answers (N, K) from logits, log-probabilities or probabilities (N, K), or from logits or probabilities of the
    second of two classes, (N,).

    >>> as_answers(torch.tensor([0.25]), logits=False)
    tensor([[0.7500, 0.2500]])
    """
    if found.dim() == 1:
        p = found.sigmoid() if logits else found
        return torch.stack([1 - p, p], dim=1)
    return found.softmax(dim=1) if logits else found


def top_1(answers: Tensor) -> Tensor:
    """One-hot rows (N, K) of the most probable class of each answer.

    >>> top_1(torch.tensor([[0.2, 0.5, 0.3]]))
    tensor([[0., 1., 0.]])
    """
    return torch.zeros_like(answers).scatter_(1, answers.argmax(dim=1, keepdim=True), 1.0)


class Labels:
    """A box that answers with the most probable class only, as one-hot rows."""

    def __init__(self, box: BlackBox):
        self._box = box

    def __call__(self, x: Tensor, /) -> Tensor:
        return top_1(self._box(x))


class Rewritten:
    """A box whose answers are changed by a rule from rows on the simplex (N, K) to rows on the simplex."""

    def __init__(self, box: BlackBox, rule: Callable[[Tensor], Tensor]):
        self._box, self._rule = box, rule

    def __call__(self, x: Tensor, /) -> Tensor:
        return self._rule(self._box(x))


def ask(box: BlackBox, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The box's answers to `x`, one chunk of rows at a time, until it refuses: the rows, and their answers.

    Example:
        >>> box = lambda x: x.softmax(dim=1)
        >>> [(rows, len(answers)) for rows, answers in sg.boxes.ask(box, torch.rand(5, 3))]
        [(slice(0, 5, None), 5)]
    """
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


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype of a module's first floating weight; float32 for a module without any."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
