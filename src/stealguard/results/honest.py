"""What honest users get, in words: a line, and what must not pass without one. Importing this loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stealguard.errors import counted, printable

POINT = 0.01
CLEARLY_LESS = 0.1  # than the accuracy of all classes
MILDER = 2  # log odds
ERRORS = 2  # standard errors above chance within which an accuracy is no better than it


class PoorAnswers(UserWarning):
    """Honest users get less than the net could give, or no more than chance."""


def sentence(found: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """What `honest` found, in one line, in which classes have these names, or their numbers if there are none.

    >>> sentence({"served": 0.83, "start": 0.735, "alone": 0.805, "first": None, "outliers": 0.06, "refused": 0.0})
    '83.0 % on validation (start 73.5; the net alone 80.5); 6 % of honest inputs were answered as outliers'
    """
    named = (("start", "start"), ("alone", "the net alone"), ("first", "first answers of an account"))
    beside = [f"{words} {100 * found[name]:.1f}" for name, words in named if found[name] is not None]
    lines = [f"{100 * found['served']:.1f} % on validation" + (f" ({'; '.join(beside)})" if beside else "")]
    if worst := _worst_class(found, names):
        lines.append(worst)
    if found["outliers"] is not None:
        lines.append(f"{_share(found['outliers'])} of honest inputs were answered as outliers")
    if found["refused"]:
        lines.append(f"{_share(found['refused'])} were refused")
    return "; ".join(lines)


def _worst_class(found: Mapping[str, Any], names: Sequence[str]) -> str:
    """The class whose inputs are answered rightly least often; "" where that is no more than ten points below all.

    >>> _worst_class({"served": 0.9, "by_class": [[870, 900], [30, 100], [0, 0]]}, ["sound", "worn", "broken"])
    'worst class `worn`: 30.0 % of 100 inputs'
    """
    known = enumerate(found.get("by_class", []))
    share, number, n = min(((right / n, number, n) for number, (right, n) in known if n), default=(1.0, 0, 0))
    if share >= found["served"] - CLEARLY_LESS:
        return ""
    name = printable(names[number]) if names else number
    return f"worst class `{name}`: {100 * share:.1f} % of {counted(n, 'input')}"


def _share(value: float) -> str:
    """A share in percent, never as 0 if it is more."""
    return f"{100 * value:.0f} %" if value == 0 or value >= POINT else "less than 1 %"


def complaints(found: Mapping[str, Any], *, trained: bool = True, guard_alone: bool = False) -> list[str]:
    """What must not pass without a word, one line each: answers at chance, or a point below what they could be.

    Args:
        found: what `honest` measured.
        trained: whether training could have made it better.
        guard_alone: whether the defense is a guard alone, which no training changes.
    """
    served, chance, n = found["served"], found["chance"], found["inputs"]
    inputs, told = counted(round(n), "validation input"), []
    alone = (found["alone"] if guard_alone else None) or 0.0  # what training has reached, where it ends at the net
    if guesses(served, chance, n):
        advised = MISREAD if not trained else LONGER if guesses(alone, chance, n) else MILD
        told.append(f"{_at_chance(served, chance, inputs)} {advised}")
    guarded = (GUARDED if trained and not guard_alone else HARSH).format(milder=_milder(found.get("strictness")))
    advice = {"start": guarded if alone >= (found["start"] or 1) - POINT else RETRAIN, "alone": guarded}
    for name, words in (("start", "those of the weights that training began with"), ("alone", "the net's own")):
        if found[name] is not None and served < found[name] - POINT:
            told.append(
                f"The answers are right on {100 * served:.1f} % of {inputs}, "
                f"{words} on {100 * found[name]:.1f} %: {advice[name]}"
            )
    return told


def guesses(accuracy: float, chance: float, inputs: float = math.inf) -> bool:
    """Whether answers that are right so often, of so many inputs, are no better than chance or cannot be told from it.

    >>> guesses(0.25, 0.2, inputs=12), guesses(0.25, 0.2, inputs=1200)
    (True, False)
    """
    return accuracy <= chance + ERRORS * math.sqrt(chance * (1 - chance) / inputs)


def audited_at_chance(accuracy: float, chance: float, inputs: float = math.inf) -> str:
    """What must be told of an audited model whose answers are no better than chance on the test inputs; else ""."""
    if not guesses(accuracy, chance, inputs):
        return ""
    return f"{_at_chance(accuracy, chance, tested(inputs))} {STRANGE}"


def tested(inputs: float) -> str:
    """The test inputs with their number, if it is known (finite).

    >>> tested(10_000), tested(math.inf)
    ('10,000 test inputs', 'the test inputs')
    """
    return counted(int(inputs), "test input") if math.isfinite(inputs) else "the test inputs"


def _at_chance(accuracy: float, chance: float, inputs: str) -> str:
    return (
        f"The answers are right on {100 * accuracy:.1f} % of {inputs}, which is no better than chance "
        f"({100 * chance:.1f} %, the share of the most frequent class) or cannot be told from it."
    )


STRANGE = (
    "Compare the order of the model's classes with that of the data, and the units of its inputs (`--mean`, `--std`) "
    "with how it was trained: until they agree, this audit says nothing about how stealable the model is."
)
LONGER = "Train for more epochs, or with another learning rate and batch (`--train lr=... batch=...`)."
MILD = "Take a milder setting of the defense."
MISREAD = (
    "Nothing was trained, so the net does not get the inputs or the classes that it knows: compare `--mean`, `--std`, "
    "`--size` and `--fit` with how it was trained, and the order of its outputs with that of the classes."
)
RETRAIN = (
    "this training costs honest users more than a point. Train for more epochs, or with a lower learning rate and, "
    "on few data, smaller batches (`--train lr=... batch=...`)."
)
GUARDED = "the guard costs honest users more than a point. Train for more epochs, or take a milder setting{milder}."
HARSH = "the guard costs honest users more than a point. Take a milder setting{milder}."


def _milder(strictness: float | None) -> str:
    """What sets a strictness that is two less.

    >>> _milder(5.93), _milder(1.99), _milder(None)
    (' (`stealguard guard ... --set strictness=3.9`)', ' (`stealguard guard ... --set strictness=0`)', '')
    """
    if strictness is None:
        return ""
    return f" (`stealguard guard ... --set strictness={round(strictness - MILDER, 1) + 0.0:g}`)"  # 0, and never -0
