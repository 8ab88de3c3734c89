"""Sets in their roles: the defender's outliers, and the pools that an attacker queries with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stealguard.data import SETS, label, own
from stealguard.data.generated import shaped
from stealguard.data.inputs import Inputs, Resized, Subset, as_inputs
from stealguard.data.reading import Fit, Reading
from stealguard.data.scaling import Scaling
from stealguard.data.sets import Role
from stealguard.errors import Invalid, require
from stealguard.seeds import derive

COMPARED, NUMBERS = 1000, 2**22  # inputs, and numbers in them, that outliers are compared with, at most
DOUBTFUL = 0.1  # share of outliers among the inputs from which on it is said before a training
HELD_OUT = 1 / 3  # of every outlier set: never trained on, so that an audit can query the family with unseen inputs


def stand_ins(shape: tuple[int, ...]) -> list[str]:
    """The sets that stand for the attacker's queries of this shape unless a defender names some."""
    return _in_role("outliers", shape)


def unseen(shape: tuple[int, ...]) -> list[str]:
    """The sets that attackers query with unless told otherwise, for inputs of this shape."""
    return _in_role("pool", shape)


def _in_role(role: Role, shape: tuple[int, ...]) -> list[str]:
    return [name for name, spec in SETS.items() if spec.role == role and spec.serves(shape)]


def chosen(names: Sequence[str], shape: tuple[int, ...]) -> str:
    """A line about sets that were chosen by the shape of a task's inputs."""
    made = [name for name in names if SETS[name].shape != shape]
    at = f", made with inputs of {' x '.join(map(str, shape))}" if made else ""
    return f"{' and '.join(names)}{at} (none were named)"


def doubts(x: Inputs, families: Mapping[str, Inputs]) -> Iterator[str]:
    """What is known beforehand to limit a defense that trains on outliers: nothing for images, and lines
    for others.

    Args:
        x: the task's training inputs (N, *shape).
        families: the outliers by name.
    """
    if len(x.shape) == 4 or not families:
        return
    yield (
        "These are no images. On the tables and signals that were measured, queries without the columns' joint "
        "distribution gave poor clones, and mixtures of task inputs gave clones as good as without a defense "
        "(docs/research/README.md). An audit shows both."
    )
    for name, outliers in families.items():
        share = overlap(outliers, x)
        if share > DOUBTFUL:
            yield (
                f"{100 * share:.0f} % of the outliers `{name}` lie as near to task inputs as task inputs lie to each "
                "other: the net can hardly tell these apart, and may answer honest inputs as outliers."
            )


def overlap(outliers: Inputs, x: Inputs) -> float:
    """The share of the outliers whose nearest input is no farther than that of nearly all other inputs, in [0, 1].

    Inputs are compared with a half of theirs, up to `COMPARED` of each; nearly all are all but a twentieth.
    """
    most = max(2, min(COMPARED, NUMBERS // math.prod(x.shape[1:])))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive(0, "overlap")))[: 2 * most]
    inputs, others = x.rows(order).flatten(1).chunk(2)
    asked = outliers.rows(torch.linspace(0, len(outliers) - 1, min(most, len(outliers))).long()).flatten(1)
    usual = torch.cdist(others, inputs).amin(dim=1).quantile(0.95)
    return (torch.cdist(asked, inputs).amin(dim=1) <= usual).double().mean().item()


def family(name: str) -> str:
    """The set that the inputs of `name` are made from: itself, unless it is derived from another."""
    return SETS[name].family or name if name in SETS else name


def several(given: Any) -> list[Any]:
    """One set or a list or tuple of them, as a list.

    Arrays of which the second are labels are one set, and so is a tuple of two Datasets; a list of Datasets is several.
    """
    datasets = isinstance(given, list) and own.of_datasets(given)
    one = not isinstance(given, list | tuple) or (own.is_labeled(given) and not datasets)
    return [given] if one else list(given)


def named(
    given: Any, shape: tuple[int, ...], parameter: str, *, resize: bool = False, scaling: Scaling | None = None,
    seed: int = 0, like: Inputs | None = None, reading: Reading | None = None,
) -> dict[str, Inputs]:  # fmt: skip
    """One or several sets of inputs (N, *shape) by their labels. A labeled set gives its training inputs alone.

    A set with a name that can be made at `shape` is made there; it is not resized.

    Args:
        given: one or several of what `stealguard.data.images` takes.
        parameter: the name of `given` in errors.
        resize: whether images of another shape are resized to `shape`.
        scaling: from the units of the task to [0, 1], where it has one; pixels stay as they are.
        seed: what (x, y) without a test split is split by.
        like: the task's training inputs, which some sets are made from (`uniform`, `shuffled`, ...).
        reading: how the task's files are read, and these with them; without one, `resize` brings pictures to `shape`.

    Raises:
        Invalid: a set is empty, off [0, 1] without a scaling, or of another shape and `resize` is not set.
    """
    if reading is None and resize and len(shape) == 3:
        reading = Fit((shape[1], shape[2]), channels=shape[0] if shape[0] in (1, 3) else None)
    found: dict[str, Inputs] = {}
    for one in several(given):
        spec = SETS.get(one) if isinstance(one, str) else None
        if spec is not None and spec.shape != shape and (spec.fits(shape) or not spec.shape):
            found[one] = shaped.at(one, shape, like)
        else:
            try:
                x = own.unlabeled(one, seed, None, reading)
            except Invalid as error:
                raise error.about(parameter) from error
            found[label(one)] = conform(x, shape, parameter, resize=resize, scaling=scaling)
    return found


def conform(
    x: Tensor | Inputs, shape: tuple[int, ...], parameter: str, *, resize: bool = False, scaling: Scaling | None = None
) -> Inputs:
    """Inputs with rows of this shape in [0, 1]: as they are, scaled where there is a scaling, resized where wanted.

    Nothing is copied: rows are scaled and resized when they are asked for.
    """
    x = own.in_unit(as_inputs(x), parameter, scaling)
    if x.shape[1:] == shape:
        return x
    images = len(x.shape) == 4 and len(shape) == 3
    fits = images and (x.shape[1] == shape[0] or {x.shape[1], shape[0]} == {1, 3})
    rule = f"of shape (N, {', '.join(map(str, shape))}), or images resized with `resize`"
    require(resize and fits, parameter, rule, tuple(x.shape))
    return Resized(x, shape)


def divide(x: Tensor | Inputs, name: str) -> tuple[Inputs, Inputs]:
    """What a defender may train on and what is held out for audits: the same division of `name` everywhere."""
    x = as_inputs(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive(0, "held out", name)))
    held = round(len(x) * HELD_OUT)
    return Subset(x, order[held:]), Subset(x, order[:held])
