"""Attackers with many accounts: rows of their own, and how many accounts an accuracy takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from samples import mlp, task
from stealguard.attacks import Knockoff, Refusals
from stealguard.auditing import accounts_to_reach
from stealguard.auditing.accounts import reached, search
from stealguard.defenses.base import Defense, Plain
from stealguard.errors import Invalid, NotApplicable, StealguardError
from stealguard.results import LABELS, Row
from stealguard.types import Guard, Scope, State

ATTACK = Knockoff(budget=120, training=sg.Training(epochs=30, batch=16, lr=0.1))
DATA = task(400, (16,), 3)
QUERIES = task(800, (16,), 3)[0][400:]


class Few(Plain):
    """The toy guard: an account gets so many answers that are right, and then uniform ones, or none."""

    scope: ClassVar[Scope] = "account"

    def __init__(self, most: int, refuses: bool):
        self.most, self.refuses = most, refuses

    def start(self) -> State:
        return {"asked": torch.tensor(0)}

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        answers = self.answer(outputs, x)
        left = max(0, self.most - int(state["asked"]))
        if self.refuses and len(x) > left:
            return answers[:left], state
        answers[left:] = 1 / answers.shape[1]
        return answers, {"asked": state["asked"] + len(x)}


@dataclass(frozen=True)
class Trusting(Defense):
    """A defense of a user's own with that guard."""

    most: int = 6
    refuses: bool = False

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        return Few(self.most, self.refuses)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> sg.Release:
    """A net whose accounts get six right answers each."""
    return protected(Trusting(), tmp_path_factory.mktemp("few") / "a")


@pytest.fixture(scope="module")
def row(victim: sg.Release, tmp_path_factory: pytest.TempPathFactory) -> Row:
    return audit(victim, tmp_path_factory.mktemp("row") / "rows.sqlite")[0]


def protected(defense: Defense, out: Path) -> sg.Release:
    return sg.protect(mlp(), DATA, defense=defense, epochs=15, out=out, progress=False,
                      training=sg.Training(batch=32, lr=0.05))  # fmt: skip


def audit(victim: Any, store: Path, **changes: Any) -> list[Row]:
    given: dict[str, Any] = {"attacks": [ATTACK], "pools": QUERIES, "labels": "soft", "data": DATA, "progress": False}
    return sg.audit(victim, **(given | changes), store=store)


@pytest.mark.slow
def test_rows_tell_the_number_of_accounts_and_more_of_them_steal_more(victim: sg.Release, tmp_path: Path) -> None:
    one, ten, all_apart = audit(victim, tmp_path / "rows.sqlite", accounts=(1, 10, 120))
    assert [row.accounts for row in (one, ten, all_apart)] == [1, 10, 120]
    assert len({row.key for row in (one, ten, all_apart)}) == 3
    assert {row.queries for row in (one, ten, all_apart)} == {120}
    assert (all_apart.clone_accuracy or 0) > 0.9, "no account asks more than it is answered"
    assert (one.clone_accuracy or 1) < (all_apart.clone_accuracy or 0)
    assert audit(victim, tmp_path / "rows.sqlite", accounts=10) == [ten], "a row is kept"


@pytest.mark.slow
def test_a_refused_account_gets_no_more_answers_and_the_attacker_moves_on(tmp_path: Path) -> None:
    release = protected(Trusting(refuses=True), tmp_path / "b")
    rows = audit(release, tmp_path / "rows.sqlite", accounts=[1, 5, 20, 40])
    assert [row.status for row in rows] == ["ok"] * 4
    assert [row.queries for row in rows] == [6, 30, 120, 120]


@pytest.mark.slow
def test_accounts_of_a_victim_that_does_not_tell_them_apart_are_skipped(tmp_path: Path) -> None:
    asked = []

    def answer(x: Tensor) -> Tensor:
        asked.append(len(x))
        return torch.full((len(x), 3), 1 / 3)

    release = protected(Defense(), tmp_path / "c")
    for victim in (release, answer):
        one, ten = audit(victim, tmp_path / "rows.sqlite", accounts=[1, 10])
        assert (one.status, ten.status, ten.accounts, ten.queries) == ("ok", "skip", 10, 0)
        assert ten.reason == "This victim's answers do not depend on the account."


@pytest.mark.parametrize("accounts", [0, [1, -1]])
def test_a_number_of_accounts_is_positive(victim: sg.Release, tmp_path: Path, accounts: Any) -> None:
    with pytest.raises(Invalid, match="`accounts` should be at least 1"):
        audit(victim, tmp_path / "rows.sqlite", accounts=accounts)


@pytest.mark.slow
def test_an_attack_that_opens_accounts_gets_them_and_its_row_counts_what_was_answered(
    victim: sg.Release, tmp_path: Path
) -> None:
    short = sg.Training(epochs=1)
    attack = Refusals(budget=200, repeats=3, gate=short, training=short)
    refusing = protected(Trusting(refuses=True, most=30), tmp_path / "b")
    for labels in LABELS:
        one, ten = audit(refusing, tmp_path / "rows.sqlite", attacks=[attack], labels=labels, accounts=[1, 10])
        assert (one.status, one.queries) == ("skip", 0)
        assert "needs several" in one.reason
        assert (ten.status, ten.attack, ten.accounts) == ("ok", "refusals", 10)
        assert 25 < ten.queries <= 200, "covers, and what they pay for"
    (never,) = audit(victim, tmp_path / "rows.sqlite", attacks=[attack], accounts=10)
    assert (never.status, never.queries) == ("skip", 48), (
        "sixteen candidates, three times each: a quarter of the budget"
    )
    assert "no request was refused" in never.reason
    (treated,) = audit(refusing, tmp_path / "rows.sqlite", attacks=[attack], treatments="debias", accounts=10)
    assert (treated.status, treated.queries) == ("skip", 0)


class TestSearch:
    def steal(self, enough: int, tried: list[int], like: Row, budget: int = 20_000) -> Callable[[int], list[Row]]:
        """Thefts that reach 90 % from so many accounts on, and 20 % before."""

        def steal(accounts: int) -> list[Row]:
            tried.append(accounts)
            metrics = {**like.metrics, "clone_accuracy": 0.9 if accounts >= enough else 0.2, "renamed_accuracy_20": 0.1}
            return [replace(like, accounts=accounts, budget=budget, metrics=metrics)]

        return steal

    @pytest.mark.parametrize(
        ("enough", "expected"),
        [
            (1, [1]),
            (2, [1, 2]),
            (3, [1, 2, 4, 3]),
            (37, [1, 2, 4, 8, 16, 32, 64, 48, 40, 36, 38]),
            (30_000, [2**n for n in range(15)] + [20_000]),
        ],
    )
    def test_the_number_is_doubled_and_then_bisected(self, row: Row, enough: int, expected: list[int]) -> None:
        tried: list[int] = []
        for _ in search(self.steal(enough, tried, row), 0.8):
            pass
        assert tried == expected

    def test_a_search_without_a_finished_theft_says_why(self, row: Row) -> None:
        broken = replace(row, status="failed", reason="silence")
        with pytest.raises(StealguardError, match="No attack could be finished: silence"):
            list(search(lambda accounts: [broken], 0.8))

    @pytest.mark.parametrize(("few", "numbers"), [(1, [2, 4, 3]), (2, [4, 3])])
    def test_an_attack_without_a_meaning_for_few_accounts_is_tried_with_more(
        self, row: Row, few: int, numbers: list[int]
    ) -> None:
        tried: list[int] = []
        skipped, steal = replace(row, status="skip", reason="one account"), self.steal(3, tried, row)
        for _ in search(lambda accounts: [skipped] if accounts <= few else steal(accounts), 0.8):
            pass
        assert tried == numbers
        with pytest.raises(StealguardError, match="No attack could be finished: one account"):
            list(search(lambda accounts: [skipped], 0.8))

    def test_what_renaming_gives_counts(self, row: Row) -> None:
        metrics = {**row.metrics, "clone_accuracy": 0.1, "renamed_accuracy_20": 0.7, "no_theft_20": 0.2}
        assert reached(replace(row, metrics=metrics)) == 0.7

    @pytest.mark.slow
    def test_the_accounts_that_an_attacker_of_a_guard_needs(self, victim: sg.Release, tmp_path: Path) -> None:
        shown: list[Row] = []
        given: dict[str, Any] = {"data": DATA, "store": tmp_path / "rows.sqlite", "progress": False}
        found = accounts_to_reach(victim, 0.9, [ATTACK], QUERIES, "soft", show=shown.append, **given)
        assert found is not None
        assert 1 < found <= 120
        by_number = {row.accounts: reached(row) for row in shown}
        assert [row.accounts for row in shown[:2]] == [1, 2]
        assert by_number[found] >= 0.9
        assert all(accuracy < 0.9 for number, accuracy in by_number.items() if number < found)
        assert accounts_to_reach(victim, 1.0, [Knockoff(1)], QUERIES, "hard", show=shown.append, **given) is None

    def test_rules(self, victim: sg.Release, tmp_path: Path) -> None:
        with pytest.raises(Invalid, match=r"`accuracy` should be in \(0, 1\]. Found 80"):
            accounts_to_reach(victim, 80, [ATTACK], QUERIES, data=DATA)
        with pytest.raises(Invalid, match=r"a suite brings its own numbers of accounts. Found `standard`"):
            accounts_to_reach(victim, 0.8, "standard", QUERIES, data=DATA)
        with pytest.raises(NotApplicable, match="do not depend on the account: one is enough"):
            accounts_to_reach(protected(Defense(), tmp_path / "d"), 0.8, [ATTACK], QUERIES, data=DATA)


def test_a_line_for_each_row(victim: sg.Release, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stealguard.auditing.accounts import tell

    (row,) = audit(victim, tmp_path / "rows.sqlite", accounts=20)
    tell(row)
    tell(replace(row, status="failed", reason="silence"))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("accounts 20, knockoff tensors-")
    assert first.endswith(f"soft, seed 0, 120 answers: {100 * reached(row):.1f} %")
    assert second.endswith("failed: silence")
