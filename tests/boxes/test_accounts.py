"""Accounts: each is remembered by itself, in bounded memory, across restarts and threads; shared memory is shared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stealguard.boxes.accounts import Accounts, LocalStates, packed, unpacked
from stealguard.defenses.base import Plain
from stealguard.errors import Invalid, Refused, StealguardError
from stealguard.types import Guard, Scope, State

NAMES = st.sampled_from(["ann", "bob", "../cy", "", "dé"])
SHAPE = (1,)
HEADS = {"logits": nn.Linear(1, 2)}


class Counting(Plain):
    """A guard whose answer says how many inputs its account has asked."""

    scope: ClassVar[Scope] = "account"

    def start(self) -> State:
        return {"asked": torch.tensor(0)}

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        asked = state["asked"] + len(x)
        return torch.full((len(x), 2), float(asked)), {"asked": asked}


class CountingAll(Counting):
    """The same count for all accounts together."""

    scope: ClassVar[Scope] = "shared"


class Failing(Counting):
    """The same count; a request of two inputs fails."""

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        1 // (len(x) - 2)
        return super().__call__(outputs, x, state)


class Generous(Counting):
    """A guard that answers five inputs of an account."""

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        left = 5 - state["asked"]
        granted = len(x) if len(x) <= left else 0
        return torch.full((len(x), 2), 0.5)[:left], {"asked": state["asked"] + granted}


def remembering(store: dict[str, bytes] | None = None, limit: int = 1000, guard: Guard | None = None) -> Accounts:
    """Accounts whose memory is written to a store."""
    return Accounts(HEADS, guard or Counting(), SHAPE, LocalStates(store, limit))


def counted(accounts: Accounts, name: str, n: int = 3) -> int:
    return int(accounts.answer(name, torch.rand(n, 1))[0, 0])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(NAMES, st.booleans()), max_size=25), st.integers(1, 6))
def test_each_account_is_remembered_through_evictions_and_restarts(visits: list[tuple[str, bool]], limit: int) -> None:
    store, asked = dict[str, bytes](), dict[str, int]()
    states = LocalStates(store, limit)
    for name, restarts in visits:
        asked[name] = asked.get(name, 0) + 3
        assert counted(Accounts(HEADS, Counting(), SHAPE, states), name) == asked[name]
        assert len(states._known) <= limit
        if restarts:
            states.flush()
            states = LocalStates(store, limit)


def test_new_accounts_start_from_the_blank_state() -> None:
    accounts = Accounts(HEADS, Counting(), SHAPE)
    assert [counted(accounts, name) for name in ("ann", "bob", "cy")] == [3, 3, 3]
    assert accounts.state("ann") == {"asked": torch.tensor(3)}
    assert accounts.state("dé") == {"asked": torch.tensor(0)}


def test_a_connected_account_answers_as_the_accounts_do() -> None:
    accounts = Accounts(HEADS, Counting(), SHAPE)
    box, again, other = (accounts.connect(name) for name in ("ann", "ann", "bob"))
    assert [int(b(torch.rand(2, 1))[0, 0]) for b in (box, again, other)] == [2, 4, 2]
    assert box.shape == SHAPE


def test_answers_from_known_outputs_are_those_of_a_whole_question() -> None:
    whole, guard_alone, x = remembering(), Accounts({}, Counting(), SHAPE), torch.rand(2, 1)
    for _ in range(2):
        assert torch.equal(whole.answer("ann", x), guard_alone.judged("ann", {"logits": torch.zeros(2, 2)}, x).answers)


def test_shared_memory_is_the_memory_of_all_accounts() -> None:
    store = dict[str, bytes]()
    states = LocalStates(store, 1)
    accounts = Accounts(HEADS, CountingAll(), SHAPE, states)
    assert [counted(accounts, name) for name in ("ann", "bob", "ann")] == [3, 6, 9]
    assert accounts.state("cy") == {"asked": torch.tensor(9)}
    states.flush()
    assert counted(remembering(store, guard=CountingAll()), "dé") == 12


def test_fewer_answers_than_inputs_are_a_refusal_of_the_whole_request() -> None:
    box = Accounts(HEADS, Generous(), SHAPE).connect("ann")
    assert len(box(torch.rand(3, 1))) == 3
    with pytest.raises(Refused, match="2 of 4 inputs can be answered") as refusal:
        box(torch.rand(4, 1))
    assert refusal.value.left == 2
    assert len(box(torch.rand(2, 1))) == 2
    with pytest.raises(Refused, match="0 of 1 input can be answered"):
        box(torch.rand(1, 1))


def test_requests_that_are_judged_together_are_refused_each_by_itself() -> None:
    accounts, x, outputs = Accounts({}, Generous(), SHAPE), torch.rand(10, 1), {"logits": torch.zeros(10, 2)}
    found = accounts.judged_each("ann", outputs, x, [3, 4, 2, 1])
    assert [one.left if isinstance(one, Refused) else len(one.answers) for one in found] == [3, 2, 2, 0]
    assert accounts.state("ann") == {"asked": torch.tensor(5)}


@pytest.mark.parametrize("guard", [Plain(), Counting(), CountingAll()])
def test_requests_that_are_judged_together_count_as_often_as_apart(guard: Guard) -> None:
    together, apart, logits = Accounts({}, guard, SHAPE), Accounts({}, guard, SHAPE), torch.rand(6, 2)
    sizes, x = [1, 3, 2], torch.rand(6, 1)
    found = together.judged_each("ann", {"logits": logits}, x, sizes)
    for one, part, rows in zip(found, logits.split(sizes), x.split(sizes), strict=True):
        assert not isinstance(one, Refused)
        assert one.answers.shape == apart.judged("ann", {"logits": part}, rows).answers.shape
    assert together.state("ann") == apart.state("ann")


@pytest.mark.parametrize("x", [torch.rand(2, 3), torch.full((2, 1), 1.5), torch.full((1, 1), torch.nan)])
def test_inputs_that_break_a_rule_are_named_and_not_counted(x: Tensor) -> None:
    accounts = Accounts(HEADS, Counting(), SHAPE)
    with pytest.raises(Invalid, match="`x` should be"):
        accounts.answer("ann", x)
    assert accounts.state("ann") == {"asked": torch.tensor(0)}


def test_a_guard_that_raises_changes_no_memory() -> None:
    accounts = remembering({}, guard=Failing())
    assert counted(accounts, "ann", 1) == 1
    with pytest.raises(ZeroDivisionError):
        counted(accounts, "ann", 2)
    assert counted(accounts, "ann", 1) == 2


def test_many_threads_lose_no_query() -> None:
    states, names, together = LocalStates({}, 2), ["ann", "bob", "cy"], Barrier(8)
    accounts = Accounts(HEADS, Counting(), SHAPE, states)

    def ask(number: int) -> None:
        together.wait()
        for turn in range(20):
            counted(accounts, names[(number + turn) % 3], 1)
            if turn % 5 == 0:
                states.flush()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert sum(int(accounts.state(name)["asked"]) for name in names) == 160


def test_the_account_that_was_not_used_for_longest_is_dropped_from_memory() -> None:
    store = dict[str, bytes]()
    states = LocalStates(store, 2)
    for name in ("ann", "bob", "ann", "cy"):
        counted(Accounts(HEADS, Counting(), SHAPE, states), name)
    assert list(states._known) == ["ann", "cy"]
    assert store.keys() == {"ann", "bob"}


def test_only_states_that_changed_are_written() -> None:
    store = dict[str, bytes]()
    states = LocalStates(store)
    counted(Accounts(HEADS, Counting(), SHAPE, states), "ann")
    states.flush()
    store.clear()
    assert Accounts(HEADS, Counting(), SHAPE, states).state("ann") == {"asked": torch.tensor(3)}
    states.flush()
    assert store == {}


class Full(dict[str, bytes]):
    """A store without room."""

    def update(self, *_: object) -> None:
        raise OSError("disk full")


def test_a_memory_that_cannot_be_written_is_not_forgotten() -> None:
    accounts = remembering(Full(), 1)
    counted(accounts, "ann")
    with pytest.raises(OSError, match="disk full"):
        counted(accounts, "bob")
    assert counted(accounts, "ann") == 6


def test_without_a_store_nothing_is_dropped() -> None:
    accounts = remembering(None, limit=1)
    assert [counted(accounts, name) for name in ("ann", "bob", "ann")] == [3, 3, 6]


def test_guards_without_memory_write_nothing() -> None:
    store = dict[str, bytes]()
    states = LocalStates(store, 1)
    accounts = Accounts(HEADS, Plain(), SHAPE, states)
    for name in ("ann", "bob"):
        torch.testing.assert_close(accounts.answer(name, torch.rand(1, 1)).sum(), torch.tensor(1.0))
    states.flush()
    assert store == {}


def test_a_damaged_memory_is_named() -> None:
    accounts = remembering({"ann": packed({"asked": torch.tensor(3)})[:9]})
    with pytest.raises(StealguardError, match="is remembered of account `ann` is damaged"):
        counted(accounts, "ann")


def test_the_limit_is_at_least_one() -> None:
    with pytest.raises(Invalid, match=r"`limit` should be at least 1. Found 0"):
        LocalStates({}, 0)


def numbered(dtype: torch.dtype, shape: list[int], reverses: bool) -> Tensor:
    """A tensor of these sizes, in the reverse order of axes where told so, which is not contiguous then."""
    x = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    return x.permute(tuple(reversed(range(len(shape))))) if reverses else x


DTYPES = [torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]
TENSORS = st.builds(numbered, st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.booleans())


@given(st.dictionaries(st.sampled_from(["seen", "left", "é"]), TENSORS))
def test_a_state_comes_back_from_its_bytes(state: dict[str, Tensor]) -> None:
    back = unpacked(packed(state), "ann")
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)


def test_tensors_that_share_memory_are_written_each() -> None:
    nothing = torch.tensor(0.0)
    assert unpacked(packed({"suspicion": nothing, "trust": nothing}), "") == {"suspicion": nothing, "trust": nothing}
