"""What an audit is made of: one theft for each combination that is asked for, checked before anything is asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stealguard.attacks import ATTACKS
from stealguard.attacks.base import Attack
from stealguard.attacks.treatments import TREATMENTS
from stealguard.auditing.owned import near, owned
from stealguard.auditing.suites import NOTHING, Block
from stealguard.auditing.victim import Given, Victim
from stealguard.checks import check_seed
from stealguard.data import SETS, Task
from stealguard.data.inputs import Inputs, Stored, Subset, chunks, row_hashes
from stealguard.data.roles import divide, named
from stealguard.data.scaling import Scaling
from stealguard.errors import Invalid, pick, require
from stealguard.identity import fingerprint
from stealguard.nets import adapted, build, check_name, reinitialized, structure
from stealguard.releases import Release
from stealguard.releases.release import hash_of
from stealguard.results import LABELS
from stealguard.seeds import derive
from stealguard.settings import describe

OWN = "own:"  # the pool of task samples that the attacker owns, and of altered copies of them
LIKE, NUMBERS = 1000, 2**25  # inputs, and numbers in them, at most, that a clone's normalization is read from
DEFAULT_CLONES: dict[tuple[int, ...], str] = {
    (1, 28, 28): "lenet5",
    (3, 32, 32): "resnet20",
}  # for a victim that shows no architecture


@dataclass(frozen=True)
class Pool:
    """What an attacker queries with: inputs (N, *shape), and whether the defender trained on the rest of the family.

    `dropped` is how many inputs of the set are test inputs of the task; these are not queried. `clamped` is the share
    of the set's numbers that are beyond the bounds of the task's, and are brought to these; `span` how much of the
    range between these bounds the set's inputs fill, on average over the places of an input.
    """

    name: str
    x: Inputs
    in_family: bool = False
    dropped: int = 0
    clamped: float = 0.0
    span: float = 1.0

    @property
    def content(self) -> list[str]:
        """What a theft follows from: the inputs, and the name, of which its random numbers are drawn.

        A name that stands for its inputs is left out, so that older rows are found: that of a set, and `own:N`.
        """
        stands = self.name in (*SETS, NOTHING) or self.name.startswith(OWN)
        return [self.x.hash] if stands else [self.x.hash, self.name]


@dataclass(frozen=True)
class Theft:
    """One attack with all that its row follows from, but for the victim.

    `own` is the number of task samples that the attacker owns; `tunes` says whether the clone is fine-tuned on them.
    The budget is divided over `accounts` accounts of the victim.
    """

    attack: Attack
    pool: Pool
    labels: str
    treatment: str
    own: int
    tunes: bool
    seed: int
    clone: Architecture
    accounts: int = 1

    @property
    def name(self) -> str:
        return describe(ATTACKS, self.attack)[0]

    @property
    def root(self) -> int:
        """The seed that everything random in this theft derives from: the same queries for any number of accounts."""
        return derive(self.seed, self.name, self.pool.name, self.labels, self.treatment)

    def fresh(self) -> nn.Module:
        """The clone before it has learned anything."""
        return self.clone.fresh(self.pool.x, seed=derive(self.root, "net"))


@dataclass(frozen=True)
class Architecture:
    """What clones are made from: a net's name or `module:callable`, or a module.

    Attributes:
        given: the net.
        drawn: whether a module's weights are drawn anew for each clone; else each begins with those that it has.
        classes: that an answer has.
        device: where clones are.
        shape: of an input.
    """

    given: str | nn.Module
    drawn: bool
    classes: int
    device: torch.device
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """What a row calls it."""
        return self.given if isinstance(self.given, str) else f"given:{type(self.given).__name__}"

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of its structure, and of the weights where these are kept."""
        if isinstance(self.given, str):
            like = torch.zeros(2, *self.shape)
            return self.given if ":" not in self.given else fingerprint(structure(self._built(like, seed=0)))
        return fingerprint([structure(self.given), "" if self.drawn else hash_of(self.given)])

    def fresh(self, like: Inputs | Tensor, *, seed: int) -> nn.Module:
        """A clone for inputs (N, *shape) like these, from inputs to logits (N, K), that has learned nothing.

        Raises:
            Invalid: the net cannot be drawn anew, or does not give logits.
        """
        some = like[: max(2, min(LIKE, NUMBERS // max(1, math.prod(like.shape[1:]))))]
        net = reinitialized(self.given, seed=seed) if self.drawn else self._built(some, seed=seed)  # type: ignore[arg-type]
        return adapted(net, some, self.classes).to(self.device)

    def _built(self, like: Tensor, *, seed: int) -> nn.Module:
        return build(self.given, like, self.classes, seed=seed)


def architecture(
    victim: Victim, clone: str | nn.Module | None, classes: int, device: torch.device, shape: tuple[int, ...]
) -> Architecture:
    """The clones' architecture: the one that is named, or the victim's own, drawn anew.

    Raises:
        Invalid: what is given as the clone is no net, or the victim itself.
    """
    own = victim.model.net if isinstance(victim, Release) else victim.module if isinstance(victim, Given) else None
    if clone is None:
        given = own if own is not None else DEFAULT_CLONES.get(victim.shape, "mlp")
        return Architecture(given, own is not None, classes, device, shape)
    check_name(clone, "clone")
    if isinstance(clone, nn.Module) and own is not None:
        rule = "a net that has not learned from the victim"
        require(hash_of(clone) != hash_of(own), "clone", rule, "the victim's own weights")
    return Architecture(clone, False, classes, device, shape)


def thefts(
    victim: Victim, task: Task, block: Block, seeds: Sequence[int], clone: Architecture, *, resize: bool
) -> Iterator[Theft]:
    """Every theft of a block.

    Raises:
        Invalid: a parameter breaks its rule.
    """
    for seed in seeds:
        check_seed(seed, "seeds")
    for name, numbers in ("own", block.own), ("accounts", block.accounts):
        for n in numbers:
            require(isinstance(n, int) and not isinstance(n, bool), name, "whole numbers", repr(n))
    for treatment in block.treatments:
        require(isinstance(treatment, str), "treatments", "names that `+` joins", repr(treatment))
    for mode in block.labels:
        require(mode in LABELS, "labels", f"of {', '.join(LABELS)}", f"`{mode}`")
    for name in (name for treatment in block.treatments for name in treatment.split("+") if treatment):
        pick(TREATMENTS, name, "treatments")
    for n in block.own:
        require(0 <= n <= len(task.train.x), "own", f"in 0 .. {len(task.train.x)}, the task's training inputs", n)
    for n in block.accounts:
        require(n >= 1, "accounts", "at least 1", n)
    size = max((attack.budget for attack in block.attacks), default=0)
    for seed in seeds:
        pools = [pool for given in block.pools for pool in _pools(victim, task, given, size, seed, resize)]
        combined = product(block.attacks, pools, block.labels, block.treatments, block.own, block.accounts)
        for attack, pool, mode, treatment, own, accounts in combined:
            rule = f"at most {len(pool.x):,}, the inputs of the pool `{pool.name}`"
            require(attack.needed <= len(pool.x), "budget", rule, f"{attack.needed:,}")
            samples = max(own, owned_by(pool.name))
            yield Theft(attack, pool, mode, treatment, samples, own > 0, seed, clone, accounts)


def _pools(victim: Victim, task: Task, given: Any, size: int, seed: int, resize: bool) -> Iterator[Pool]:
    shape = tuple(task.train.x.shape[1:])
    if isinstance(given, str) and given == NOTHING:
        yield Pool(NOTHING, Stored(torch.zeros(1, *shape)))
    elif isinstance(given, str) and given.startswith(OWN):
        n = owned_by(given)
        require(1 <= n <= len(task.train.x), "pools", f"own:N with N in 1 .. {len(task.train.x)}", f"`{given}`")
        yield Pool(given, Stored(near(owned(task.train, n, seed=seed).x[:], size, seed=seed)))
    else:
        found = named(
            given, shape, "pools", resize=resize, scaling=task.scaling, like=task.train.x, reading=task.reading
        )
        for name, x in found.items():
            pool = _unseen(victim, name, x)
            if task.scaling is not None and name not in SETS and isinstance(x, Stored) and not x.pixels:
                clamped, span = _units(x, task.scaling)
                pool = replace(pool, clamped=clamped, span=span)
            yield _without_test_inputs(pool, task)


def _units(x: Stored, scaling: Scaling) -> tuple[float, float]:
    """What tells of a set in the users' units that these are others: `clamped` and `span` of a `Pool`."""
    clamped, low, high = 0, torch.ones(x.shape[1:]), torch.zeros(x.shape[1:])
    for rows in chunks(x):
        numbers = x.numbers(rows)
        clamped += int(scaling.outside(numbers).sum())
        lowest, highest = scaling.to01(numbers).aminmax(dim=0)
        low, high = low.minimum(lowest), high.maximum(highest)
    return clamped / math.prod(x.shape), float((high - low).mean())


def _unseen(victim: Victim, name: str, x: Inputs) -> Pool:
    """The set as a pool: of one of the defender's outlier families, under whatever name, the part that was held out.

    Raises:
        Invalid: the set is read from files that have changed since the defender trained on them.
    """
    made = victim.recipe["outliers"] if isinstance(victim, Release) else []
    for family in made:
        known, unseen = divide(x, family["name"])
        if known.hash == family["sha256"]:
            return Pool(name, unseen, in_family=True)
    if name not in victim.facts().outliers:
        return Pool(name, x)
    rule = "as they were when the defender trained on them: nothing else tells which of their inputs are unseen"
    require(not made or ":" not in name, "pools", rule, f"other contents in `{name}`")
    return Pool(name, divide(x, name)[1], in_family=True)  # a set that this program makes


def _without_test_inputs(pool: Pool, task: Task) -> Pool:
    """The pool without the task's test inputs: a clone that has learned these would be measured on its own queries."""
    if pool.x.made:
        return pool
    known = torch.from_numpy(np.isin(row_hashes(pool.x), row_hashes(task.test.x)))
    if not known.any():
        return pool
    if known.all():
        raise Invalid("pools", "free of the task's test inputs", f"nothing else in `{pool.name}`")
    return replace(pool, x=Subset(pool.x, (~known).nonzero().squeeze(1)), dropped=int(known.sum()))


def owned_by(pool: str) -> int:
    """How many task samples an attacker owns who queries with `pool`."""
    number = pool.removeprefix(OWN)
    return int(number) if pool.startswith(OWN) and number.isdecimal() and len(number) < 19 else 0
