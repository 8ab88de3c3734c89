"""Many accounts of one victim, as the one box of an attacker who divides the budget over them or opens each at will."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stealguard.boxes.metered import Metered
from stealguard.errors import AccountSpent, BudgetExhausted, Refused, require
from stealguard.types import BlackBox


class ManyAccounts:
    """A box that asks one account after another, each for its share of the budget: ceil(budget / accounts) inputs.

    The attacker moves on to the next account when a share is spent, or when an account refuses or has spent the budget
    that the victim gave it; what is left of such an account's share is lost. A request that is larger than what is left
    of an account is split over accounts.
    Where the last account refuses too, the answers that the request had until then are kept for its repetition.

    Args:
        connect: from the number of an account, counted from 1, to its box.
        accounts: how many there are, at least 1.
        budget: how many inputs are divided over them, at least 1.

    >>> many = ManyAccounts(lambda number: lambda x: torch.full((len(x), 1), float(number)), accounts=2, budget=4)
    >>> many(torch.zeros(3, 1)).tolist()
    [[1.0], [1.0], [2.0]]
    """

    def __init__(self, connect: Callable[[int], BlackBox], accounts: int, budget: int):
        require(accounts >= 1, "accounts", "at least 1", accounts)
        require(budget >= 1, "budget", "at least 1", budget)
        self._connect, self._accounts, self._share = connect, accounts, -(-budget // accounts)
        self._number, self._left, self._box = 1, self._share, connect(1)
        self._why = ""  # the last account that refused gave this reason
        self._kept: tuple[Tensor, Tensor] | None = None  # inputs and answers of a request that was refused

    def __call__(self, x: Tensor, /) -> Tensor:
        """Answers (N, K) to inputs (N, *shape).

        Raises:
            Refused: no account answers further inputs; the first `left` rows of `x` were answered, and are kept.
        """
        parts = self._answered(x)
        n = sum(map(len, parts))
        while n < len(x) and self._left:
            part = x[n : n + self._left]
            try:
                parts.append(self._box(part))
            except (BudgetExhausted, Refused) as refusal:
                self._why = str(refusal).rstrip(".")
                self._spend(self._left - refusal.left)
                continue
            n += len(part)
            self._spend(len(part))
        if n < len(x):
            self._kept = (x[:n], _joined(parts)) if parts else None
            raise Refused(f"{self._why}: no account answers further inputs.", n)
        return _joined(parts) if parts else self._box(x)

    def _answered(self, x: Tensor) -> list[Tensor]:
        """The answers that are kept to the first rows of `x`, if it repeats a request that was refused."""
        kept, self._kept = self._kept, None
        if kept is None or not torch.equal(x[: len(kept[0])], kept[0][: len(x)]):
            return []
        return [kept[1][: len(x)]]

    def _spend(self, n: int) -> None:
        """Take n inputs from the account's share, and move on where nothing is left of it."""
        self._left -= n
        if not self._left and self._number < self._accounts:
            self._number += 1
            self._left, self._box = self._share, self._connect(self._number)


def _joined(parts: list[Tensor]) -> Tensor:
    """All rows; a single part stays as it is, whatever it is, for those who check answers."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class AccountsInTurn:
    """An `Opening` box, with one budget for all of its accounts. One input answered is one query.

    Inputs of a call that an account refuses are not counted. Of a request that takes several calls, those before the
    refused one were answered: they are counted, and their answers are lost.

    Args:
        connect: from the number of an account, counted from 1, to its box.
        accounts: how many there are, at least 1.
        budget: how many inputs may be answered altogether, at least 1.
        name: of the box, for error messages.
        rows: that an account is asked in one call, at most; all if None.

    Attributes:
        opened: how many accounts have been opened.

    >>> box = AccountsInTurn(lambda number: lambda x: torch.eye(3)[[number] * len(x)], accounts=2, budget=4)
    >>> box(torch.zeros(1, 1)).tolist(), box.left, box.accounts_left
    ([[0.0, 1.0, 0.0]], 3, 1)
    >>> box.open()
    >>> box(torch.zeros(3, 1))[0].tolist(), box.left, box.accounts_left
    ([0.0, 0.0, 1.0], 0, 0)
    """

    def __init__(
        self, connect: Callable[[int], BlackBox], accounts: int, budget: int, name: str = "box",
        rows: int | None = None,
    ):  # fmt: skip
        require(accounts >= 1, "accounts", "at least 1", accounts)
        require(budget >= 1, "budget", "at least 1", budget)
        self._connect, self._accounts, self.budget, self._name = connect, accounts, budget, name
        self._rows = rows
        self.opened, self._before, self._box = 0, 0, self._account(1, budget)

    def _account(self, number: int, left: int) -> Metered:
        return Metered(_Refusing(self._connect(number)), left, self._name)

    @property
    def spent(self) -> int:
        """How many inputs were answered."""
        return self._before + self._box.spent

    @property
    def left(self) -> int:
        """How many more inputs the account that was opened last will answer."""
        return self._box.left

    @property
    def refusal(self) -> str:
        """Why the account that was opened last refused; "" if it did not."""
        return self._box.refusal

    @property
    def accounts_left(self) -> int:
        """How many further accounts can be opened: none once the budget is spent."""
        return self._accounts - self.opened if self.spent < self.budget else 0

    def open(self) -> None:
        """Open the next account; those before it are asked no more.

        Raises:
            BudgetExhausted: no further account can be opened.
        """
        if not self.accounts_left:
            raise BudgetExhausted(f"No further account of `{self._name}` can be opened.")
        self._before, self.opened = self.spent, self.opened + 1
        self._box = self._account(self.opened, self.budget - self._before)

    def __call__(self, x: Tensor, /) -> Tensor:
        """Answers (N, K) to inputs (N, *shape), of the account that was opened last.

        Raises:
            Refused: the account answers no more than `left` inputs; `AccountSpent` where its own budget is.
            BudgetExhausted, BoxFault: see `Metered`.
        """
        self.opened = max(1, self.opened)
        if self._rows is None or len(x) > self.left:  # more than is left: nothing is asked
            return self._box(x)
        return _joined([self._box(part) for part in x.split(self._rows)])


class _Refusing:
    """The box of an account, for which a budget that is spent is one more reason to refuse."""

    def __init__(self, box: BlackBox):
        self._box = box

    def __call__(self, x: Tensor, /) -> Tensor:
        try:
            return self._box(x)
        except BudgetExhausted as e:
            raise AccountSpent(str(e), e.left) from e
