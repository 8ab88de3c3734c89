"""Suites: whatever they name exists, and what they ask for can be had."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import stealguard as sg
from own_methods import Halves
from samples import mlp, noise, task
from stealguard.attacks import ATTACKS, Knockoff
from stealguard.attacks.treatments import TREATMENTS
from stealguard.auditing.plan import architecture, thefts
from stealguard.auditing.suites import ACCOUNTS, GENERIC, SUITES, Block, adaptive_blocks, suite
from stealguard.auditing.victim import Given
from stealguard.data import SETS
from stealguard.data import task as task_of
from stealguard.data.roles import unseen
from stealguard.defenses import DEFENSES, RobustInI
from stealguard.errors import Invalid
from stealguard.nets import build
from stealguard.settings import create, describe


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name == "full" else name for name in SUITES]
)
def test_every_block_can_be_carried_out(name: str, tmp_path: Path) -> None:
    """On a task and a pool that are large enough, every theft of the suite can be planned."""
    data = task(1000, (16,), 3)
    release = sg.protect(mlp(), data, defense="none", epochs=1, out=tmp_path / "a", progress=False)
    clones = architecture(release, None, 3, torch.device("cpu"), release.shape)
    for block in suite(name, [noise(60_000, (16,))]):
        planned = list(thefts(release, task_of(data), block, [0], clones, resize=False))
        combined = (block.attacks, block.pools, block.labels, block.treatments, block.own, block.accounts)
        assert len(planned) == math.prod(map(len, combined)) > 0
        for theft in planned:
            assert create(ATTACKS, *describe(ATTACKS, theft.attack), "attack") == theft.attack
            assert set(theft.treatment.split("+")) - {""} <= set(TREATMENTS)


def test_the_standard_suite_has_every_attack() -> None:
    unknown = Halves()  # a defense that declares nothing, and may read accounts
    blocks = suite("standard", ["letters"], unknown)
    assert {describe(ATTACKS, attack)[0] for block in blocks for attack in block.attacks} == set(ATTACKS)


def tried(blocks: Iterable[Block]) -> set[str]:
    """The attacks, treatments, and label modes without a treatment, of the blocks."""
    return {
        f"{describe(ATTACKS, attack)[0]} {mode} {treatment}".strip()
        for block in blocks
        for attack in block.attacks
        for mode in block.labels
        for treatment in block.treatments
    }


class TestAdaptiveAttacks:
    @pytest.mark.parametrize("name", [name for name in DEFENSES if name != "none"])
    def test_every_defense_names_known_ways_to_counter_it(self, name: str) -> None:
        known = DEFENSES[name].countered_by
        assert known
        assert len(set(known)) == len(known)
        ways = {*ATTACKS, *(f"treatment:{treatment}" for treatment in TREATMENTS), "labels", "accounts"}
        assert set(known) <= ways
        assert tried(adaptive_blocks(known, ["letters"]))

    @pytest.mark.parametrize("name", DEFENSES)
    def test_a_guard_that_remembers_accounts_is_countered_by_many(self, name: str) -> None:
        guard = DEFENSES[name]().build(build("lenet5", noise(2), 10, seed=0), noise(2)).guard
        assert ("accounts" in DEFENSES[name].countered_by) == (guard.scope == "account")

    def test_no_defense_has_nothing_to_know(self) -> None:
        assert DEFENSES["none"].countered_by == ()
        assert adaptive_blocks((), ["letters"]) == []

    def test_each_name_stands_for_attacks_in_the_modes_that_have_a_meaning(self) -> None:
        assert tried(adaptive_blocks(["labels"], [])) == {"knockoff hard"}
        assert tried(adaptive_blocks(["treatment:smooth"], [])) == {"knockoff soft smooth", "knockoff hard smooth"}
        assert tried(adaptive_blocks(["treatment:p-bayes"], [])) == {"knockoff soft p-bayes"}
        assert tried(adaptive_blocks(["filter", "explore"], [])) == {"filter soft", "explore soft", "explore hard"}
        selectors = [attack.selector for block in adaptive_blocks(["explore"], []) for attack in block.attacks]  # type: ignore[attr-defined]
        assert selectors == ["minimum", "residual", "consistency"]
        with pytest.raises(Invalid, match=r"`countered_by` should be one of .* \(did you mean `sieve`\?\)"):
            adaptive_blocks(["seive"], [])

    def test_accounts_go_with_every_other_way(self) -> None:
        (alone,) = adaptive_blocks(["accounts"], [], 500, (1, 10))
        assert (alone.accounts, alone.attacks) == ((1, 10), [Knockoff(budget=500)])
        assert all(block.accounts == (1, 10) for block in adaptive_blocks(["filter", "accounts"], [], accounts=(1, 10)))
        assert all(block.accounts == (1,) for block in adaptive_blocks(["filter"], [], accounts=(1, 10)))

    def test_an_attack_that_opens_accounts_is_made_with_several_alone(self) -> None:
        known = ["knockoff", "refusals", "accounts"]
        tried = {describe(ATTACKS, block.attacks[0])[0]: block for block in adaptive_blocks(known, [], 500, (1, 10))}
        assert {name: tuple(block.accounts) for name, block in tried.items()} == {
            "knockoff": (1, 10),
            "refusals": (10,),
        }
        assert tried["refusals"].labels == ["hard"]
        assert [describe(ATTACKS, block.attacks[0])[0] for block in adaptive_blocks(known, [], 500, (1,))] == [
            "knockoff"
        ]

    def test_a_release_is_attacked_by_what_counters_its_own_defense(self, tmp_path: Path) -> None:
        data, pools = task(300, (16,), 3), ["pool"]

        def of(defense: sg.defenses.Defense, name: str = "adaptive") -> list[Block]:
            out = tmp_path / type(defense).__name__
            outliers = noise(300, (16,)) if defense.needs_outliers else None
            release = sg.protect(
                mlp(), data, defense=defense, outliers=outliers, epochs=1, out=out, progress=False, overwrite=True
            )
            return suite(name, pools, release)

        plain = {"knockoff soft", "knockoff hard"}
        assert tried(of(sg.defenses.ReverseSigmoid())) == plain | {"knockoff soft p-bayes", "knockoff soft d-dae"}
        assert tried(of(sg.defenses.Defense())) == plain
        assert "filter soft" not in tried(of(sg.defenses.ReverseSigmoid(), "standard"))
        assert "filter soft" in tried(of(Halves())), "a defense of a user's own that declares nothing"
        assert {tuple(block.accounts) for block in of(sg.defenses.PRADA())} == {(1,), ACCOUNTS}
        pools = [noise(20, (16,))]
        assert "refusals hard" in tried(of(RobustInI()))

    def test_a_defense_that_declares_nothing_may_read_accounts(self) -> None:
        blocks = suite("adaptive", ["pool"], Halves())
        assert {tuple(block.accounts) for block in blocks} == {(1,), ACCOUNTS, ACCOUNTS[1:]}
        assert {tuple(block.accounts) for block in suite("adaptive", ["pool"], sg.defenses.TopK())} == {(1,)}

    def test_given_numbers_of_accounts_replace_the_usual_ones(self) -> None:
        for name in ("adaptive", "standard", "full"):
            blocks = suite(name, ["pool"], Halves(), [1, 50])
            assert {tuple(block.accounts) for block in blocks} == {(1,), (1, 50), (50,)}
        for name, defense in ("quick", Halves()), ("adaptive", sg.defenses.TopK()):
            with pytest.raises(Invalid, match=f"`accounts` should be left out: the suite `{name}` uses one account"):
                suite(name, ["pool"], defense, [1, 50])
            assert suite(name, ["pool"], defense, [1])

    def test_another_victim_is_attacked_in_every_way(self) -> None:
        given = Given(lambda x: x, shape=(3,), classes=3)
        for blocks in (suite("adaptive", ["pool"], given), suite("adaptive", ["pool"])):
            attacks = {word.split()[0] for word in tried(blocks)}
            assert attacks == {"knockoff", "filter", "unmask", "explore", "own-form", "sieve", "cover"}
            assert {tuple(block.accounts) for block in blocks} == {(1,)}
        assert set(GENERIC) <= {*ATTACKS, "labels", "treatment:smooth"}

    @pytest.mark.parametrize("name", SUITES)
    def test_no_block_repeats_what_an_earlier_one_has(self, name: str) -> None:
        blocks = suite(name, ["pool"])
        assert not [a for n, a in enumerate(blocks) for b in blocks[:n] if a.within(b)]


def test_the_unseen_family_follows_from_the_shape() -> None:
    for shape in ((1, 28, 28), (3, 32, 32)):
        assert all(SETS[name].shape == shape for name in unseen(shape))
    assert all(SETS[name].fits((30,)) for name in unseen((30,)))
    with pytest.raises(Invalid, match="did you mean `quick`"):
        suite("quik", [])
