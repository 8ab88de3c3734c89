"""Clients apart from each other: what is remembered of each is bounded in memory and outlives the process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stealguard.boxes.accounts import Clients, forgetful
from stealguard.errors import Invalid, StealguardError

NAMES = st.sampled_from(["ann", "bob", "../cy", "", "dé"])


class Counting:
    """A guard whose answer says how much its client has asked before."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, x: Tensor, /) -> Tensor:
        self.asked += len(x)
        return torch.full((len(x), 2), float(self.asked))

    def state_dict(self) -> dict[str, Tensor]:
        return {"asked": torch.tensor(self.asked)}

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        self.asked = int(state["asked"])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(NAMES, st.booleans()), max_size=25), st.integers(1, 6))
def test_each_client_is_remembered_whatever_is_evicted_or_restarted(
    tmp_path_factory: pytest.TempPathFactory, visits: list[tuple[str, bool]], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("clients")
    clients, asked = Clients(Counting, folder, limit), dict[str, int]()
    for name, restarts in visits:
        asked[name] = asked.get(name, 0) + 3
        assert clients(name, torch.rand(3, 1))[0, 0] == asked[name]
        assert len(clients._boxes) <= limit
        if restarts:
            clients.save()
            clients = Clients(Counting, folder, limit)
    assert all(path.parent == folder and path.suffix == ".safetensors" for path in folder.rglob("*"))


def test_a_forgetful_box_is_new_to_every_question() -> None:
    guard = Counting()
    box = forgetful(guard)
    assert [box(torch.rand(3, 1))[0, 0].item() for _ in range(3)] == [3, 3, 3]
    assert guard.asked == 3  # one guard, built once

    def plain(x: Tensor, /) -> Tensor:
        return x

    assert forgetful(plain) is plain


def test_the_client_that_has_not_asked_for_longest_is_written(tmp_path: Path) -> None:
    clients = Clients(Counting, tmp_path, 2)
    for name in ("ann", "bob", "ann", "cy"):
        clients(name, torch.rand(1, 1))
    assert list(clients._boxes) == ["ann", "cy"]
    assert len(list(tmp_path.iterdir())) == 1


def test_guards_without_memory_leave_no_files(tmp_path: Path) -> None:
    clients = Clients(lambda: lambda x: x, tmp_path / "none", 1)
    for name in ("ann", "bob"):
        clients(name, torch.rand(1, 2))
    clients.save()
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_torn_is_named(tmp_path: Path) -> None:
    clients = Clients(Counting, tmp_path, 1)
    clients("ann", torch.rand(1, 1))
    clients.save()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(StealguardError, match="is no safetensors file"):
        Clients(Counting, tmp_path, 1)("ann", torch.rand(1, 1))


def test_the_limit_is_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"`limit` should be at least 1. Found 0"):
        Clients(Counting, tmp_path, 0)
