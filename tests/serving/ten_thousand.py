"""The MB that 10,000 accounts under suspicion's guard add to a server: `python ten_thousand.py LEDGER`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from stealguard.boxes import Accounts
from stealguard.defenses.suspicion import Gate, Measured, Suspicion
from stealguard.serving.keys import new_key
from stealguard.serving.ledger import Event
from stealguard.serving.ledger.sqlite import SqliteLedger, _record

ACCOUNTS, TOGETHER, CLASSES = 10_000, 100, 16


def resident() -> float:
    """MB of memory that the process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def outputs() -> Mapping[str, Tensor]:
    """Of both heads, for one input."""
    return {name: torch.randn(1, CLASSES) for name in ("logits", "decoys")}


def add_keys(ledger: SqliteLedger) -> list[str]:
    """The ids of keys of as many accounts, in one transaction."""
    keys = [new_key(f"account {i}", budget=10**6, rate=100.0)[0] for i in range(ACCOUNTS)]
    with ledger._transaction("NORMAL") as db:
        db.executemany(f"INSERT INTO keys VALUES ({', '.join('?' * 12)})", map(_record, keys))
    return [key.id for key in keys]


async def main(path: str) -> None:
    """One request of each account, then the memory that this took at most."""
    torch.set_num_threads(1)
    ledger = SqliteLedger(path)
    guard = Suspicion(Gate(Measured(CLASSES), -50.0, decoys=True), -50.0, 15.0, 1e9, "refuse", CLASSES)
    accounts = Accounts({}, guard, (1,), ledger.states("release"))
    ids, most = add_keys(ledger), 0.0
    start = resident()
    for first in range(0, ACCOUNTS, TOGETHER):
        keys = [key for key_id in ids[first : first + TOGETHER] if (key := await ledger.key(key_id))]
        await asyncio.gather(*(ledger.reserve(key, "0" * 64, 1) for key in keys))
        for key in keys:
            accounts.judged(key.account, outputs(), torch.rand(1, 1))
            ledger.record(Event(first // 1000, key.account, key.id, "digits", len(keys) // TOGETHER, "answered"))
        most = max(most, resident())
    await ledger.close()
    print(max(most, resident()) - start)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
