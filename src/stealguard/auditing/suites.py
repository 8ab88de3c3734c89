"""Suites: which attacks an audit makes, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from stealguard.attacks import (
    ATTACKS,
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
)
from stealguard.attacks.active import STRATEGIES
from stealguard.attacks.base import Attack, OpeningAttack
from stealguard.attacks.treatments import TREATMENTS
from stealguard.auditing.remote import Remote
from stealguard.auditing.victim import Victim, by_account
from stealguard.defenses.base import Defense
from stealguard.errors import pick, require
from stealguard.releases import Release
from stealguard.results import LABELS

NOTHING = "nothing"  # the pool of attacks that make their own queries
TREATMENT = "treatment:"
GENERIC = ("filter", "unmask", "explore", "own-form", "sieve", "cover", "refusals", "labels", "treatment:smooth")
"""What an attacker does who suspects a defense and does not know which."""
SOFT_ONLY = ("filter", "unmask", "cover", "treatment:d-dae", "treatment:p-bayes")  # what needs probabilities
HARD_ONLY = ("labels", "refusals")  # what reads classes alone
ACCOUNTS = (1, 10, 100, 1_000)


@dataclass(frozen=True)
class Block:
    """Every combination of attacks, pools, label modes, treatments, numbers of owned samples and of accounts."""

    attacks: Sequence[Attack]
    pools: Sequence[Any]
    labels: Sequence[str] = LABELS
    treatments: Sequence[str] = ("",)
    own: Sequence[int] = (0,)
    accounts: Sequence[int] = (1,)

    def within(self, other: Block) -> bool:
        """Whether the other block has every combination of this one, with the very same pools."""
        parts = ("attacks", "labels", "treatments", "own", "accounts")
        return self.pools is other.pools and all(
            part in getattr(other, name) for name in parts for part in getattr(self, name)
        )


Adaptive = Callable[[int], list[Block]]
"""From a budget to the blocks of an attacker who knows the defense."""


def suite(
    name: str, pools: Sequence[Any], victim: Victim | Defense | None = None, accounts: Sequence[int] | None = None
) -> list[Block]:
    """The blocks of the suite of this name, its unseen queries drawn from `pools`.

    Adaptive attackers do what counters the defense, or that of a release; where that is not declared, all of
    `GENERIC`. Where answers may depend on the account they use many, as many as `accounts` says if it is given; of a
    defense that declares nothing they may.

    Raises:
        Invalid: there is no suite of this name, or it does not try one of the `accounts` on this victim.
    """
    made = pick(SUITES, name, "suite")
    blocks: list[Block] = []
    for block in made(pools, partial(adaptive_blocks, _known(victim), pools, accounts=accounts or _accounts(victim))):
        if not any(block.within(earlier) for earlier in blocks):
            blocks.append(block)
    tried = {number for block in blocks for number in block.accounts}
    rule = f"left out: the suite `{name}` uses one account of this victim"
    require(accounts is None or tried.issuperset(accounts), "accounts", rule, accounts)
    return blocks


def _known(victim: Victim | Defense | None) -> Sequence[str]:
    """What adaptive attackers do; nothing where nothing is defended."""
    defense = victim.defense if isinstance(victim, Release) else victim if isinstance(victim, Defense) else None
    ways = () if type(defense) is Defense else (defense and defense.countered_by) or GENERIC
    if isinstance(victim, Defense):  # whether its guard reads accounts is known of a release alone
        return (*ways, "accounts") if ways is GENERIC else ways
    return (*ways, "accounts") if victim is not None and by_account(victim) else ways


def _accounts(victim: Victim | Defense | None) -> Sequence[int]:
    """The numbers of accounts that are tried; of a remote victim no more than there are keys, and as many as these."""
    if not isinstance(victim, Remote):
        return ACCOUNTS
    return [*(n for n in ACCOUNTS if n < victim.accounts), victim.accounts]


def adaptive_blocks(
    known: Sequence[str], pools: Sequence[Any], budget: int = 20_000, accounts: Sequence[int] = ACCOUNTS
) -> list[Block]:
    """The blocks of an attacker who knows the defense.

    Args:
        known: what counters the defense, as in `Defense.countered_by`.
        pools: what is queried with.
        budget: of each attack.
        accounts: numbers of accounts to try where `accounts` is among `known`.

    Raises:
        Invalid: a name in `known` is unknown.
    """
    tried = accounts if "accounts" in known else (1,)
    names = [name for name in known if name != "accounts"] or ["knockoff"] * ("accounts" in known)
    blocks = [
        Block(attacks, pools, labels, [treatment], accounts=_meaningful(attacks, tried))
        for name in names
        for attacks, labels, treatment in _countering(name, budget)
    ]
    return [block for block in blocks if block.accounts]


def _meaningful(attacks: Sequence[Attack], accounts: Sequence[int]) -> Sequence[int]:
    """The numbers of accounts with which the attacks have a meaning: those that open accounts need several."""
    opening = any(isinstance(attack, OpeningAttack) for attack in attacks)
    return [n for n in accounts if n > 1] if opening else accounts


def _countering(name: str, budget: int) -> list[tuple[list[Attack], Sequence[str], str]]:
    """Attacks, label modes and a treatment for each block of that name."""
    labels = ["soft"] if name in SOFT_ONLY else ["hard"] if name in HARD_ONLY else LABELS
    if name == "labels":
        return [([Knockoff(budget=budget)], labels, "")]
    if name.startswith(TREATMENT):
        treatment = name.removeprefix(TREATMENT)
        pick(TREATMENTS, treatment, "countered_by")
        return [([Knockoff(budget=budget)], labels, treatment)]
    if name == "explore":
        statistical: list[Attack] = [Explore(budget=budget), Explore(budget=budget, selector="residual")]
        return [(statistical, ["soft"], ""), ([Explore(budget=budget, selector="consistency")], LABELS, "")]
    if name == "filter":
        return [([Filter(budget=budget), Filter(budget=budget, selector="residual")], labels, "")]
    return [([ATTACKS.find(name, "countered_by")(budget=budget)], labels, "")]  # type: ignore[call-arg]


def quick(pools: Sequence[Any], _: Adaptive) -> list[Block]:
    """The first things an attacker would try, in a minute or so for LeNet-5 on MNIST."""
    knockoff = Knockoff(budget=10_000)
    return [
        Block([knockoff], pools),
        Block([knockoff], pools, ["soft"], ["z-score"]),
        Block([JBDA(budget=1_200, step=-0.1)], ["own:150"], ["soft"]),
    ]


def adaptive(pools: Sequence[Any], knowing: Adaptive) -> list[Block]:
    """What an attacker tries who has read the code of the defense, beside the attacker who has not."""
    return [Block([Knockoff()], pools), *knowing(20_000)]


def standard(pools: Sequence[Any], knowing: Adaptive) -> list[Block]:
    """Every kind of attack, each with a budget that takes minutes for LeNet-5 on MNIST."""
    knockoff = Knockoff()
    return [
        Block([Knockoff(budget=1_000), Knockoff(budget=5_000), knockoff], pools),
        Block([knockoff], pools, ["soft"], ["sharpen", "z-score", "confident", "smooth", "d-dae"]),
        Block([knockoff], pools, ["hard"], ["debias"]),
        Block([CopycatCNN()], pools, ["hard"]),
        *knowing(20_000),
        Block([AdaptiveKnockoff(), ActiveThief(rounds=3)], pools),
        Block([MARICH(budget=5_000, rounds=3, candidates=10_000), BlackboxDissector(budget=5_000)], pools, ["hard"]),
        Block([knockoff], pools, ["soft"], own=[200]),
        Block([knockoff], ["own:200"]),
        Block([JBDA(), JBDA(step=-0.1), JBDATR(targets=1)], ["own:150"]),
        Block([DisGUIDE()], [NOTHING]),
        Block([DFMSHL(budget=20_000)], [NOTHING], ["hard"]),
        Block([DFME(budget=200_000), MAZE(budget=100_000)], [NOTHING], ["soft"]),
    ]


def full(pools: Sequence[Any], knowing: Adaptive) -> list[Block]:
    """Every attack with its paper's budget and every treatment of the answers: hours, on a GPU."""
    knockoff = Knockoff.authors()
    active = [ActiveThief(budget=20_000, strategy=strategy, candidates=0) for strategy in STRATEGIES]  # type: ignore[arg-type]
    return [
        Block([Knockoff(budget=budget) for budget in (100, 1_000, 5_000, 20_000)], pools),
        Block([knockoff], pools, treatments=["", *TREATMENTS]),
        Block([knockoff], pools, own=[50, 200, 1_000]),
        Block([knockoff], ["own:50", "own:200", "own:1000"]),
        Block([CopycatCNN(budget=50_000)], pools, ["hard"]),
        *knowing(50_000),
        Block([AdaptiveKnockoff(budget=50_000), *active, MARICH()], pools),
        Block([BlackboxDissector.paper()], pools, ["hard"]),
        Block([JBDA(), JBDA(step=-0.1), JBDATR(), JBDATR(targets=1)], ["own:150"]),
        Block([JBDATR.modelguard()], ["own:1000"]),
        Block([DFME.paper(), MAZE.paper(), DisGUIDE.paper(), DFMSHL.paper()], [NOTHING]),
        Block([DFMSHL(proxy=True)], pools),
    ]


SUITES: dict[str, Callable[[Sequence[Any], Adaptive], list[Block]]] = {
    "quick": quick,
    "adaptive": adaptive,
    "standard": standard,
    "full": full,
}
