"""What an audit is made of: one theft for each combination that is asked for, checked before anything is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from stealguard.attacks import ATTACKS
from stealguard.attacks.base import Attack
from stealguard.attacks.treatments import TREATMENTS
from stealguard.auditing.owned import near, owned
from stealguard.auditing.suites import NOTHING, Block
from stealguard.data import Task
from stealguard.data.roles import divide, named
from stealguard.errors import pick, require
from stealguard.nets import build, reinitialized
from stealguard.releases.release import Release
from stealguard.results.row import LABELS
from stealguard.seeds import derive
from stealguard.settings import describe

OWN = "own:"  # the pool of task samples that the thief owns, and of altered copies of them


@dataclass(frozen=True)
class Pool:
    """What a thief queries with: inputs (N, *shape), and whether the defender trained on the rest of the family."""

    name: str
    x: Tensor
    in_family: bool = False


@dataclass(frozen=True)
class Theft:
    """One thief: everything that its row follows from, but for the victim.

    `own` is the number of task samples that it owns; `tunes` says whether it fine-tunes the clone on their labels.
    """

    attack: Attack
    pool: Pool
    labels: str
    answers: str
    own: int
    tunes: bool
    seed: int
    clone: str | nn.Module | None

    @property
    def name(self) -> str:
        return describe(ATTACKS, self.attack)[0]

    @property
    def root(self) -> int:
        """The seed that everything random in this theft derives from."""
        return derive(self.seed, self.name, self.pool.name, self.labels, self.answers)

    def fresh(self, victim: Release) -> nn.Module:
        """The clone before it has learned anything, on the victim's device."""
        return fresh_clone(victim, self.clone, self.pool.x, seed=derive(self.root, "net"))

    def architecture(self, victim: Release) -> str:
        """What a row calls the clone's architecture."""
        if isinstance(self.clone, nn.Module):
            return f"given:{type(self.clone).__name__}"
        return self.clone or str(victim.recipe["net"])


def fresh_clone(victim: Release, clone: str | nn.Module | None, like: Tensor, *, seed: int) -> nn.Module:
    """A thief's net that has learned nothing: of the name, of the module's architecture, or of the victim's."""
    if isinstance(clone, str):
        net = build(clone, like[:1000], victim.recipe["classes"], seed=seed)
    else:
        net = reinitialized(victim.defense.plain(victim.model) if clone is None else clone, seed=seed)
    return net.to(next(victim.model.parameters()).device)


def thefts(
    victim: Release, task: Task, block: Block, seeds: Sequence[int], clone: str | nn.Module | None, *, resize: bool
) -> Iterator[Theft]:
    """Every theft of a block.

    Raises:
        Invalid: a parameter breaks its rule.
    """
    for mode in block.labels:
        require(mode in LABELS, "labels", f"of {', '.join(LABELS)}", f"`{mode}`")
    for name in (name for answers in block.answers for name in answers.split("+") if answers):
        pick(TREATMENTS, name, "answers")
    for n in block.own:
        require(0 <= n <= len(task.train.x), "own", f"in 0 .. {len(task.train.x)}, the task's training inputs", n)
    size = max((attack.budget for attack in block.attacks), default=0)
    for seed in seeds:
        pools = [pool for given in block.pools for pool in _pools(victim, task, given, size, seed, resize)]
        for attack, pool, mode, answers, own in product(block.attacks, pools, block.labels, block.answers, block.own):
            rule = f"at most the pool's size, {len(pool.x)} for `{pool.name}`"
            require(attack.needed <= len(pool.x), "budget", rule, attack.needed)
            yield Theft(attack, pool, mode, answers, max(own, owned_by(pool.name)), own > 0, seed, clone)


def _pools(victim: Release, task: Task, given: Any, size: int, seed: int, resize: bool) -> Iterator[Pool]:
    if given == NOTHING:
        yield Pool(NOTHING, torch.zeros(1, *victim.shape))
    elif isinstance(given, str) and given.startswith(OWN):
        n = owned_by(given)
        require(1 <= n <= len(task.train.x), "pools", f"own:N with N in 1 .. {len(task.train.x)}", f"`{given}`")
        yield Pool(given, near(owned(task.train, n, seed=seed).x, size, seed=seed))
    else:
        families = {family["name"] for family in victim.recipe["outliers"]}
        for name, x in named(given, victim.shape, "pools", resize=resize).items():
            yield Pool(name, divide(x, name)[1], in_family=True) if name in families else Pool(name, x)


def owned_by(pool: str) -> int:
    """How many task samples whoever queries with `pool` owns."""
    number = pool.removeprefix(OWN)
    return int(number) if pool.startswith(OWN) and number.isdecimal() else 0
