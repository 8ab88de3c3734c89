"""Feeds mutants to the command line, each in a process of its own that was forked with torch loaded.

The script is called with an empty folder. It makes sound inputs there, prints `ready`, and reads one JSON object a
line: `kind` and `number` of a mutant. For each it answers with a line of JSON: `arguments`, `status` (the exit status,
negative for a signal, null for a command that hangs), `seconds`, `errors` (what it wrote to stderr),
and the names of files that were `added`, `changed` or `removed`.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loaded
import mutants
from loaded import Here, without_privileges

SECONDS, PATIENCE = 20, 60  # of the processor and of the clock, until a command is said to hang
MEMORY = 12 * 2**30  # bytes that a command may claim beyond what torch has


def confine(base: Path) -> None:
    """No network, no other programs, no more memory than `MEMORY`, and no permission that files do not give."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(101, "Network is unreachable")

    socket.socket.connect = refuse  # type: ignore[assignment,method-assign]
    socket.getaddrinfo = refuse  # type: ignore[assignment]
    os.environ |= {"PATH": "/nowhere", "STEALGUARD_DATA": "store", "HOME": str(base), "COLUMNS": "120"}
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    without_privileges()


def command(arguments: list[str], folder: Path, base: Path, engines: dict[str, Any]) -> int:
    """Run the command in this process: its exit status."""
    import faulthandler

    from stealguard.cli import main

    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder.with_name(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    faulthandler.enable()
    faulthandler.dump_traceback_later(SECONDS, file=folder.with_name("where").open("w"))
    sys.argv = ["stealguard", *arguments]
    sys.dont_write_bytecode = True  # what Python keeps of code in the folder is none of the command's files
    engines["local"] = Here
    confine(base)
    return loaded.status_of(main)


def fork(work: Callable[[], int]) -> tuple[int | None, float]:
    """The exit status of `work` in a process of its own, None if it had to be killed, and its seconds."""
    started = time.monotonic()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        status = 1
        try:
            status = work()
            sys.stdout.flush()
        finally:
            os._exit(status)
    while (passed := time.monotonic() - started) < PATIENCE:
        done, ended = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(ended), passed
        if passed > SECONDS and processor_seconds(child) > SECONDS:
            break
        time.sleep(min(0.1, max(0.002, passed / 10)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, time.monotonic() - started


def processor_seconds(process: int) -> float:
    """Processor time that a process has used: a machine that is busy with others makes no command hang."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def states(folder: Path) -> dict[str, Any]:
    """What each name in a folder stands for: type, and content or the target of a link."""
    found: dict[str, Any] = {}
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(place, name)
            mode = path.lstat().st_mode
            content = ""
            if stat.S_ISREG(mode):
                path.chmod(mode | 0o400)
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                path.chmod(mode)
            found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), content)
    return found


def feed(kind: str, number: int, folder: Path, engines: dict[str, Any]) -> dict[str, Any]:
    work, base = folder / "case" / "work", folder / "base"
    remove(work.parent)
    work.mkdir(parents=True)
    arguments = mutants.made(kind, number, base, work)
    before = states(work)
    status, seconds = fork(lambda: command(arguments, work, base, engines))
    after = states(work)
    where = work.parent / "where"
    errors = (
        (work.parent / "stderr").read_bytes().decode("utf-8", "replace") if (work.parent / "stderr").exists() else ""
    )
    return {
        "kind": kind, "number": number, "arguments": arguments, "status": status, "seconds": round(seconds, 2),
        "errors": errors[-20_000:], "where": where.read_text() if where.exists() and status is None else "",
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    }  # fmt: skip


def remove(folder: Path) -> None:
    """Remove a folder whatever its permissions are."""
    for place, folders, _ in os.walk(folder):
        for name in folders:
            if not Path(place, name).is_symlink():
                Path(place, name).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=False) if folder.exists() else None


def prepare(base: Path, engines: dict[str, Any]) -> None:
    """Sound inputs, and what commands make of them: a release, rows, answers, a checkpoint, a finished comparison."""
    mutants.write_data(base)

    def run(*arguments: str, patch: Callable[[], None] = lambda: None) -> None:
        def work() -> int:
            patch()
            return command(list(arguments), base, base, engines)

        status, _ = fork(work)
        if status not in (0, 77):
            raise RuntimeError(f"{arguments} ended with {status}: {base.with_name('stderr').read_text()}")

    def stop(*arguments: Any, **options: Any) -> None:
        os._exit(77)

    def die_before_the_release() -> None:
        from stealguard.releases import release

        release.write_into = stop  # type: ignore[assignment]

    def die_before_the_row() -> None:
        from stealguard.results import Store

        Store.put = stop  # type: ignore[assignment,method-assign]

    protect = ["release" if word == "out" else word for word in mutants.PROTECT]
    run(*protect)
    run(*mutants.AUDIT, "--seeds", "0", "1", "--store", "rows.sqlite")
    run(*mutants.AUDIT, "--store", "audit.sqlite", patch=die_before_the_row)
    run(*mutants.given(mutants.PROTECT, "--epochs", "2"), patch=die_before_the_release)
    run(*mutants.COMPARE[:-1], "compared")
    from stealguard.results import Store

    Store(base / "rows.sqlite").export_jsonl(base / "rows.jsonl")
    for lock in base.glob("*.answers/*.lock"):
        lock.unlink()
    published = Path(__file__).parents[2] / "docs" / "results" / "mnist-lenet5.jsonl"
    (base / "old.jsonl").write_text("".join(published.read_text().splitlines(keepends=True)[:4]))


def main() -> None:
    loaded.everything()
    from stealguard.comparing.engines import ENGINES

    folder = Path(sys.argv[1])
    (folder / "base").mkdir()
    prepare(folder / "base", ENGINES)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(feed(**json.loads(line), folder=folder, engines=ENGINES)), flush=True)


if __name__ == "__main__":
    main()
