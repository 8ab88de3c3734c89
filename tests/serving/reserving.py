"""Clients of one key of a ledger, in a process of their own: `python reserving.py WHERE CLIENTS ROWS [BUDGET]`.

The process prints `ready` and waits for a line. Then each client reserves up to ROWS rows again and again, and answers:
it prints their number. It ends when the budget is spent.
"""

from __future__ import annotations

import asyncio
import os
import sys

from stealguard.serving.keys import Key
from stealguard.serving.ledger import Ledger, Spent, open_ledger


async def client(ledger: Ledger, key: Key, rows: int, number: int) -> None:
    turn = number
    while True:
        turn += 1
        n = 1 + turn % rows
        try:
            await ledger.reserve(key, "0" * 64, n)
        except Spent as spent:
            if spent.left == 0:
                return
            continue
        await asyncio.sleep(0)  # the answer is computed
        os.write(1, f"{n}\n".encode())


async def main(where: str, clients: int, rows: int, budget: int | None) -> None:
    ledger, key = open_ledger(where), Key("k", "ann", "", budget=budget)
    os.write(1, b"ready\n")
    sys.stdin.readline()
    await asyncio.gather(*(client(ledger, key, rows, number) for number in range(clients)))
    await ledger.close()


if __name__ == "__main__":
    where, clients, rows, *budget = sys.argv[1:]
    asyncio.run(main(where, int(clients), int(rows), int(budget[0]) if budget else None))
