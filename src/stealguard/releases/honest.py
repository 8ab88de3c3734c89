"""What honest users get of a release: how often answers are right, and how many inputs are answered as outliers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stealguard.boxes.accounts import Accounts
from stealguard.boxes.base import outputs_of
from stealguard.boxes.users import answered, users
from stealguard.data.inputs import Inputs
from stealguard.defenses.base import Defended
from stealguard.results.metrics import accuracy, by_class
from stealguard.types import Guard

FIRST = 500  # inputs, at most, that are each an account's first query
OUTLIERS = 1000  # of the held-out ones, at most
STRICTNESS = (-5.0, -2.5, 0.0, 1.25, 2.5, 5.0, 7.5, 10.0)  # of the curve


class _Account(NamedTuple):
    """What one account got: answers (n, K), uniform where it was refused, and which inputs (n,) were answered how."""

    answers: Tensor
    refused: Tensor
    outliers: Tensor | None


def honest(
    model: Defended, x: Inputs, y: Tensor, outliers: Inputs | None = None, start: float | None = None,
    *, chance: float,
) -> dict[str, Any]:  # fmt: skip
    """What honest users get, measured on held-out task inputs `x`, (N, *shape), with labels `y`, (N,).

    They ask from the accounts of `boxes.users`, as in an audit. An input that is refused counts as answered wrongly.

    Args:
        model: trained, with its guard.
        outliers: held-out ones, for the curve.
        start: the accuracy of the weights that training began with, where these were trained already.
        chance: the share of the most frequent class of the task, of which few held-out inputs tell little.

    Returns:
        As JSON data: `served`, the accuracy of the answers; `by_class`, for each class how many of its inputs were
        answered rightly, and how many there were; `alone`, that of the net's own, or None where the guard
        changes nothing; `start`; `first`, the accuracy of accounts' first answers, or None without memory; `outliers`,
        the share of inputs that were answered as outliers, or None where none are; `refused`, the share that was
        refused; `chance`, as given; `inputs`, their number; `strictness`, that of a new account, given or measured, or
        None where the guard has none; and `curve`, for some values of strictness without memory [strictness, served,
        outliers, share of held-out outliers that the net itself answers].
    """
    heads, guard = model.eval().heads(), model.guard
    each = Accounts(heads, guard, tuple(x.shape[1:]))
    accounts, logits, first, curve = [], [], [], torch.zeros(len(STRICTNESS), 2, dtype=torch.float64)
    for name, rows in users(len(x)):
        part, labels = x[rows], y[rows]
        outputs = outputs_of(heads, part)
        accounts.append(_asked(each, guard, name, outputs, part))
        logits.append(outputs["logits"])
        if guard.scope == "account" and rows.start < FIRST:
            for i in range(len(part)):
                one = slice(i, i + 1)
                first.append(_asked(each, guard, f"{name}: {i}", _rows(outputs, one), part[one]).answers)
        curve += _at(guard, outputs, part, labels)
    answers, own = torch.cat([one.answers for one in accounts]), torch.cat(logits).softmax(dim=1)
    passed = [one.outliers for one in accounts if one.outliers is not None]
    changed = bool(passed) or guard.scope != "none" or not torch.equal(answers, own)
    drawn = guard.at(0.0) is not None
    return {
        "inputs": len(x),
        "served": accuracy(answers, y),
        "by_class": by_class(answers, y),
        "alone": accuracy(own, y) if changed else None,
        "start": start,
        "first": accuracy(torch.cat(first), y[: len(first)]) if first else None,
        "outliers": float(torch.cat(passed).double().mean()) if passed else None,
        "refused": float(torch.cat([one.refused for one in accounts]).double().mean()),
        "chance": chance,
        "strictness": getattr(guard, "strictness", None),
        "curve": _curve(guard, outputs_of(heads, outliers[:OUTLIERS]) if outliers else {}, curve / len(x))
        if drawn
        else [],
    }


def _asked(each: Accounts, guard: Guard, name: str, outputs: Mapping[str, Tensor], x: Tensor) -> _Account:
    """What the account of that name gets that asks `x`, and where that is refused, as many as it may have."""

    def box(part: Tensor) -> Tensor:
        """Of the first rows of `x`, whose outputs are known."""
        return each.judged(name, _rows(outputs, slice(len(part))), part).answers

    passed = guard.passed(outputs, each.state(name))
    answers, n = answered(box, x, outputs["logits"].shape[1])
    outliers = None if passed is None else ~torch.cat([passed[:n].cpu(), passed.new_ones(len(x) - n).cpu()])
    return _Account(answers, torch.arange(len(x)) >= n, outliers)


def _rows(outputs: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in outputs.items()}


def _at(guard: Guard, outputs: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """For each value of strictness, how many answers are right and how many inputs are outliers, (values, 2)."""
    found = torch.zeros(len(STRICTNESS), 2, dtype=torch.float64)
    for row, strictness in enumerate(STRICTNESS):
        gate = guard.at(strictness)
        if gate is not None:
            answers, passed = gate(outputs, x, {})[0], gate.passed(outputs, {})
            found[row, 0] = accuracy(answers, y) * len(y)
            found[row, 1] = 0 if passed is None else int((~passed).sum())
    return found


def _curve(guard: Guard, outliers: Mapping[str, Tensor], shares: Tensor) -> list[list[float | None]]:
    found: list[list[float | None]] = []
    for strictness, (served, taken) in zip(STRICTNESS, shares.tolist(), strict=True):
        gate = guard.at(strictness)
        passed = gate.passed(outliers, {}) if gate is not None and outliers else None
        found.append([strictness, served, taken, None if passed is None else float(passed.double().mean())])
    return found
