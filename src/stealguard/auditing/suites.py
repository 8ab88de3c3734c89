"""Suites: which attacks an audit makes, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stealguard.attacks import (
    DFME,
    DFMSHL,
    JBDA,
    JBDATR,
    MARICH,
    MAZE,
    ActiveThief,
    AdaptiveKnockoff,
    BlackboxDissector,
    CopycatCNN,
    DisGUIDE,
    Explore,
    Filter,
    Knockoff,
    OwnForm,
    Sieve,
    Unmask,
)
from stealguard.attacks.active import STRATEGIES
from stealguard.attacks.base import Attack
from stealguard.attacks.treatments import TREATMENTS
from stealguard.errors import pick
from stealguard.results import LABELS

NOTHING = "nothing"  # the pool of attacks that make their own queries


@dataclass(frozen=True)
class Block:
    """Every combination of attacks, query pools, label modes, treatments of answers and numbers of owned samples."""

    attacks: Sequence[Attack]
    pools: Sequence[Any]
    labels: Sequence[str] = LABELS
    treatments: Sequence[str] = ("",)
    own: Sequence[int] = (0,)


def suite(name: str, pools: Sequence[Any]) -> list[Block]:
    """The blocks of the suite of this name, its unseen queries drawn from `pools`."""
    made: Callable[[Sequence[Any]], list[Block]] = pick(SUITES, name, "suite")
    return made(pools)


def quick(pools: Sequence[Any]) -> list[Block]:
    """The first things an attacker would try, in a minute or so for LeNet-5 on MNIST."""
    knockoff = Knockoff(budget=10_000)
    return [
        Block([knockoff], pools),
        Block([knockoff], pools, ["soft"], ["z-score"]),
        Block([JBDA(budget=1_200, step=-0.1)], ["own:150"], ["soft"]),
    ]


def standard(pools: Sequence[Any]) -> list[Block]:
    """Every kind of attack, each with a budget that takes minutes for LeNet-5 on MNIST."""
    knockoff = Knockoff()
    return [
        Block([Knockoff(budget=1_000), Knockoff(budget=5_000), knockoff], pools),
        Block([knockoff], pools, ["soft"], ["sharpen", "z-score", "confident", "smooth", "d-dae"]),
        Block([knockoff], pools, ["hard"], ["debias"]),
        Block([CopycatCNN()], pools, ["hard"]),
        Block([Sieve(), Explore(), OwnForm()], pools),
        Block([Filter(), Unmask()], pools, ["soft"]),
        Block([AdaptiveKnockoff(), ActiveThief(rounds=3)], pools),
        Block([MARICH(budget=5_000, rounds=3, candidates=10_000), BlackboxDissector(budget=5_000)], pools, ["hard"]),
        Block([knockoff], pools, ["soft"], own=[200]),
        Block([knockoff], ["own:200"]),
        Block([JBDA(), JBDA(step=-0.1), JBDATR(targets=1)], ["own:150"]),
        Block([DisGUIDE()], [NOTHING]),
        Block([DFMSHL(budget=20_000)], [NOTHING], ["hard"]),
        Block([DFME(budget=200_000), MAZE(budget=100_000)], [NOTHING], ["soft"]),
    ]


def full(pools: Sequence[Any]) -> list[Block]:
    """Every attack with its paper's budget and every treatment of the answers: hours, on a GPU."""
    knockoff = Knockoff.authors()
    active = [ActiveThief(budget=20_000, strategy=strategy, candidates=0) for strategy in STRATEGIES]  # type: ignore[arg-type]
    return [
        Block([Knockoff(budget=budget) for budget in (100, 1_000, 5_000, 20_000)], pools),
        Block([knockoff], pools, treatments=["", *TREATMENTS]),
        Block([knockoff], pools, own=[50, 200, 1_000]),
        Block([knockoff], ["own:50", "own:200", "own:1000"]),
        Block([CopycatCNN(budget=50_000)], pools, ["hard"]),
        Block([Sieve(budget=50_000), Explore(budget=50_000), OwnForm(budget=50_000)], pools),
        Block([Filter(budget=50_000), Unmask(budget=50_000)], pools, ["soft"]),
        Block([AdaptiveKnockoff(budget=50_000), *active, MARICH()], pools),
        Block([BlackboxDissector.paper()], pools, ["hard"]),
        Block([JBDA(), JBDA(step=-0.1), JBDATR(), JBDATR(targets=1)], ["own:150"]),
        Block([JBDATR.modelguard()], ["own:1000"]),
        Block([DFME.paper(), MAZE.paper(), DisGUIDE.paper(), DFMSHL.paper()], [NOTHING]),
        Block([DFMSHL(proxy=True)], pools),
    ]


SUITES: dict[str, Callable[[Sequence[Any]], list[Block]]] = {"quick": quick, "standard": standard, "full": full}
