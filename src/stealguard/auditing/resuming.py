"""Whether a model behind a server that tells no identity is still the one whose answers were kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stealguard.boxes.ledger import digests_of, read_records
from stealguard.data.inputs import Inputs, chunks
from stealguard.errors import BudgetExhausted, Refused, counted
from stealguard.types import BlackBox

PROBES = 32  # test inputs, at most, that are asked again before kept answers are used
ALIKE = 1e-4  # two answers of one model differ by less in every probability: batches and libraries round differently


def checked(path: Path, box: BlackBox, x: Inputs, classes: int) -> str:
    """Remove a file of kept answers if the model does not give the same ones any more.

    It is asked for the answers of which it was least sure, since these differ most between two models.

    Args:
        path: a ledger of answers to some of `x`, which may be missing.
        box: of the model, as it is now.
        x: the test inputs, (N, *shape).
        classes: K.

    Returns:
        What was done, in words; "" where the answers are used.
    """
    if not path.exists():
        return ""
    places, answers = _kept(path, x, classes)
    if not len(places):
        return ""
    least = answers.amax(dim=1).argsort(stable=True)[:PROBES]
    number = counted(len(least), "test input")
    try:
        now = box(x.rows(places[least])).cpu()
    except (BudgetExhausted, Refused):
        return f"kept answers are used, though {number} could not be asked again to see whether the model is the same"
    if now.shape == answers[least].shape and bool(((now - answers[least]).abs() < ALIKE).all()):
        return ""
    path.unlink()
    return f"the model answers some of {number} otherwise than before: kept answers are not used"


def _kept(path: Path, x: Inputs, classes: int) -> tuple[Tensor, Tensor]:
    """The places (M,) of the inputs that the file has answers to, and these answers, (M, K)."""
    known = {digest: answer for digest, answer in read_records(path) if len(answer) == classes}
    found = {place: known[digest] for place, digest in _digests(x) if digest in known}
    answers = np.array([*found.values()], np.float32).reshape(-1, classes)
    return torch.tensor([*found], dtype=torch.long), torch.from_numpy(answers)


def _digests(x: Inputs) -> Iterator[tuple[int, bytes]]:
    for rows in chunks(x):
        yield from zip(rows.tolist(), digests_of(x.rows(rows)), strict=True)
