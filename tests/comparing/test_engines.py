"""Engines: what they need, what they hand out, and what they say of work that fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stealguard.comparing.engines import Local, Wanted
from stealguard.comparing.engines.local import VISIBLE, shares
from stealguard.errors import Invalid
from stealguard.processes import processors


def failing(word: str) -> str:
    """It fails, and says what its process sees of the GPUs."""
    raise ValueError(f"no\nsuch {word} {os.environ[VISIBLE]}")


def done(work: Callable[..., str], home: Path, wanted: Wanted, pieces: int) -> list[str]:
    engine = Local(work, home, wanted)
    try:
        for n in range(pieces):
            engine.start(str(n), f"piece {n}")
        ended: dict[str, str] = {}
        while len(ended) < pieces:
            ended |= {key: reason for key, reason, _ in engine.ended()}
    finally:
        engine.close()
    return [ended[str(n)] for n in range(pieces)]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "4,7")


@pytest.mark.slow
@pytest.mark.usefixtures("two_gpus")
def test_each_local_process_sees_its_own_gpus_and_its_error_is_one_line(tmp_path: Path) -> None:
    reasons = done(failing, tmp_path, Wanted(workers=2, threads=1, gpus=1), 2)
    assert [reason[:-1] for reason in sorted(reasons)] == ["no such piece 0 ", "no such piece 1 "]
    assert sorted(reason[-1] for reason in reasons) == ["4", "7"]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("wanted", "workers"),
    [
        (Wanted(), processors()),
        (Wanted(threads=processors()), 1),
        (Wanted(workers=5), 5),
        (Wanted(gpus=2), 1),
        (Wanted(gpus=1), min(2, processors())),
        (Wanted(gpus=0), processors()),
    ],
)
def test_workers_follow_from_processors_threads_and_gpus(tmp_path: Path, wanted: Wanted, workers: int) -> None:
    engine = Local(failing, tmp_path, wanted)
    assert engine.workers == workers
    assert engine.threads == (wanted.threads or max(1, processors() // workers))
    engine.close()


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(gpus=3), "`gpus` should be at most the 2 that this machine has. Found 3"),
        (Wanted(address="auto"), "`address` should be for the engines `ray` and `slurm`. Found auto"),
    ],
)
def test_what_this_machine_does_not_have_is_named(tmp_path: Path, wanted: Wanted, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        Local(failing, tmp_path, wanted)


@pytest.mark.parametrize(
    ("visible", "gpus", "workers", "expected"),
    [
        (["0", "1"], 1, 3, ["0", "1", "0"]),
        (["0", "1", "2", "3"], 2, 2, ["0,1", "2,3"]),
        (["0", "1"], 0, 2, ["", ""]),
        ([], 0, 2, ["", ""]),
    ],
)
def test_gpus_are_handed_out_in_turn(visible: list[str], gpus: int, workers: int, expected: list[str]) -> None:
    assert shares(visible, gpus, workers) == expected
