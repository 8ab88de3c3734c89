"""What an export is compared on: inputs of a release's task, and outliers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stealguard import data as sets
from stealguard.data.roles import divide, named
from stealguard.errors import StealguardError
from stealguard.releases.release import Release
from stealguard.seeds import derive


class Compared(NamedTuple):
    """Inputs (N, *shape) in [0, 1], and a word for what they are."""

    name: str
    x: Tensor


def samples(release: Release, n: int) -> list[Compared]:
    """`n` task inputs and `n` outliers.

    Task inputs are of the test set that the release was made from, outliers of the held-out part of a family that it
    was made from, where these are on this machine as they were then. Nothing is fetched. Else both are drawn from a
    seed: uniform noise for the task; for outliers noise at a coarse scale, black and white, and constant.
    """
    shape = release.shape
    return [
        _task(release, n) or Compared("noise", _noise(n, shape)),
        _outliers(release, n) or Compared("drawn", _drawn(n, shape)),
    ]


def _task(release: Release, n: int) -> Compared | None:
    made = release.recipe["data"]
    if not _here(made["name"]):
        return None
    try:
        task = release.task()
    except StealguardError:  # a folder that is another one now
        return None
    same = task.test.hash == made["test_sha256"]
    return Compared(f"test inputs of {made['name']}", _repeated(task.test.x[:n], n)) if same else None


def _outliers(release: Release, n: int) -> Compared | None:
    for family in release.recipe["outliers"]:
        name = family["name"]
        if not _here(name):
            continue
        try:
            x = named(
                name, release.shape, "outliers", resize=True, scaling=release.scaling, reading=release.reading
            )[name]  # fmt: skip
        except StealguardError:
            continue
        known, unseen = divide(x, name)
        if known.hash == family["sha256"]:
            return Compared(f"held-out inputs of {name}", _repeated(unseen[:n], n))
    return None


def _here(name: str) -> bool:
    """Whether the data of that name are on this machine."""
    if name in sets.SETS:
        return any(row.name == name and row.ok and row.state != "absent" for row in sets.listing())
    try:
        return sets.files(name) is not None
    except StealguardError:
        return False


def _repeated(x: Tensor, n: int) -> Tensor:
    """`n` rows: those of `x`, then the same with a little noise."""
    if len(x) >= n:
        return x
    copies = x.repeat(-(-n // len(x)), *[1] * (x.dim() - 1))[len(x) : n]
    return torch.cat([x, (copies + 0.05 * (_noise(len(copies), tuple(x.shape[1:])) - 0.5)).clamp(0, 1)])


def _noise(n: int, shape: tuple[int, ...], word: str = "noise") -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(derive(0, "export", word)))


def _drawn(n: int, shape: tuple[int, ...]) -> Tensor:
    """A third each at a coarse scale, black and white, and constant."""
    fine, level = _noise(n, shape, "outliers"), _noise(n, (1,) * len(shape), "levels")
    coarse = F.interpolate(fine[:, :, ::7, ::7], size=shape[1:], mode="bilinear") if len(shape) == 3 else fine.square()
    kind = (torch.arange(n) % 3).view(-1, *[1] * len(shape))
    return torch.where(kind == 0, coarse, torch.where(kind == 1, (fine > level).float(), level.expand_as(fine)))
