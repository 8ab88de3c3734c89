"""The ledger: an answer that was written is never paid for again, whatever was cut, damaged or asked in between."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stealguard.boxes import AnswerLedger, LedgerError, Metered, read_records
from stealguard.boxes.ledger import MAGIC
from stealguard.errors import BoxFault, Refused

RECORD = 4 + 4 + 32 + 4 * 2 + 8  # bytes, for answers of two classes
QUESTIONS = [torch.rand(n, 1, generator=torch.Generator().manual_seed(n)) for n in (3, 1, 5)]


class Steady:
    """A box whose answers follow from the inputs alone. It remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def __call__(self, x: Tensor, /) -> Tensor:
        self.asked += x.flatten().tolist()
        return torch.cat([x, 1 - x], dim=1)


class Varying(Steady):
    """A box that never gives the same answer twice."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, x: Tensor, /) -> Tensor:
        super().__call__(x)
        return torch.rand(len(x), 2, generator=self._generator).softmax(dim=1)


def run(path: Path, questions: list[Tensor], box: Steady | None = None, discard: bool = False) -> tuple[Tensor, int]:
    """The answers to all questions, and how many inputs the box was asked."""
    box = box or Steady()
    ledger = AnswerLedger(box, path)
    answers = torch.cat([ledger(x) for x in questions])
    ledger.close(discard=discard)
    return answers, len(box.asked)


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New paths in one folder."""
    folder = tmp_path_factory.mktemp("ledgers")
    return (folder / f"{number}" for number in range(10**9))


# Few different inputs, so that many are asked several times.
scripts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=4).map(
    lambda script: [torch.tensor([[n / 4] for n in rows]) for rows in script]
)


@pytest.mark.slow
@given(scripts, st.data())
def test_only_what_a_cut_took_away_is_asked_again(
    paths: Iterator[Path], script: list[Tensor], data: st.DataObject
) -> None:
    path, total = next(paths), sum(map(len, script))
    first, asked = run(path, script, Varying(1))
    size = path.stat().st_size
    assert (asked, size) == (total, len(MAGIC) + total * RECORD)
    cut = data.draw(st.integers(0, size), "cut")
    os.truncate(path, cut)
    kept = max(0, cut - len(MAGIC)) // RECORD
    second, asked = run(path, script, Varying(2))
    assert asked == total - kept
    assert torch.equal(second[:kept], first[:kept]), "the n-th question of an input has its n-th answer"
    third, asked = run(path, script, Varying(3))
    assert asked == 0
    assert torch.equal(third, second)


@pytest.mark.slow
@given(scripts, scripts, st.integers(0, 9))
def test_other_groups_and_another_order_ask_only_for_what_is_new(
    paths: Iterator[Path], script: list[Tensor], more: list[Tensor], seed: int
) -> None:
    path = next(paths)
    run(path, script)
    rows = [row for x in (*script, *more) for row in x.split(1)]
    random.Random(seed).shuffle(rows)
    box = Steady()
    answers, _ = run(path, [torch.cat(rows)], box)
    assert torch.equal(answers, Steady()(torch.cat(rows)))
    assert Counter(box.asked) == Counter(torch.cat(more).flatten().tolist())


@pytest.mark.slow
@given(scripts, st.data())
def test_damage_loses_the_records_that_it_touches_and_no_other(
    paths: Iterator[Path], script: list[Tensor], data: st.DataObject
) -> None:
    path = next(paths)
    first, total = run(path, script)
    content = path.read_bytes()
    start = data.draw(st.integers(len(MAGIC), len(content) - 1), "start")
    removed = data.draw(st.integers(1, 2 * RECORD), "removed")
    junk = data.draw(st.binary(max_size=RECORD) | st.just(b"\xffSGR" * 3), "junk")
    whole = [(record.digest, *record.answer) for record in read_records(path)]
    touched = [
        i for i in range(total) if start < len(MAGIC) + (i + 1) * RECORD and len(MAGIC) + i * RECORD < start + removed
    ]
    path.write_bytes(content[:start] + junk + content[start + removed :])
    left = [(record.digest, *record.answer) for record in read_records(path)]
    assert not Counter(left) - Counter(whole), "nothing is made up"
    assert not Counter(record for i, record in enumerate(whole) if i not in touched) - Counter(left)
    second, asked = run(path, script)
    assert asked == total - len(left) <= len(touched)
    assert torch.equal(first, second)
    assert run(path, script)[1] == 0


@pytest.mark.slow
@given(scripts, st.data())
def test_a_changed_bit_is_not_believed(paths: Iterator[Path], script: list[Tensor], data: st.DataObject) -> None:
    path = next(paths)
    first, _ = run(path, script)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(len(MAGIC), len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    second, asked = run(path, script)
    assert asked == 1
    assert torch.equal(first, second)


def test_records_of_another_number_of_classes_are_not_taken(tmp_path: Path) -> None:
    x = torch.rand(5, 1)
    with closing(AnswerLedger(lambda x: torch.full((len(x), 3), 1 / 3), tmp_path / "ledger")) as other:
        other(x)
    box = Steady()
    with closing(AnswerLedger(box, tmp_path / "ledger", classes=2)) as ledger:
        assert torch.equal(ledger(x), Steady()(x))
    assert len(box.asked) == 5
    assert len(read_records(tmp_path / "ledger")) == 10, "what the other box answered is kept"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_an_input_is_its_shape_dtype_and_bytes(tmp_path: Path, dtype: torch.dtype) -> None:
    def box(x: Tensor) -> Tensor:
        asked.append(len(x))
        return torch.full((len(x), 2), 0.5)

    asked: list[int] = []
    with closing(AnswerLedger(box, tmp_path / "ledger")) as ledger:
        for x in (torch.ones(3, 4, dtype=dtype), torch.ones(3, 2, 2, dtype=dtype), torch.ones(3, 4, dtype=torch.int16)):
            ledger(x)
            ledger(x)
    assert asked == [3] * 6, "within a run, the second question of an input is a new one"
    assert len({record.digest for record in read_records(tmp_path / "ledger")}) == 3
    with closing(AnswerLedger(box, tmp_path / "ledger")) as again:
        again(torch.ones(4, 6, dtype=dtype).T)
    assert asked == [3] * 6


def test_a_longer_run_asks_what_is_new(tmp_path: Path) -> None:
    run(tmp_path / "ledger", QUESTIONS[:2])
    assert run(tmp_path / "ledger", QUESTIONS)[1] == 5
    assert run(tmp_path / "ledger", QUESTIONS)[1] == 0


def test_unknown_inputs_are_asked_in_one_call_in_their_order(tmp_path: Path) -> None:
    run(tmp_path / "ledger", [torch.tensor([[0.5], [0.25]])])
    calls: list[list[float]] = []

    def box(x: Tensor) -> Tensor:
        calls.append(x.flatten().tolist())
        return Steady()(x)

    with closing(AnswerLedger(box, tmp_path / "ledger")) as ledger:
        ledger(torch.tensor([[0.125], [0.5], [1.0], [0.25], [0.75]]))
    assert calls == [[0.125, 1.0, 0.75]]


def test_answers_are_on_the_disk_before_they_are_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    with closing(AnswerLedger(Steady(), tmp_path / "ledger")) as ledger:
        ledger(QUESTIONS[0])
        assert synced[-1] == (tmp_path / "ledger").stat().st_size == len(MAGIC) + 3 * RECORD


def test_the_file_has_the_documented_format(tmp_path: Path) -> None:
    run(tmp_path / "ledger", [torch.tensor([[0.25]])])
    digest = hashlib.sha256(b"(1,) torch.float32" + struct.pack("<f", 0.25)).digest()
    record = b"\xffSGR" + struct.pack("<I", 2) + digest + struct.pack("<2f", 0.25, 0.75)
    whole = b"stealguard ledger 1\n" + record + hashlib.sha256(record).digest()[:8]
    assert (tmp_path / "ledger").read_bytes() == whole
    ((found, answer),) = read_records(tmp_path / "ledger")
    assert found == digest
    assert answer.tolist() == [0.25, 0.75]


def test_a_refusal_counts_the_rows_that_can_still_be_answered(tmp_path: Path) -> None:
    class UpTo(Steady):
        def __call__(self, x: Tensor, /) -> Tensor:
            if len(self.asked) + len(x) > 1:
                raise Refused("no more", 1 - len(self.asked))
            return super().__call__(x)

    known, new = torch.tensor([[0.0], [0.25]]), torch.tensor([[0.5], [0.75], [1.0]])
    run(tmp_path / "ledger", [known])
    question = torch.stack([new[0], known[0], known[1], new[1], new[2]])
    with closing(AnswerLedger(UpTo(), tmp_path / "ledger")) as ledger:
        metered = Metered(ledger, 10)
        with pytest.raises(Refused, match="no more") as refusal:
            metered(question)
        assert refusal.value.left == metered.left == 3
        assert torch.equal(metered(question[:3]), Steady()(question[:3])), "a refusal uses no record up"
        assert (metered.left, metered.spent) == (0, 3)


def test_an_answer_that_breaks_a_rule_is_not_written(tmp_path: Path) -> None:
    run(tmp_path / "ledger", QUESTIONS[:1])
    size = (tmp_path / "ledger").stat().st_size
    for wrong in (lambda x: x.tolist(), lambda x: x.expand(-1, 2) * torch.nan, lambda x: torch.full((len(x), 4), 0.25)):
        with (
            closing(AnswerLedger(wrong, tmp_path / "ledger", "their API")) as ledger,
            pytest.raises(BoxFault, match="their API"),
        ):
            ledger(QUESTIONS[2])
    assert (tmp_path / "ledger").stat().st_size == size


class Full:
    """A file on a disk that takes `room` more bytes."""

    def __init__(self, file: Any, room: int):
        self._file, self._room = file, room

    def write(self, data: memoryview) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._file.write(data[: self._room])
        self._room -= taken
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 10, RECORD + 10, 3 * RECORD])
def test_a_full_disk_is_named_and_not_the_box(tmp_path: Path, room: int) -> None:
    path = tmp_path / "ledger"
    with closing(AnswerLedger(Steady(), path)) as ledger:
        ledger._file = Full(ledger._file, room)
        with pytest.raises(LedgerError, match=rf"cannot be written to `{path}`: the disk is full"):
            Metered(ledger, 100)(torch.cat(QUESTIONS))
    kept = room // RECORD
    assert len(read_records(path)) == kept
    assert run(path, QUESTIONS)[1] == 9 - kept, "what was written is kept, and what is incomplete is stepped over"
    assert run(path, QUESTIONS)[1] == 0


def test_what_is_not_a_ledger_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("Chapter 1")
    with pytest.raises(LedgerError, match=r"thesis.txt` is not a ledger"):
        AnswerLedger(Steady(), path)
    assert path.read_text() == "Chapter 1"
    with pytest.raises(LedgerError, match="cannot be written to"):
        AnswerLedger(Steady(), path / "ledger")
    with pytest.raises(LedgerError, match="is a directory"):
        AnswerLedger(Steady(), tmp_path)


def test_a_ledger_is_discarded_once_its_result_is_safe(tmp_path: Path) -> None:
    run(tmp_path / "deep" / "ledger", QUESTIONS, discard=True)
    assert not (tmp_path / "deep" / "ledger").exists()
