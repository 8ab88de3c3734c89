"""What refusals tell: an attacker who is not told which answers are honest, and opens accounts as it likes.

    python -m benchmarks.refusals RELEASE... --accounts 100 1000 --pool letters --out FILE.jsonl

A guard that refuses suspects tells by it which inputs it takes for outliers. The attacker has read the code, and has no
weights, seeds or task data. Its steps:

1. *Tests.* A new account is asked a request of candidates, each `REPEATS` times in a row. Suspicion reveals the first
   candidate that is an outlier; how many answers are left tells which. Nothing is answered, and each account tells of
   one outlier, and for nothing of all inliers before it. Candidates are random at first.
2. *A gate.* A classifier of the inliers found (by class, once that is known) against the whole pool orders the rest of
   it, so that three in four of the candidates that are tested from then on are inliers.
3. *Cover.* More than `KEPT` known inliers, asked in turn with little changes, are no repeats: an account that asks them
   has full trust, and is answered honestly. Each `covers` of them pay for a query that may be an outlier.
4. *Exploration.* These queries are children of what was answered, balanced by class, and inputs of the pool, both
   ordered by the gate.

The clone trains on what was explored and on the inliers, with changes of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from benchmarks.adaptive import judged, pool
from torch import Tensor, nn
from torch.nn import functional as F

import stealguard as sg
from stealguard.attacks.variation import children, elastic
from stealguard.boxes.base import logits
from stealguard.errors import Refused
from stealguard.nets import build
from stealguard.results.provenance import provenance
from stealguard.seeds import derive, seeded
from stealguard.training import Training, fit
from stealguard.training.augment import affine
from stealguard.types import BlackBox

BUDGET = 20_000
REPEATS = 20  # of a candidate: suspicion of 20 is spent by evidence of 1 each
TESTED = 12  # candidates of a request
FIRST, ALL = 0.5, 0.7  # shares of the accounts that test at most at random, and at most altogether
FEW, ENOUGH = 4, 500  # inliers after which the gate orders candidates, and after which no more are wanted
ROUND = 0.06  # share of the accounts that test before the gate is trained anew
WARM = 25  # covers before an account's answers count: its trust is low
CANDIDATES = 300  # of a round of exploration


def moved(x: Tensor, much: float) -> Tensor:
    """Images turned, scaled, shifted and distorted: hardly with `much` near 0, visibly with 2."""
    return elastic(affine(x, angle=0.12 * much, scale=0.1 * much, shift=0.05 * much), strength=0.04 * much)


def drawn(x: Tensor, n: int) -> Tensor:
    return x[torch.randint(len(x), (n,))]


def balanced(labels: Tensor, n: int, power: float = 0.7) -> Tensor:
    """`n` rows drawn with weights that make up for most of the difference between classes' numbers."""
    weight = labels.bincount(minlength=10).clamp_min(1).double() ** -power
    return weight[labels].multinomial(n, replacement=True)


def labeled(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels, classes).float()


class Server(Protocol):
    """What opens accounts, as a release does."""

    def connect(self, account: str, /) -> BlackBox: ...


@dataclass
class Accounts:
    """The accounts of a server, of which the attacker opens one after the other.

    Attributes:
        server: the release.
        most: how many there are.
        opened: how many have been used.
        queries: inputs answered.
    """

    server: Server
    most: int
    opened: int = 0
    queries: int = 0
    box: BlackBox | None = field(default=None, repr=False)

    @property
    def over(self) -> bool:
        return self.queries >= BUDGET or (self.box is None and self.opened >= self.most)

    def new(self) -> BlackBox:
        self.opened += 1
        self.box = self.server.connect(f"account {self.opened}")
        return self.box

    def ask(self, x: Tensor) -> Tensor:
        """The answers to `x` by the account at hand; none where it is refused, since trust counts no more then."""
        try:
            answers = (self.box or self.new())(x)
        except Refused:
            self.box = None
            return torch.empty(0, 10)
        self.queries += len(answers)
        return answers


@dataclass
class Known:
    """What the attacker has found out.

    Attributes:
        inliers: (n, *shape).
        labels: the victim's classes of these, (n,); -1 where they were not asked.
        outliers: (m, *shape).
    """

    inliers: Tensor
    labels: Tensor
    outliers: Tensor

    def add(self, inliers: Tensor, outliers: Tensor) -> None:
        self.inliers, self.outliers = torch.cat([self.inliers, inliers]), torch.cat([self.outliers, outliers])
        self.labels = torch.cat([self.labels, torch.full((len(inliers),), -1)])


def reveal(accounts: Accounts, known: Known, candidates: Tensor, n: int) -> int:
    """Test candidates in their order with `n` new accounts; returns how many were tested."""
    done = 0
    for _ in range(min(n, accounts.most - accounts.opened)):
        rows = candidates[done : done + TESTED]
        if not len(rows):
            break
        try:
            accounts.new()(rows.repeat_interleave(REPEATS, dim=0))
            accounts.queries, passed = accounts.queries + len(rows) * REPEATS, len(rows)
        except Refused as refusal:
            passed = refusal.left // REPEATS
        known.add(rows[:passed], rows[passed : passed + 1])
        done += min(passed + 1, len(rows))
    accounts.box = None
    return done


def gate(x: Tensor, labels: Tensor, outliers: Tensor, others: Tensor, seed: int) -> nn.Module:
    """A classifier of inliers `x` with labels, of one class more: the pool's inputs and known outliers."""
    rows = balanced(labels, 4000)
    inside = torch.cat([moved(x[rows], 1.0), x[rows[:1000]]])
    outside = torch.cat([moved(drawn(others, 5000), 1.0), moved(drawn(outliers, 1000), 1.0)])
    y = torch.cat([labels[rows], labels[rows[:1000]], torch.full((len(outside),), 10)])
    net = build("lenet5", x[:2], 11, seed=seed)
    fit(net, torch.cat([inside, outside]), labeled(y, 11), Training(epochs=3), seed=seed, progress=False)
    return net


def likely(net: nn.Module, x: Tensor, n: int) -> Tensor:
    """The rows of `x` that look most like inliers: n / 10 of each class at most, in random order."""
    v = logits(net, x)
    best = (v[:, :10] - v[:, 10:]).max(dim=1)
    rows = []
    for k in range(10):
        of_class = (best.indices == k).nonzero().squeeze(1)
        rows.append(of_class[best.values[of_class].topk(min(len(of_class), n // 10)).indices])
    found = torch.cat(rows)
    return found[torch.randperm(len(found))]


class Covers:
    """Known inliers in turn, each slightly changed."""

    def __init__(self, inliers: Tensor):
        self._inliers, self._order, self._next = inliers, torch.randperm(len(inliers)), 0

    def __call__(self, n: int) -> Tensor:
        rows = self._order[(self._next + torch.arange(n)) % len(self._order)]
        self._next += n
        return moved(self._inliers[rows], 0.25) if n else self._inliers[:0]


def in_turn(accounts: Accounts, covers: Covers, candidates: Tensor, each: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Ask the candidates one by one, each behind `each` covers: those that are answered, and their classes.

    A request that is refused loses its candidate alone.
    """
    for candidate in candidates[:, None]:
        if accounts.over:
            return
        if accounts.box is None:
            accounts.ask(covers(WARM))
        answers = accounts.ask(torch.cat([covers(each), candidate]))
        if len(answers):
            yield candidate, answers[-1:].argmax(dim=1)


def name(accounts: Accounts, known: Known) -> None:
    """Ask the inliers whose class is not known, among others that bring trust."""
    for row in (known.labels < 0).nonzero():
        for _, label in in_turn(accounts, Covers(known.inliers), known.inliers[row], 1):
            known.labels[row] = label


def explore(accounts: Accounts, covers: Covers, candidates: Tensor, each: int) -> tuple[Tensor, Tensor]:
    """The candidates that are answered, and their classes."""
    x, labels = [candidates[:0]], [torch.empty(0, dtype=torch.long)]
    for candidate, label in in_turn(accounts, covers, candidates, each):
        x.append(candidate)
        labels.append(label)
    return torch.cat(x), torch.cat(labels)


def steal(release: sg.Release, images: Tensor, most: int, each: int, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """A clone by `most` accounts and BUDGET queries, and what was spent."""
    rest, accounts = images[torch.randperm(len(images))], Accounts(release, most)
    known = Known(rest[:0], torch.empty(0, dtype=torch.long), rest[:0])
    each_round, told = max(1, round(ROUND * most)), dict[str, Any]()
    while len(known.inliers) < FEW and accounts.opened < FIRST * most:
        rest = rest[reveal(accounts, known, rest, max(1, each_round // 6)) :]
    told["accounts_random"] = accounts.opened
    for number in range(50):
        if not len(known.inliers) or len(known.inliers) >= ENOUGH or accounts.opened >= ALL * most:
            break
        labels = known.labels.where(known.labels >= 0, torch.arange(len(known.labels)) % 10)
        net = gate(known.inliers, labels, known.outliers, images, derive(seed, number))
        order = likely(net, rest, 6 * each_round + 10)  # hardly more than are tested
        n = reveal(accounts, known, rest[order], each_round)
        there = torch.ones(len(rest), dtype=torch.bool)
        there[order[:n]] = False
        rest = rest[there]
        name(accounts, known)
    named = known.labels >= 0
    told |= {"inliers": len(known.inliers), "accounts_tests": accounts.opened, "queries_tests": accounts.queries}
    x, labels = known.inliers[named], known.labels[named]
    covers = Covers(known.inliers)
    for number in range(50):
        if accounts.over or not len(x):
            break
        half = torch.cat([x, *[known.inliers[named]] * max(1, len(x) // int(named.sum()))])
        names = torch.cat([labels, *[known.labels[named]] * max(1, len(x) // int(named.sum()))])
        net = gate(half, names, known.outliers, images, derive(seed, "explore", number))
        near, parents = rest[likely(net, rest, 600)], x[balanced(labels, 4000)]
        made = torch.cat([
            children(parents, drawn(near, 4000)), children(parents, parents[torch.randperm(4000)]),
            moved(drawn(near, 2000), 1.5),
        ])  # fmt: skip
        best = made[likely(net, made, 2 * CANDIDATES)]
        candidates = torch.cat([near[: CANDIDATES // 3], best[: 2 * CANDIDATES // 3]])
        found, classes = explore(accounts, covers, candidates[torch.randperm(len(candidates))], each)
        x, labels = torch.cat([x, found]), torch.cat([labels, classes])
    clone = build("lenet5", images[:2], 10, seed=derive(seed, "clone"))
    if len(x):
        rows = balanced(labels, 15_000)
        both = torch.cat([moved(x[rows], 2.5), moved(x[rows], 1.0)])
        y = labeled(labels[rows], 10).repeat(2, 1)
        fit(clone, both, y, Training(epochs=5, augment="half-affine"), seed=seed, progress=False)
    return clone, {**told, "explored": len(x), "queries": accounts.queries, "accounts_spent": accounts.opened,
                   "classes": labels.bincount(minlength=10).tolist()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="+", type=Path)
    parser.add_argument("--accounts", nargs="+", type=int, default=[100, 1000])
    parser.add_argument("--pool", default="letters")
    parser.add_argument("--covers", type=int, default=7, help="known inliers between two explored queries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="lines are added")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for path in given.releases:
        for most in given.accounts:
            started, seed = time.process_time(), derive(given.seed, path.name, given.pool, most)
            release = sg.load(path)
            told = {name: release.recipe.get("honest", {}).get(name) for name in ("served", "alone")}
            with seeded(seed):
                clone, spent = steal(release, pool(given.pool), most, given.covers, seed)
            line = {"measurement": "refusals", "victim": path.name, "pool_name": given.pool, "accounts": most,
                    "covers": given.covers, "seed": given.seed, **judged(clone), **told, **spent,
                    "cpu_seconds": time.process_time() - started, "provenance": provenance()}  # fmt: skip
            with given.out.open("a", encoding="utf-8") as file:
                print(json.dumps(line), file=file)
            print({k: v for k, v in line.items() if k != "provenance"}, flush=True)


if __name__ == "__main__":
    main()
