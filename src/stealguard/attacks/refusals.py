"""Refusals: a guard that refuses suspects tells by it which inputs it takes for outliers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.attacks.base import OpeningAttack, QueryPool
from stealguard.attacks.variation import children, moved
from stealguard.boxes.base import CHUNK, logits
from stealguard.errors import AccountSpent, NotApplicable, Refused, require
from stealguard.nets import copied
from stealguard.seeds import derive, seeded
from stealguard.training.loop import Training, fit
from stealguard.types import Opening

TESTED = 50  # candidates of a request: so many are rarely all inliers, and a request that is not refused is paid for
UNREFUSED = 5  # if none of so many such requests is refused, the attack takes it that nothing is
FIRST, ALL = 0.5, 0.7  # shares of the accounts that test at most at random, and at most altogether
SPENT = 0.25  # share of the budget that the answers to tests take at most, or what one candidate takes if that is more
FEW = 4  # inliers after which the gate orders candidates
ROUND = 0.06  # share of the accounts that test before the gate is trained anew
WARM = 25  # covers before an account's answers count: its trust is low
INSIDE, KNOWN, OUTSIDE = 4000, 1000, 5000  # changed inliers that a gate learns; unchanged ones, outliers; of the pool
NEAR = 600  # inputs of the pool that explored queries are made with
MADE, CANDIDATES = 4000, 300  # queries that are made for a round of exploration, of each kind, and that are asked
LEARNED, COPIES = 15_000, 100  # changed inputs that the clone learns, at most: altogether, and of each on average
MEMORY = 2**31  # bytes of all that the clone learns; of larger inputs fewer are made, for gates and rounds as well
SLIGHT, USUAL, STRONG, STRONGEST = 0.25, 1.0, 1.5, 2.5  # how much inputs are changed, as in `moved`


@dataclass(frozen=True)
class Refusals(OpeningAttack):
    """Find inliers by refused requests, and explore from accounts that the guard trusts.

    The attacker has read the code of a guard that adds up an account's suspicion, as that of `ini-robust` does, and
    trains on top classes alone.

    1. *Tests.* A new account is asked a request of candidates, each `repeats` times in a row. The first candidate that
       is an outlier reveals the account, and how many answers it can still have tells which candidate that was. Nothing
       is answered, unless the server takes requests in parts. Each account tells of one outlier and of the inliers
       before it. Candidates are random at first.
    2. *A gate.* A net of the clone's architecture, with outliers as a further class, learns the inliers against the
       pool and orders further candidates, so that most of them are inliers.
    3. *Cover.* Many known inliers, asked in turn with little changes, are no repeats. An account that asks them has
       full trust and is answered honestly, and `covers` of them pay for a query that may be an outlier.
    4. *Exploration.* These queries are children of what was answered, balanced by class, and inputs of the pool, both
       ordered by the gate.

    The clone learns what was explored and the inliers, with changes of its own.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
        repeats: of a candidate in a test, at least 1: what the guard allows of suspicion, spent by evidence of 1 each.
        covers: known inliers between two explored queries, at least 0.
        gate: how the gate trains, each time.
        training: how the clone trains.

    Raises:
        NotApplicable: there is one account, or no request is refused.
    """

    repeats: int = 20
    covers: int = 5
    gate: Training = field(default_factory=lambda: Training(epochs=3))
    training: Training = field(default_factory=lambda: Training(epochs=5, augment="half-affine"))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.repeats >= 1, "repeats", "at least 1", self.repeats)
        require(self.covers >= 0, "covers", "at least 0", self.covers)

    def steal(self, box: Opening, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        with seeded(derive(seed, "queries")):
            known = Knowledge(self, box, pool, clone, seed)
            known.test_at_random()
            known.test_likely()
            known.explore()
            return known.learned(clone)


class Knowledge:
    """What the attacker has found out, and the steps that find out more, in their order.

    All random choices but those of trainings are drawn from torch's global generator.

    Args:
        attack: the settings.
        box: of which no account has been opened.
        pool: inputs (N, *shape).
        net: of the gates' architecture: the untrained clone.
        seed: of the gates' and the clone's training.

    Attributes:
        inliers: inputs that the guard takes for the task's, (n, *shape).
        labels: the victim's classes of these, (n,); -1 where they are not known.
        outliers: (m, *shape).
        explored: queries that were answered to a trusted account, (k, *shape).
        classes: their classes, (k,).
    """

    def __init__(self, attack: Refusals, box: Opening, pool: QueryPool, net: nn.Module, seed: int):
        self._attack, self._box, self._pool, self._seed = attack, box, pool, seed
        self._net, self._gates, self._classes = copied(net), count(), logits(net, pool[:2]).shape[1]
        self._most, self._trusted = box.accounts_left, False
        self._share = min(1.0, MEMORY / (2 * LEARNED * pool[:1].nbytes))
        self._for_tests = max(int(SPENT * attack.budget), attack.repeats)  # answers that tests may take
        self._rest = torch.randperm(len(pool))  # rows of the pool that were not tested or asked
        self.inliers = self.outliers = self.explored = pool[:0]
        self.labels = self.classes = torch.empty(0, dtype=torch.long)

    def test_at_random(self) -> None:
        """Test random inputs of the pool, until an outlier and a few inliers are known.

        Raises:
            NotApplicable: no request is refused.
        """
        for number in range(ceil(FIRST * self._most)):
            known = len(self.inliers) >= FEW and len(self.outliers)
            unrefused = number == UNREFUSED and not len(self.outliers)
            if known or unrefused or not self._test(self._rest, 1):
                break
        if not len(self.outliers):
            raise NotApplicable("This attack reads refusals, and no request was refused.")

    def test_likely(self) -> None:
        """Test the inputs that gates find likely, as long as there are accounts for it."""
        at_once = max(1, round(ROUND * self._most))
        while len(self.inliers) and self._opened < ALL * self._most:
            any_class = torch.arange(len(self.labels)) % self._classes
            gate = self._gate(self.inliers, self.labels.where(self.labels >= 0, any_class))
            if not self._test(self._likely(gate, 6 * at_once + 10), at_once):  # hardly more than are tested
                return
            self._name()

    def explore(self) -> None:
        """Ask for what is near the inliers, until the budget is spent or no account is left."""
        named = self.labels >= 0
        inliers, labels = self.inliers[named], self.labels[named]
        self.explored, self.classes, covers = inliers, labels, Covers(self.inliers)
        while len(inliers) and self._ready(covers):
            times = max(1, len(self.explored) // len(inliers))  # so that inliers are half of what a gate learns
            known = torch.cat([self.explored, inliers.repeat(times, *[1] * (inliers.dim() - 1))])
            gate = self._gate(known, torch.cat([self.classes, labels.repeat(times)]))
            candidates = self._candidates(gate)
            answered = list(self._in_turn(covers, candidates, self._attack.covers))
            rows, classes = torch.tensor(answered, dtype=torch.long).view(-1, 2).T
            self.explored = torch.cat([self.explored, candidates[rows]])
            self.classes = torch.cat([self.classes, classes])

    def learned(self, clone: nn.Module) -> nn.Module:
        """The clone, trained on what was explored; as it is where nothing was."""
        if len(self.explored):
            rows = balanced(self.classes, min(self._many(LEARNED), COPIES * len(self.explored)))
            x, y = self.explored[rows], self.classes[rows].repeat(2)
            x = torch.cat([moved(x, STRONGEST), moved(x, USUAL)])
            fit(clone, x, y, self._attack.training, seed=derive(self._seed, "clone"), progress=False)
        return clone.eval()

    def _many(self, n: int) -> int:
        """How many inputs are made where `n` are of small ones."""
        return max(1, int(self._share * n))

    @property
    def _opened(self) -> int:
        return self._most - self._box.accounts_left

    def _test(self, rows: Tensor, accounts: int) -> int:
        """Test inputs of the pool in the order of `rows`, with so many new accounts; how many inputs were tested."""
        done, repeats, self._trusted = 0, self._attack.repeats, False
        for _ in range(accounts):
            if not self._box.accounts_left or self._for_tests < repeats or done == len(rows):
                break
            self._box.open()
            n = min(TESTED, self._box.left // repeats, self._for_tests // repeats)
            x = self._pool[rows[done : done + n]]
            if not len(x):
                break
            before = self._box.spent
            told, passed = self._told(x)
            self._for_tests -= self._box.spent - before
            self.inliers = torch.cat([self.inliers, x[:passed]])
            self.labels = torch.cat([self.labels, torch.full((passed,), -1)])
            self.outliers = torch.cat([self.outliers, x[passed:told]])
            done += told
        self._drop(rows[:done])
        return done

    def _told(self, x: Tensor) -> tuple[int, int]:
        """Of how many of the candidates `x` a request of the new account tells, and how many of these are inliers."""
        before, repeats = self._box.spent, self._attack.repeats
        try:
            self._box(x.repeat_interleave(repeats, dim=0))
        except AccountSpent as refusal:
            fewer = x[: min(refusal.left // repeats, len(x) - 1)]
            return self._told(fewer) if len(fewer) else (0, 0)
        except Refused as refusal:
            passed = (self._box.spent - before + refusal.left) // repeats
            return passed + 1, passed
        return len(x), len(x)

    def _drop(self, rows: Tensor) -> None:
        self._rest = self._rest[~torch.isin(self._rest, rows)]

    def _gate(self, x: Tensor, labels: Tensor) -> nn.Module:
        """A classifier of inliers `x` with these labels, and of outliers: the pool's inputs, and those known."""
        rows, known = balanced(labels, self._many(INSIDE)), self._many(KNOWN)
        some = torch.randint(len(self._pool), (self._many(OUTSIDE),))
        inside = torch.cat([moved(x[rows], USUAL), x[rows[:known]]])
        outside = torch.cat([moved(self._pool[some], USUAL), moved(drawn(self.outliers, known), USUAL)])
        y = torch.cat([labels[rows], labels[rows[:known]], torch.full((len(outside),), self._classes)])
        gate, seed = WithOutliers(copied(self._net)), derive(self._seed, "gate", next(self._gates))
        fit(gate, torch.cat([inside, outside]), y, self._attack.gate, seed=seed, progress=False)
        return gate

    def _likely(self, gate: nn.Module, n: int) -> Tensor:
        """About `n` rows of the pool's rest that look most like inliers."""
        v = [logits(gate, self._pool[part]) for part in self._rest.split(CHUNK) if len(part)]
        return self._rest[likely(torch.cat(v), n)] if v else self._rest

    def _name(self) -> None:
        """Ask for the classes of the inliers that have none, among others that bring trust."""
        rows = (self.labels < 0).nonzero().squeeze(1)
        for number, label in self._in_turn(Covers(self.inliers), self.inliers[rows], 1):
            self.labels[rows[number]] = label

    def _candidates(self, gate: nn.Module) -> Tensor:
        """What a round of exploration asks, in random order."""
        rows, n = self._likely(gate, NEAR), self._many(MADE)
        near, parents = self._pool[rows], self.explored[balanced(self.classes, n)]
        others = near if len(near) else parents
        made = torch.cat([
            children(parents, drawn(others, n)), children(parents, parents[torch.randperm(n)]),
            moved(drawn(others, n // 2), STRONG),
        ])  # fmt: skip
        asked, best = rows[: CANDIDATES // 3], made[likely(logits(gate, made), 2 * CANDIDATES)]
        self._drop(asked)
        candidates = torch.cat([near[: len(asked)], best[: 2 * CANDIDATES // 3]])
        return candidates[torch.randperm(len(candidates))]

    def _in_turn(self, covers: Covers, candidates: Tensor, each: int) -> Iterator[tuple[int, int]]:
        """Ask the candidates one by one, each behind `each` covers: the numbers of those answered, and their classes.

        A request that is refused loses its candidate alone.
        """
        for number, candidate in enumerate(candidates[:, None]):
            if not self._ready(covers):
                return
            answers = self._ask(torch.cat([covers(each), candidate]))
            if len(answers):
                yield number, int(answers[-1].argmax())

    def _ready(self, covers: Covers) -> bool:
        """Whether an account can be asked; where there is none with trust, covers are asked from a new one.

        Where these are refused, as happens while few inliers are known, one more is opened and asked none.
        """
        if not self._trusted and self._open():
            self._ask(covers(WARM))
        return (self._trusted or self._open()) and self._box.left > 0

    def _open(self) -> bool:
        """Open an account, which is trusted until it refuses; whether there was one."""
        self._trusted = self._box.accounts_left > 0
        if self._trusted:
            self._box.open()
        return self._trusted

    def _ask(self, x: Tensor) -> Tensor:
        """The answers to `x`, or to its end where less is left; none where the account is refused.

        Trust counts no more after a refusal, so that no more is asked from the account.
        """
        try:
            return self._box(x[-self._box.left :])
        except Refused:
            self._trusted = False
            return x.new_empty(0, self._classes)


class Covers:
    """Known inliers in turn, each slightly changed."""

    def __init__(self, inliers: Tensor):
        self._inliers, self._order, self._next = inliers, torch.randperm(len(inliers)), 0

    def __call__(self, n: int) -> Tensor:
        rows = self._order[(self._next + torch.arange(n)) % len(self._order)]
        self._next += n
        return moved(self._inliers[rows], SLIGHT) if n else self._inliers[:0]


class WithOutliers(nn.Module):
    """A net's logits (N, K), and that of a further class, outliers, which is 0: (N, K + 1)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.net(x), (0, 1))


def likely(v: Tensor, n: int) -> Tensor:
    """Of rows (N, K + 1) of logits with outliers last, those that are likeliest no outliers, in random order.

    Of each class there are n / K at most, and one at least where some row names it.
    """
    classes = v.shape[1] - 1
    best = (v[:, :classes] - v[:, classes:]).cpu().max(dim=1)
    rows = []
    for k in range(classes):
        of_class = (best.indices == k).nonzero().squeeze(1)
        rows.append(of_class[best.values[of_class].topk(min(len(of_class), max(1, n // classes))).indices])
    found = torch.cat(rows)
    return found[torch.randperm(len(found))]


def drawn(x: Tensor, n: int) -> Tensor:
    """`n` rows of `x`, with repetition."""
    return x[torch.randint(len(x), (n,))]


def balanced(labels: Tensor, n: int, power: float = 0.7) -> Tensor:
    """`n` rows drawn with weights that make up for most of the difference between classes' numbers."""
    weight = labels.bincount().clamp_min(1).double() ** -power
    return weight[labels].multinomial(n, replacement=True)
