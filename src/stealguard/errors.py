"""What stealguard says when it cannot continue. Torch-free, so that the command line can catch it cheaply."""

from __future__ import annotations

import difflib
import errno
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def counted(number: int, noun: str, nouns: str = "") -> str:
    """A number with what it counts.

    >>> counted(1, "row"), counted(2_000, "row"), counted(0, "query", "queries")
    ('1 row', '2,000 rows', '0 queries')
    """
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


LISTED, NAME = 5, 80  # names in a line, and signs of each, at most


def listed(names: Iterable[str]) -> str:
    """The first names, each cut off where it is long, and how many more there are.

    >>> listed(["a", "b"]), listed(map(str, range(2_000)))
    ('a, b', '0, 1, 2, 3, 4 and 1,995 more')
    """
    names = list(names)
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(name[:NAME] for name in names[:LISTED]) + more


class StealguardError(Exception):
    """Base of every error that a user can cause or mend; the command line prints it in one line and exits with 2."""


class Invalid(StealguardError, ValueError):
    """A parameter breaks its rule: names the parameter, the rule and the value found."""

    def __init__(self, parameter: str, rule: str, found: object):
        super().__init__(f"Parameter `{parameter}` should be {rule}. Found {found}.")
        self._given = parameter, rule, str(found)

    def __reduce__(self) -> tuple[type[Invalid], tuple[str, str, str]]:
        return type(self), self._given  # so that processes can hand errors to each other

    def about(self, parameter: str) -> Invalid:
        """The same, of the parameter through which the value came, where the error names it `data`."""
        named, rule, found = self._given
        return Invalid(parameter if named == "data" else named, rule, found)


class BudgetExhausted(StealguardError):
    """More answers were asked for than the budget allows; `left` further inputs can still be answered."""

    def __init__(self, message: str, left: int = 0):
        super().__init__(message)
        self.left = left

    def __reduce__(self) -> tuple[type[BudgetExhausted], tuple[str, int]]:
        return type(self), (str(self), self.left)


class Refused(StealguardError):
    """A box answers this account no more than `left` further inputs. It answered nothing of the refused request.

    A request for the first `left` of the same inputs is answered.
    """

    def __init__(self, message: str, left: int):
        super().__init__(message)
        self.left = left

    def __reduce__(self) -> tuple[type[Refused], tuple[str, int]]:
        return type(self), (str(self), self.left)


class AccountSpent(Refused):
    """A refusal for no other reason than that the account's own budget is spent: it tells nothing about the queries."""


class NotApplicable(StealguardError):
    """An attack has no meaning here (it needs probabilities and gets labels, for example). Nothing was asked."""


class NoAnswers(StealguardError):
    """A box answered none of an attack's queries, so that there is nothing to learn from."""

    def __init__(self, reason: str = ""):
        super().__init__(reason or "None of the attack's queries was answered.")


class NonFiniteLoss(StealguardError):
    """A loss became NaN or infinite during training; names the term and the step."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during work that can go on later; says how. Not a `StealguardError`: nothing but a program's end waits."""


class BoxFault(StealguardError):
    """A box answered something that is not an answer; names the box and the rule it broke."""


class FetchError(StealguardError):
    """A data set could not be had from any of its sources; names each source and what went wrong there."""


class ReleaseError(StealguardError):
    """A release folder is incomplete, truncated or was changed."""


def require(ok: bool, parameter: str, rule: str, found: object) -> None:
    """Raise `Invalid` unless `ok`."""
    if not ok:
        raise Invalid(parameter, rule, found)


def require_weight(weight: float, parameter: str) -> None:
    """Raise `Invalid` unless the weight of a loss is a finite number of at least 0."""
    require(weight >= 0 and math.isfinite(weight), parameter, "a finite number of at least 0", weight)


def pick(table: Mapping[str, T], name: object, parameter: str) -> T:
    """`table[name]`.

    Raises:
        Invalid: there is no such name; suggests the nearest one.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    raise Invalid(parameter, f"one of {', '.join(table)}", f"`{name}`{nearest(name, table)}")


def nearest(name: object, known: Iterable[str]) -> str:
    """` (did you mean `x`?)` for the known name nearest to `name`, or the empty string."""
    close = difflib.get_close_matches(str(name)[:200], list(known), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


# Errors of the system that follow from the machine rather than from the program, whatever wraps them.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def disk_error(error: BaseException | None) -> OSError | None:
    """The full or broken disk behind an error, if there is one: torch raises a RuntimeError about positions instead.

    >>> disk_error(ValueError()) is None
    True
    """
    while error is not None and not (isinstance(error, OSError) and error.errno in _DISK):
        error = error.__cause__ or error.__context__
    return error


def interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C behind an error, if there is one: what handles it may fail in turn, and raise something else.

    >>> interrupt(ValueError()) is None
    True
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def memory_error(error: BaseException | None) -> MemoryError | None:
    """The lack of memory behind an error, if there is one: torch raises a RuntimeError of its allocator instead.

    >>> memory_error(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."))
    MemoryError('There is not enough memory: you tried to allocate 9 bytes.')
    """
    while error is not None:
        text = str(error)
        if isinstance(error, MemoryError):
            return error if text else MemoryError("There is not enough memory.")
        if isinstance(error, RuntimeError) and any(sign in text for sign in _NO_MEMORY):
            said = text.splitlines()[0].partition("memory: ")[2] or text.splitlines()[0]
            return MemoryError(f"There is not enough memory: {said}")
        error = error.__cause__ or error.__context__
    return None


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def printable(text: str) -> str:
    """Text in one line, without the signs by which a terminal is told what to do.

    >>> printable("a\\n\\x1b[31mb")
    'a ?[31mb'
    """
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))


def one_line(error: BaseException, limit: int = 2_000) -> str:
    """What an error says, in one line of at most about `limit` characters, which a terminal shows and does not obey.

    >>> one_line(FileNotFoundError(2, "No such file or directory", "x.npz"))
    '`x.npz`: No such file or directory'
    """
    if isinstance(error, OSError) and error.strerror:
        text = f"`{error.filename}`: {error.strerror}" if error.filename is not None else error.strerror
    else:
        text = str(error) or type(error).__name__
    text = printable(text)
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"


def deprecated(old: str, new: str, gone: str) -> None:
    """Warn that the name `old` goes in version `gone`, and what is to be used instead; see docs/stability.md."""
    warnings.warn(f"`{old}` is deprecated and goes in version {gone}: use `{new}`.", DeprecationWarning, stacklevel=3)
