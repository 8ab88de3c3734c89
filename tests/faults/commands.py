"""Commands that can be killed at a step: see `dying.py` for what a step is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from grids import environment

# When a command is killed: before or after a step, and at one step in so many. With STEALGUARD_ALL=1 the thorough tests
# kill it at every step.
_OFTEN = 1 if os.environ.get("STEALGUARD_ALL") else 23
LONG = pytest.mark.thorough, pytest.mark.long
KILLS = pytest.mark.parametrize(
    ("moment", "stride"),
    [("before", 29), *(pytest.param(moment, _OFTEN, marks=LONG) for moment in ("before", "after"))],
)


class Ended(NamedTuple):
    """How a command ended: its exit status, the steps that it finished, as (name, file), and what it printed."""

    status: int
    steps: list[list[str]]
    printed: str
    errors: str

    @property
    def killed(self) -> bool:
        return self.status == -9

    def count(self, name: str, file: str = "") -> int:
        """The number of steps of that name on files that have `file` in their names."""
        return sum(step == name and file in path for step, path in self.steps)


class Commands:
    """Runs commands, one at a time: `commands(folder, "audit", "release", ..., kill=(3, "before"))`."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        self._server = subprocess.Popen(
            [sys.executable, str(here / "dying.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**environment(), "PYTHONPATH": os.pathsep.join([str(here), environment()["PYTHONPATH"]])},
        )  # fmt: skip

    def __call__(
        self, folder: Path, *arguments: str, kill: tuple[int, str] | None = None, room: int | None = None
    ) -> Ended:
        """Run a command in a folder, to its end or to its death `before` or `after` a step, counted from 1.

        With `room`, no file may be larger than so many bytes, as if the disk were full.
        """
        return self.together(folder, *arguments, kill=kill, room=room, copies=1)[0]

    def together(
        self, folder: Path, *arguments: str, copies: int, kill: tuple[int, str] | None = None, room: int | None = None
    ) -> list[Ended]:
        """Run a command in several processes at once; the steps of each are those of all."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        folder.mkdir(parents=True, exist_ok=True)
        print(
            json.dumps(
                {"folder": str(folder), "arguments": arguments, "kill": kill, "room": room, "copies": copies}
            ),
            file=self._server.stdin, flush=True,
        )  # fmt: skip
        line = self._server.stdout.readline()
        assert line, f"the process that forks ended with {self._server.wait()}"
        ended = json.loads(line)
        return [
            Ended(
                status, ended["steps"], *(folder.with_name(f"{name}-{n}").read_text() for name in ("stdout", "stderr"))
            )
            for n, status in enumerate(ended["statuses"])
        ]

    def close(self) -> None:
        self._server.communicate()


def listing(folder: Path) -> list[str]:
    """All files and folders in a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
