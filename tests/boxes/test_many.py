"""Many accounts as one box: shares of the budget, requests that are split, and accounts that refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from stealguard.boxes import Accounts, AccountsInTurn, AnswerLedger, ManyAccounts, Metered, ask
from stealguard.defenses.base import Plain
from stealguard.errors import BudgetExhausted, Invalid, Refused
from stealguard.types import Opening, Scope, State


class Asked(Plain):
    """A toy guard: its answer is (1 / n, 1 - 1 / n), n the number of the query in its account; it answers `most`."""

    scope: ClassVar[Scope] = "account"

    def __init__(self, most: int = 1000):
        self.most = most

    def start(self) -> State:
        return {"asked": torch.tensor(0)}

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        left = int(self.most - state["asked"])
        if len(x) > left:
            return torch.full((left, 2), 0.5), state
        numbers = state["asked"] + torch.arange(1, len(x) + 1)
        return torch.stack([1 / numbers, 1 - 1 / numbers], dim=1), {"asked": numbers[-1]}


def accounts(most: int = 1000) -> Accounts:
    return Accounts({"logits": nn.Linear(1, 2)}, Asked(most), (1,))


def many(known: Accounts, n: int, budget: int) -> ManyAccounts:
    return ManyAccounts(lambda number: known.connect(f"attacker {number}"), n, budget)


def asked(known: Accounts, n: int) -> list[int]:
    """How many queries each of the attacker's accounts has made."""
    return [int(known.state(f"attacker {number}")["asked"]) for number in range(1, n + 1)]


def numbers(answers: Tensor) -> list[int]:
    """Which query of its account each row answers."""
    return [round(1 / first) for first in answers[:, 0].tolist()]


def test_the_budget_is_divided_and_a_large_request_is_split() -> None:
    known = accounts()
    assert numbers(many(known, 4, 10)(torch.rand(10, 1))) == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]
    assert asked(known, 4) == [3, 3, 3, 1]


def test_small_requests_use_up_one_account_before_the_next() -> None:
    known = accounts()
    box = many(known, 2, 6)
    assert [numbers(box(torch.rand(2, 1))) for _ in range(3)] == [[1, 2], [3, 1], [2, 3]]
    assert asked(known, 3) == [3, 3, 0], "a third account is never asked"


def test_more_accounts_than_queries_have_one_query_each() -> None:
    known = accounts()
    assert numbers(many(known, 100, 3)(torch.rand(3, 1))) == [1, 1, 1]


def test_one_account_is_asked_as_if_it_were_alone() -> None:
    known, x = accounts(), torch.rand(7, 1)
    assert torch.equal(many(known, 1, 7)(x), accounts().connect("a")(x))


def test_the_attacker_moves_on_when_an_account_refuses() -> None:
    known = accounts(most=2)
    box = many(known, 3, 12)  # a share of four, of which each account answers two
    assert numbers(box(torch.rand(5, 1))) == [1, 2, 1, 2, 1]
    assert asked(known, 3) == [2, 2, 1]


def test_the_last_refusal_says_how_many_rows_were_answered_and_keeps_these() -> None:
    known, x = accounts(most=2), torch.rand(9, 1)
    box = many(known, 3, 12)
    with pytest.raises(Refused, match="no account answers further inputs") as caught:
        box(x)
    assert caught.value.left == 6
    assert numbers(box(x[:6])) == [1, 2, 1, 2, 1, 2]
    assert asked(known, 3) == [2, 2, 2], "the repetition asked nobody"
    with pytest.raises(Refused) as caught:
        box(torch.rand(1, 1))
    assert caught.value.left == 0


def test_other_inputs_do_not_get_the_answers_that_are_kept() -> None:
    box = many(accounts(most=2), 1, 4)
    with pytest.raises(Refused):
        box(torch.zeros(3, 1))
    with pytest.raises(Refused) as caught:
        box(torch.ones(1, 1))
    assert caught.value.left == 0


def test_a_meter_counts_what_all_accounts_answered() -> None:
    known, x = accounts(most=3), torch.rand(2000, 1)
    metered = Metered(many(known, 500, 2000), 2000)
    found = [len(answers) for _, answers in ask(metered, x)]
    assert sum(found) == metered.spent == 1500
    assert metered.left == 0
    assert Counter(asked(known, 500)) == {3: 500}
    with pytest.raises(Refused):
        metered(x[:1])
    fresh = Metered(many(accounts(), 2, 4), 4)
    fresh(x[:4])
    with pytest.raises(BudgetExhausted):
        fresh(x[:1])


def test_a_ledger_repeats_what_accounts_answered_before_the_last_refusal(tmp_path: Path) -> None:
    known, x = accounts(most=2), torch.rand(9, 1)
    first = AnswerLedger(many(known, 2, 8), tmp_path / "answers")
    answers = torch.cat([part for _, part in ask(first, x)])
    first.close()
    again = AnswerLedger(many(accounts(most=0), 1, 8), tmp_path / "answers")
    assert torch.equal(again(x[:4]), answers)
    again.close()


@pytest.mark.parametrize(("changes", "name"), [({"n": 0}, "accounts"), ({"budget": 0}, "budget")])
def test_numbers_out_of_range_are_named(changes: dict[str, int], name: str) -> None:
    with pytest.raises(Invalid, match=f"`{name}` should be at least 1. Found 0"):
        many(accounts(), **{"n": 1, "budget": 1, **changes})


class TestAccountsInTurn:
    def box(self, known: Accounts, n: int = 3, budget: int = 10) -> AccountsInTurn:
        return AccountsInTurn(lambda number: known.connect(f"attacker {number}"), n, budget, "toy")

    def test_each_account_is_opened_when_the_attacker_likes(self) -> None:
        known = accounts()
        box = self.box(known)
        assert isinstance(box, Opening)
        assert (box.opened, box.accounts_left, box.left) == (0, 3, 10)
        assert numbers(box(torch.rand(2, 1))) == [1, 2]
        assert (box.opened, box.accounts_left, box.left) == (1, 2, 8)
        box.open()
        assert numbers(box(torch.rand(3, 1))) == [1, 2, 3]
        assert (box.opened, box.accounts_left, box.left, box.spent) == (2, 1, 5, 5)
        assert asked(known, 3) == [2, 3, 0]

    def test_to_open_the_first_account_takes_none_from_the_others(self) -> None:
        known = accounts()
        box = self.box(known)
        box.open()
        box(torch.rand(1, 1))
        assert (box.opened, asked(known, 2)) == (1, [1, 0])

    def test_a_refusal_is_of_one_account_and_counts_nothing(self) -> None:
        box = self.box(accounts(most=4))
        with pytest.raises(Refused) as caught:
            box(torch.rand(6, 1))
        assert caught.value.left == box.left == 4
        assert box.refusal
        assert box.spent == 0
        assert numbers(box(torch.rand(4, 1))) == [1, 2, 3, 4]
        assert box.left == 0
        box.open()
        assert (box.left, box.refusal, box.spent) == (6, "", 4)

    def test_the_budget_holds_over_all_accounts(self) -> None:
        box = self.box(accounts(), 5, 7)
        box(torch.rand(5, 1))
        box.open()
        with pytest.raises(BudgetExhausted, match="3 queries asked with 2 of 2 left"):
            box(torch.rand(3, 1))
        box(torch.rand(2, 1))
        assert (box.spent, box.left, box.accounts_left) == (7, 0, 0)
        with pytest.raises(BudgetExhausted, match="No further account of `toy` can be opened"):
            box.open()

    def test_no_more_accounts_are_opened_than_there_are(self) -> None:
        box = self.box(accounts(), 2)
        box.open()
        box.open()
        with pytest.raises(BudgetExhausted, match="No further account"):
            box.open()
        assert box.opened == 2

    def test_an_account_that_has_spent_the_budget_of_its_victim_refuses(self) -> None:
        box = AccountsInTurn(lambda _: Metered(accounts().connect("a"), 3), 2, 10)
        with pytest.raises(Refused, match="4 queries asked with 3 of 3 left") as caught:
            box(torch.rand(4, 1))
        assert (caught.value.left, box.left, box.spent) == (3, 3, 0)
        box.open()
        assert len(box(torch.rand(3, 1))) == 3

    def test_what_is_answered_before_a_later_call_is_refused_is_counted(self) -> None:
        known = accounts(most=5)
        box = AccountsInTurn(lambda number: known.connect(f"attacker {number}"), 2, 10, "toy", rows=2)
        with pytest.raises(Refused) as caught:
            box(torch.rand(7, 1))
        assert (box.spent, caught.value.left, box.left) == (4, 1, 1)
        assert asked(known, 1) == [4]
        box.open()
        assert numbers(box(torch.rand(5, 1))) == [1, 2, 3, 4, 5]
        with pytest.raises(BudgetExhausted, match="2 queries asked with 1 of 6 left"):
            box(torch.rand(2, 1))
        assert asked(known, 2) == [4, 5], "nothing is asked where less is left"

    @pytest.mark.parametrize(("changes", "name"), [({"n": 0}, "accounts"), ({"budget": 0}, "budget")])
    def test_numbers_out_of_range_are_named(self, changes: dict[str, int], name: str) -> None:
        with pytest.raises(Invalid, match=f"`{name}` should be at least 1. Found 0"):
            self.box(accounts(), **changes)
