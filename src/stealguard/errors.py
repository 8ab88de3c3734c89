"""What stealguard says when it cannot go on. Torch-free, so that the command line can catch it cheaply."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any


class StealguardError(Exception):
    """Base of every error a user can cause or mend; the command line prints it in one line and exits with 2."""


class Invalid(StealguardError, ValueError):
    """A parameter breaks its rule: names the parameter, the rule and the value found."""

    def __init__(self, parameter: str, rule: str, found: object):
        super().__init__(f"Parameter `{parameter}` should be {rule}. Found {found}.")


class BudgetExhausted(StealguardError):
    """The thief has asked for more answers than its budget allows."""


class Refused(StealguardError):
    """A box answers this client no more than `left` further inputs; of the question that was refused it answered none.

    Who asks the first `left` of them again is answered.
    """

    def __init__(self, message: str, left: int):
        super().__init__(message)
        self.left = left


class NotApplicable(StealguardError):
    """An attack has no meaning here (labels alone, say, where it needs probabilities); says why. Nothing was asked."""


class NonFiniteLoss(StealguardError):
    """Training met a NaN or an infinity; names the term and the step."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during work that can go on later; says how. Not a `StealguardError`: nothing but a program's end waits."""


class BoxFault(StealguardError):
    """A box answered something that is no answer; names the box and the rule it broke."""


class FetchError(StealguardError):
    """A data set could be had from none of its sources; names each and what went wrong there."""


class ReleaseError(StealguardError):
    """A release folder is incomplete, truncated or tampered with."""


def require(ok: bool, parameter: str, rule: str, found: object) -> None:
    """Raise `Invalid` unless `ok`."""
    if not ok:
        raise Invalid(parameter, rule, found)


def require_weight(weight: float, parameter: str) -> None:
    """Raise `Invalid` unless a loss can be weighed so: by a finite number of at least 0."""
    require(weight >= 0 and math.isfinite(weight), parameter, "a finite number of at least 0", weight)


def pick(table: dict[str, Any], name: str, parameter: str) -> Any:
    """`table[name]`, or an error that suggests the nearest name."""
    if name in table:
        return table[name]
    raise Invalid(parameter, f"one of {', '.join(table)}", f"`{name}`{nearest(name, table)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean `x`?)` for the known name nearest to `name`, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""
