"""Ledgers: what is counted of the accounts' requests, their keys, their history and their memory.

Importing this loads no torch.
"""

from __future__ import annotations

from pathlib import Path

from stealguard.serving.ledger.base import (
    HISTORY_DAYS,
    LEASE,
    Event,
    Keys,
    Ledger,
    LedgerUnavailable,
    Outcome,
    Spent,
    TooFast,
)

__all__ = [
    "HISTORY_DAYS",
    "LEASE",
    "Event",
    "Keys",
    "Ledger",
    "LedgerUnavailable",
    "Outcome",
    "Spent",
    "TooFast",
    "open_keys",
    "open_ledger",
    "to_be_made",
]


def open_ledger(where: str, *, lease: int = LEASE, history_days: float = HISTORY_DAYS) -> Ledger:
    """The ledger of a server: the path of an SQLite file, which is made if need be, or redis://HOST:PORT/NUMBER.

    Args:
        where: the path or the address.
        lease: rows that are counted ahead for an account and a net, at most; see `stealguard.serving.ledger.base`.
        history_days: for how long the history is kept.

    Raises:
        LedgerUnavailable: it cannot be used, or another server uses the file.
        StealguardError: a newer stealguard wrote it, or the package for Redis is missing.
    """
    if _is_redis(where):
        from stealguard.serving.ledger.redis import RedisLedger

        return RedisLedger(where, lease=lease, history_days=history_days)
    from stealguard.serving.ledger.sqlite import SqliteLedger

    return SqliteLedger(where, lease=lease, history_days=history_days)


def open_keys(where: str, *, create: bool = True) -> Keys:
    """The keys of a ledger, also while servers use it.

    Args:
        where: the path of an SQLite file, or redis://HOST:PORT/NUMBER.
        create: whether a file that is not there is made.

    Raises:
        LedgerUnavailable: it cannot be used.
        StealguardError: a newer stealguard wrote it, or the package for Redis is missing.
    """
    if _is_redis(where):
        from stealguard.serving.ledger.redis import RedisKeys

        return RedisKeys(where)
    from stealguard.serving.ledger.sqlite import SqliteKeys

    return SqliteKeys(where, create=create)


def to_be_made(where: str) -> bool:
    """Whether the ledger is a file that is not there, and that `open_ledger` can make; nothing is left behind.

    Raises:
        LedgerUnavailable: it is not there, and cannot be made.
    """
    if _is_redis(where):
        return False
    from stealguard.serving.ledger.sqlite import to_be_made

    return to_be_made(Path(where))


def _is_redis(where: str) -> bool:
    return where.startswith(("redis://", "rediss://", "unix://"))
