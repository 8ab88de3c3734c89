"""How many accounts an attacker needs: the unit of protection of a defense that remembers accounts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stealguard.auditing.remote import Remote
from stealguard.auditing.run import audit
from stealguard.auditing.suites import SUITES
from stealguard.auditing.victim import by_account, victim_of
from stealguard.defenses.base import Defense
from stealguard.errors import NotApplicable, StealguardError, counted, require
from stealguard.results import Row

CLOSE = 1.1  # the search ends where the number that reaches the accuracy is at most so many times one that does not


def tell(row: Row) -> None:
    """Print a line about a row to stderr."""
    found = f"{100 * reached(row):.1f} %" if row.status == "ok" else f"{row.status}: {row.reason}"
    what = f"accounts {row.accounts:,}, {row.attack} {row.pool} {row.labels} {row.treatment}".rstrip()
    print(f"{what}, seed {row.seed}, {counted(row.queries, 'answer')}: {found}", file=sys.stderr)


def accounts_to_reach(
    victim: Any,
    accuracy: float,
    attacks: Any = None,
    pools: Any = None,
    labels: str | Sequence[str] | None = None,
    *,
    budgets: int | Sequence[int] = (),
    treatments: str | Sequence[str] | None = None,
    own: int | Sequence[int] | None = None,
    seeds: int | Sequence[int] = (0,),
    clone: str | nn.Module | None = None,
    data: Any = None,
    net: str | nn.Module | None = None,
    defense: str | type[Defense] | None = None,
    resize: bool = False,
    store: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    show: Callable[[Row], object] = tell,
) -> int | None:
    """The smallest number of accounts tried with which one of the thefts reaches an accuracy; None if none does.

    The number is doubled, from 1 up to one query an account, or to the number of a remote victim's keys, until the
    accuracy is reached, and then bisected. What counts is clone accuracy, or what it is after a renaming by 20 labeled
    samples where that is more (`Row.stolen_accuracy`). More accounts are taken to give no less; where single attacks
    vary, pass several seeds: the best of them counts.

    Args:
        accuracy: in (0, 1].
        show: called with each row as soon as it is known.

    The other arguments are those of `audit`.

    Raises:
        Invalid: a parameter breaks its rule.
        NotApplicable: the victim's answers do not depend on the account.
        StealguardError: no attack can be finished; says why.

    Example:
        >>> data, pool = (torch.rand(90, 4), torch.arange(90) % 3), torch.rand(200, 4)
        >>> release = sg.protect(
        ...     "mlp", data, defense="ini-robust", outliers=pool, epochs=1, out="runs/small", progress=False
        ... )
        >>> sg.auditing.accounts_to_reach(
        ...     release, 0.1, [sg.attacks.Knockoff(budget=20)], [pool], "soft", data=data, progress=False,
        ...     show=lambda row: None,
        ... )
        1
    """
    require(0 < accuracy <= 1, "accuracy", "in (0, 1]", accuracy)
    rule = "attacks or their names: a suite brings its own numbers of accounts"
    require(not isinstance(attacks, str) or attacks not in SUITES, "attacks", rule, f"`{attacks}`")
    victim = victim_of(victim, net=net, defense=defense, device=device)
    if isinstance(victim, Remote) and victim.accounts == 1:
        raise NotApplicable(f"Nothing but one account of `{victim.name}` is given: pass several `keys`.")
    if not by_account(victim):
        raise NotApplicable(f"The answers of `{victim.name}` do not depend on the account: one is enough.")

    def steal(accounts: int) -> list[Row]:
        return audit(
            victim, attacks, pools, labels, budgets=budgets, treatments=treatments, own=own, accounts=accounts,
            seeds=seeds, clone=clone, data=data, resize=resize, store=store, device=device, progress=progress,
        )  # fmt: skip

    enough = []
    most = victim.accounts if isinstance(victim, Remote) else sys.maxsize
    for rows in search(steal, accuracy, most):
        for row in rows:
            show(row)
        if max(map(reached, rows)) >= accuracy:
            enough.append(rows[0].accounts)
    return min(enough, default=None)


def search(steal: Callable[[int], list[Row]], accuracy: float, limit: int = sys.maxsize) -> Iterator[list[Row]]:
    """The rows of each number of accounts that is tried: doubled until one reaches the accuracy, then bisected.

    Args:
        steal: from a number of accounts to the rows of all thefts with it.
        accuracy: in (0, 1].
        limit: the largest number that can be tried; one query an account where that is less.

    Raises:
        StealguardError: all thefts with some number failed, or none had a meaning with any number. Those that open
            accounts have none with a single one.
    """
    below, number, meaningless = 0, 1, True
    while True:
        rows = steal(number)
        yield rows
        meaningless &= all(row.status == "skip" for row in rows)
        if _best(rows) >= accuracy:
            break
        most = min(max(row.budget for row in rows), limit)
        if number >= most:
            if meaningless:
                raise _unfinished(rows)
            return
        below, number = number, min(2 * number, most)
    while number - below > 1 and number > CLOSE * below:
        middle = (below + number) // 2
        rows = steal(middle)
        yield rows
        below, number = (below, middle) if _best(rows) >= accuracy else (middle, number)


def reached(row: Row) -> float:
    """`Row.stolen_accuracy`, and 0 where nothing was measured."""
    return row.stolen_accuracy or 0.0


def _best(rows: Sequence[Row]) -> float:
    """The most that one of the thefts reached; 0 where none had a meaning."""
    done = [reached(row) for row in rows if row.status == "ok"]
    if not done and any(row.status == "failed" for row in rows):
        raise _unfinished(rows)
    return max(done, default=0.0)


def _unfinished(rows: Sequence[Row]) -> StealguardError:
    worst = min(rows, key=lambda row: row.status != "failed")
    return StealguardError(f"No attack could be finished: {worst.reason}")
