"""The command line is fed spoiled inputs of every kind: one line and status 2, or a sound result.

`make test` runs a sample of 42 mutants, `make test-thorough` 42 more. With STEALGUARD_ALL=1 the thorough tests run the
rest of 5,100: 350 of each kind, and 150 of those in `LONG`, whose commands train and steal whatever is wrong. They take
about 20 minutes of one processor. With STEALGUARD_FAULTS_LOG=FILE each end is a line of JSON in that file, and a run
that was stopped goes on with the mutants that are not in it. Mutants are numbered: a kind and a number give the same
input in every run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from feeding import remove
from judging import fault
from mutants import KINDS, options

from grids import environment

LONG = {"checkpoints", "compare_folders", "ledgers", "pictures", "release_folders", "stores"}
SAMPLE = {kind: 1 if kind in LONG else 3 for kind in KINDS}
MORE = {kind: 2 if kind in LONG else 6 for kind in KINDS}
ALL = {kind: 150 if kind in LONG else 350 for kind in KINDS}
REST = ALL if os.environ.get("STEALGUARD_ALL") else MORE
NUMBERS = [pytest.param(kind, range(SAMPLE[kind]), id=kind) for kind in KINDS] + [
    pytest.param(kind, range(SAMPLE[kind], REST[kind]), id=f"{kind}-rest", marks=pytest.mark.thorough) for kind in KINDS
]
LOG = Path(os.environ.get("STEALGUARD_FAULTS_LOG", os.devnull))
FOUND: Counter[tuple[str, Any]] = Counter()


class Feeder:
    """Feeds mutants to the command line, one at a time: `feeder("recipes", 3)` is how the command ended."""

    def __init__(self, folder: Path):
        here = str(Path(__file__).parent)
        self._server = subprocess.Popen(
            [sys.executable, f"{here}/feeding.py", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**environment(), "PYTHONPATH": os.pathsep.join([here, environment()["PYTHONPATH"]])},
        )  # fmt: skip
        self._folder = folder
        assert self._answer() == "ready\n"

    def __call__(self, kind: str, number: int) -> dict[str, Any]:
        assert self._server.stdin is not None
        print(json.dumps({"kind": kind, "number": number}), file=self._server.stdin, flush=True)
        return dict(json.loads(self._answer()))

    def _answer(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, f"the process that forks ended with {self._server.wait()}"
        return line

    def close(self) -> None:
        self._server.communicate()
        remove(self._folder)


@pytest.fixture(scope="module")
def feeder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Feeder]:
    with closing(Feeder(tmp_path_factory.mktemp("mutants"))) as running:
        yield running
    for kind in KINDS:
        ends = {str(status): n for (name, status), n in sorted(FOUND.items(), key=str) if name == kind}
        print(f"{kind}: {sum(ends.values())} mutants, by exit status {ends}")


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, int], dict[str, Any]]:
    """The ends that are in the log, by kind and number."""
    lines = LOG.read_text().splitlines() if LOG.is_file() else []
    ends = [json.loads(line) for line in lines]
    return {(end["kind"], end["number"]): end for end in ends}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "numbers"), NUMBERS)
def test_a_spoiled_input_gives_one_line_and_status_2_or_a_sound_result(
    feeder: Feeder, known: dict[tuple[str, int], dict[str, Any]], kind: str, numbers: range
) -> None:
    wrong = []
    for number in numbers:
        end = known.get((kind, number))
        if end is None:
            end = feeder(kind, number)
            with LOG.open("a") as log:
                log.write(json.dumps(end) + "\n")
        FOUND[kind, end["status"]] += 1
        if said := fault(end):
            wrong.append(
                f"mutant {number} ({' '.join(end['arguments'])[:300]}): {said}\n{end['errors'][-3000:]}{end['where']}"
            )
    assert not wrong, "\n".join(wrong)


def test_every_option_of_every_command_is_spoiled() -> None:
    """A mutant's number decides which: the full run tries each several times."""
    assert sum(ALL.values()) >= 5_000
    assert 60 < len(set(options())) == len(options()) < ALL["command_lines"] / 3


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ({"status": None}, "hangs"),
        ({"status": 1, "errors": "Traceback (most recent call last):\n"}, "traceback"),
        ({"status": -11}, "status -11"),
        ({"status": -6}, "status -6"),
        ({"status": -6, "arguments": ["guard", "r", "rounding", "--net=os:abort"]}, ""),
        ({"status": 1}, "status 1 without a word"),
        ({"status": 2, "errors": "error: a\nerror: b\n"}, "2 lines"),
        ({"status": 2, "errors": "error: a\n", "added": ["out/recipe.json"]}, "leaves out/recipe.json"),
        ({"status": 0, "added": [".page.html.0123abcd-7.abcdefgh"]}, "leaves .page.html.0123abcd-7.abcdefgh"),
        ({"status": 0, "added": ["out/recipe.json"]}, ""),
        ({"status": 2, "errors": "data: a note\nerror: a\n"}, ""),
        ({"status": 2, "errors": "warning: The answers are right on 10.0 %.\nerror: a\n"}, ""),
    ],
)
def test_what_is_wrong_about_an_end_is_seen(end: dict[str, Any], said: str) -> None:
    assert fault({"arguments": [], "errors": "", "added": [], "changed": [], "removed": [], **end}) == said
