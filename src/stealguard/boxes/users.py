"""Honest users: they are many, and each asks little from an account of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from stealguard.boxes.base import ask
from stealguard.data.inputs import Inputs
from stealguard.errors import Invalid
from stealguard.types import BlackBox

ACCOUNT = 100  # queries of an honest account
BLOCK = 8192  # inputs decoded at once


def users(n: int) -> Iterator[tuple[str, slice]]:
    """The accounts of users who ask `n` inputs in all, by name, and the rows that each asks.

    >>> list(users(250))
    [('user 0', slice(0, 100, None)), ('user 1', slice(100, 200, None)), ('user 2', slice(200, 250, None))]
    """
    for number, start in enumerate(range(0, n, ACCOUNT)):
        yield f"user {number}", slice(start, min(start + ACCOUNT, n))


def served(connect: Callable[[str], BlackBox], x: Inputs | Tensor, classes: int) -> Tensor:
    """The answers to all of `x`, (N, *shape) -> (N, K), from the accounts of `users`; uniform rows where one refuses.

    Args:
        connect: from an account's name to its box.
        classes: K.
    """
    return torch.cat([everything(connect(name), x[rows], classes) for name, rows in users(len(x))])


def everything(box: BlackBox, x: Inputs | Tensor, classes: int | None = None) -> Tensor:
    """The answers of one account to all of `x`, (N, ...) -> (N, K); uniform rows from where the box refuses on.

    Args:
        classes: K, which the answers tell unless the box refuses the first input.

    Raises:
        Invalid: nothing tells K.
    """
    return answered(box, x, classes)[0]


def answered(box: BlackBox, x: Inputs | Tensor, classes: int | None = None) -> tuple[Tensor, int]:
    """`everything`, and how many of the first inputs the box did answer."""
    found: list[Tensor] = []
    n = 0
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        found.extend(answers for _, answers in ask(box, part))
        n = sum(map(len, found))
        if n < start + len(part):
            break
    k = found[0].shape[1] if found else classes
    if k is None:
        raise Invalid("classes", "given for a box that refuses the first input", "none")
    like = found[0] if found else torch.empty(0)
    return torch.cat([*found, like.new_full((len(x) - n, k), 1 / k)]), n
