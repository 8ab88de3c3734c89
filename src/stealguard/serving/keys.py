"""Keys: what an account shows to be answered, and what it may have for it. Importing this loads no torch."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stealguard.errors import require

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 10**15  # of a budget: Redis computes with floats, which hold whole numbers up to 2^53
_TOKEN = re.compile(r"sg_([0-9a-f]{16})_[0-9a-f]{64}")


@dataclass(frozen=True)
class Restriction:
    """What an answer may tell; all of it without any of these.

    Attributes:
        labels: whether an answer is a one-hot row of the most probable class.
        top_k: how many classes keep a probability, at least 1; the others' mass is shared among them in proportion.
        digits: how many decimal digits a probability has, from 1 to 6.
    """

    labels: bool = False
    top_k: int | None = None
    digits: int | None = None

    def __post_init__(self) -> None:
        require(self.top_k is None or self.top_k >= 1, "top_k", "at least 1", self.top_k)
        require(self.digits is None or 1 <= self.digits <= 6, "digits", "from 1 to 6", self.digits)

    def stricter(self, other: Restriction) -> Restriction:
        """What both allow.

        >>> Restriction(top_k=3).stricter(Restriction(top_k=5, digits=2))
        Restriction(labels=False, top_k=3, digits=2)
        """
        if self == other:
            return self
        return Restriction(
            self.labels or other.labels, _least(self.top_k, other.top_k), _least(self.digits, other.digits)
        )

    def __call__(self, answers: Tensor) -> Tensor:
        """The rows on the simplex (N, K) that remain of such rows."""
        if self.labels:
            from stealguard.boxes import top_1

            return top_1(answers)
        if self.top_k is not None or self.digits is not None:
            from stealguard.defenses.truncation import rounded, truncated

            answers = answers if self.top_k is None else truncated(answers, self.top_k)
            answers = answers if self.digits is None else rounded(answers, self.digits)
        return answers

    def __str__(self) -> str:
        """In words.

        >>> str(Restriction()), str(Restriction(top_k=3, digits=2)), str(Restriction(labels=True))
        ('probabilities', 'top 3, 2 digits', 'labels')
        """
        if self.labels:
            return "labels"
        parts = [f"top {self.top_k}"] * (self.top_k is not None) + [f"{self.digits} digits"] * (self.digits is not None)
        return ", ".join(parts) or "probabilities"


def _least(a: int | None, b: int | None) -> int | None:
    return min((x for x in (a, b) if x is not None), default=None)


@dataclass(frozen=True)
class Key:
    """What is kept of a key; not the secret, which its owner alone has.

    Attributes:
        id: public; the key is looked up by it.
        account: whose budget and memory it is; an account may have several keys.
        sha256: of the whole token, in hex. A token holds 256 random bits, so that a slow hash would gain nothing.
        restriction: what its answers may tell.
        budget: rows that the account may have answered of one net's weights; None for no limit. Where keys of an
            account have different budgets, each is answered while all rows of the account are within its own.
        rate: rows per second; None for no limit.
        models: names of the models that it may ask; empty for all.
        owner: whether it may see what the server's owner sees.
        created: seconds since 1970.
        revoked: seconds since 1970; None for a key that is in force.
    """

    id: str
    account: str
    sha256: str = field(repr=False)
    restriction: Restriction = Restriction()
    budget: int | None = None
    rate: float | None = None
    models: tuple[str, ...] = ()
    owner: bool = False
    created: float = 0.0
    revoked: float | None = None

    def __post_init__(self) -> None:
        printable = self.account.isprintable() and 1 <= len(self.account) <= 200
        require(printable, "account", "1 to 200 printable characters", repr(self.account)[:250])
        require(self.account == self.account.strip(), "account", "without spaces around it", repr(self.account)[:250])
        budget, rate = self.budget, self.rate
        require(budget is None or 0 <= budget <= LARGEST, "budget", f"from 0 to {LARGEST:,}", budget)
        require(rate is None or 1e-6 <= rate < math.inf, "rate", "a finite number of at least 1e-6", rate)
        require(all(self.models), "models", "names", "an empty one")

    def allows(self, model: str) -> bool:
        """Whether it may ask the model of that name."""
        return not self.models or model in self.models


def new_key(
    account: str,
    restriction: Restriction = Restriction(),
    *,
    budget: int | None = None,
    rate: float | None = None,
    models: tuple[str, ...] = (),
    owner: bool = False,
) -> tuple[Key, str]:
    """A key, and its token `sg_ID_SECRET`, which can be had only now.

    Raises:
        Invalid: a setting breaks its rule.
    """
    id_ = secrets.token_hex(8)
    token = f"sg_{id_}_{secrets.token_hex(32)}"
    return Key(id_, account, _sha256(token), restriction, budget, rate, models, owner, time.time()), token


def key_id(token: str) -> str | None:
    """The public id in a token; None for what is no token.

    >>> key_id("sg_0123456789abcdef_" + "0" * 64), key_id("sg_1_2")
    ('0123456789abcdef', None)
    """
    found = _TOKEN.fullmatch(token)
    return found and found[1]


def matches(key: Key, token: str) -> bool:
    """Whether this is the token of the key, and the key is not revoked. It takes as long for every token."""
    return hmac.compare_digest(key.sha256, _sha256(token)) and key.revoked is None


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
