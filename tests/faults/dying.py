"""Runs stealguard commands, each in a process of its own that kills itself at a chosen step.

A step is a change of a name in the working folder, or a wait for the disk: `os.replace`, `os.rename`, `os.link`,
`os.unlink`, `os.rmdir` and `os.fsync`. The steps of a run are counted, not timed, so a run dies at the same place on
every machine.

The script reads one JSON object a line: `arguments` (of the command), `folder` (to work in), `kill` (null, or the
step's number and `before` or `after`), `room` (null, or the bytes that a file may have, as on a disk that is full) and
`copies` (how many processes run the command at once). For each it forks, so that torch is imported once, and answers
with a line of JSON: `statuses` (exit statuses, negative for a signal) and `steps` (those that ended: name and file).
What the n-th copy prints is in the files `stdout-N` and `stderr-N` beside the folder, N from 0.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import loaded
from loaded import Here, without_privileges

STEPS = ("replace", "rename", "link", "unlink", "rmdir", "fsync")


def watch(folder: Path, kill: list[Any] | None, log: int) -> None:
    """Count the steps of this process, write them to `log`, and die at the chosen one."""
    numbers = itertools.count(1)

    def watched(name: str) -> Any:
        step = getattr(os, name)

        def run(*arguments: Any, **options: Any) -> Any:
            file = "" if name == "fsync" else os.path.abspath(arguments[-1])  # noqa: PTH100
            if file and not file.startswith(str(folder)):
                return step(*arguments, **options)
            number = next(numbers)
            if kill == [number, "before"]:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return step(*arguments, **options)
            finally:
                os.write(log, json.dumps([name, Path(file).name]).encode() + b"\n")
                if kill == [number, "after"]:
                    os.kill(os.getpid(), signal.SIGKILL)

        return run

    for name in STEPS:
        setattr(os, name, watched(name))


def command(arguments: list[str], folder: Path, kill: list[Any] | None, room: int | None, log: int, copy: int) -> int:
    """Run the command in this process: its exit status."""
    from stealguard.cli import main
    from stealguard.comparing.engines import ENGINES

    ENGINES["local"] = Here  # the steps of a comparison are those of one process
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(folder.with_name(f"{name}-{copy}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    sys.argv = ["stealguard", *arguments]
    watch(folder, kill, log)
    without_privileges()
    if room is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    return loaded.status_of(main)


def run(arguments: list[str], folder: str, kill: list[Any] | None, room: int | None, copies: int) -> dict[str, Any]:
    path = Path(folder).with_name("steps")
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    children = []
    for copy in range(copies):
        child = os.fork()
        if not child:
            status = 1
            try:
                status = command(arguments, Path(folder), kill, room, log, copy)
                sys.stdout.flush()
            finally:
                os._exit(status)
        children.append(child)
    os.close(log)
    ended = [os.waitpid(child, 0)[1] for child in children]
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    return {"statuses": [os.waitstatus_to_exitcode(end) for end in ended], "steps": steps}


if __name__ == "__main__":
    loaded.everything()
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)
