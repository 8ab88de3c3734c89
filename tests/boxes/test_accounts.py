"""Accounts: each is remembered by itself, in bounded memory, across restarts and threads; shared memory is shared."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stealguard.boxes.accounts import Accounts
from stealguard.defenses.base import Plain
from stealguard.errors import Invalid, Refused, StealguardError
from stealguard.types import Scope, State

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


class Generous(Counting):
    """A guard that answers five inputs of an account."""

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        left = 5 - state["asked"]
        granted = len(x) if len(x) <= left else 0
        return torch.full((len(x), 2), 0.5)[:left], {"asked": state["asked"] + granted}


def counted(accounts: Accounts, name: str, n: int = 3) -> int:
    return int(accounts.answer(name, torch.rand(n, 1))[0, 0])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(NAMES, st.booleans()), max_size=25), st.integers(1, 6))
def test_each_account_is_remembered_through_evictions_and_restarts(
    tmp_path_factory: pytest.TempPathFactory, visits: list[tuple[str, bool]], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("accounts")
    accounts, asked = Accounts(HEADS, Counting(), SHAPE, folder, limit), dict[str, int]()
    for name, restarts in visits:
        asked[name] = asked.get(name, 0) + 3
        assert counted(accounts, name) == asked[name]
        assert len(accounts._known) <= limit
        if restarts:
            accounts.save()
            accounts = Accounts(HEADS, Counting(), SHAPE, folder, limit)
    assert all(path.parent == folder and path.suffix == ".safetensors" for path in folder.rglob("*"))


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


def test_shared_memory_is_the_memory_of_all_accounts(tmp_path: Path) -> None:
    accounts = Accounts(HEADS, CountingAll(), SHAPE, tmp_path, 1)
    assert [counted(accounts, name) for name in ("ann", "bob", "ann")] == [3, 6, 9]
    assert accounts.state("cy") == {"asked": torch.tensor(9)}
    accounts.save()
    assert counted(Accounts(HEADS, CountingAll(), SHAPE, tmp_path), "dé") == 12


def test_fewer_answers_than_inputs_are_a_refusal_of_the_whole_request() -> None:
    box = Accounts(HEADS, Generous(), SHAPE).connect("ann")
    assert len(box(torch.rand(3, 1))) == 3
    with pytest.raises(Refused, match="2 of 4 inputs are answered") as refusal:
        box(torch.rand(4, 1))
    assert refusal.value.left == 2
    assert len(box(torch.rand(2, 1))) == 2
    with pytest.raises(Refused, match="0 of 1 inputs are answered"):
        box(torch.rand(1, 1))


@pytest.mark.parametrize("x", [torch.rand(2, 3), torch.full((2, 1), 1.5), torch.full((1, 1), torch.nan)])
def test_inputs_that_break_a_rule_are_named_and_not_counted(x: Tensor) -> None:
    accounts = Accounts(HEADS, Counting(), SHAPE)
    with pytest.raises(Invalid, match="`x` should be"):
        accounts.answer("ann", x)
    assert accounts.state("ann") == {"asked": torch.tensor(0)}


def test_many_threads_lose_no_query(tmp_path: Path) -> None:
    accounts, names, together = Accounts(HEADS, Counting(), SHAPE, tmp_path, 2), ["ann", "bob", "cy"], Barrier(6)

    def ask(number: int) -> None:
        together.wait()
        for turn in range(20):
            counted(accounts, names[(number + turn) % 3], 1)
            if turn % 5 == 0:
                accounts.save()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))
    assert sum(int(accounts.state(name)["asked"]) for name in names) == 120


def test_the_account_that_was_not_used_for_longest_is_written(tmp_path: Path) -> None:
    accounts = Accounts(HEADS, Counting(), SHAPE, tmp_path, 2)
    for name in ("ann", "bob", "ann", "cy"):
        counted(accounts, name)
    assert list(accounts._known) == ["ann", "cy"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_memory_that_cannot_be_written_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = Accounts(HEADS, Counting(), SHAPE, tmp_path, 1)
    counted(accounts, "ann")
    with monkeypatch.context() as full:
        full.setattr("stealguard.boxes.accounts.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            counted(accounts, "bob")
    assert counted(accounts, "ann") == 6


def test_without_a_folder_nothing_is_evicted() -> None:
    accounts = Accounts(HEADS, Counting(), SHAPE, limit=1)
    assert [counted(accounts, name) for name in ("ann", "bob", "ann")] == [3, 3, 6]


def test_guards_without_memory_leave_no_files(tmp_path: Path) -> None:
    accounts = Accounts(HEADS, Plain(), SHAPE, tmp_path / "none", 1)
    for name in ("ann", "bob"):
        torch.testing.assert_close(accounts.answer(name, torch.rand(1, 1)).sum(), torch.tensor(1.0))
    accounts.save()
    assert not (tmp_path / "none").exists()


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    accounts = Accounts(HEADS, Counting(), SHAPE, tmp_path, 1)
    counted(accounts, "ann")
    accounts.save()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(StealguardError, match="is not a safetensors file"):
        counted(Accounts(HEADS, Counting(), SHAPE, tmp_path, 1), "ann")


def test_the_limit_is_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"`limit` should be at least 1. Found 0"):
        Accounts(HEADS, Counting(), SHAPE, tmp_path, 0)
