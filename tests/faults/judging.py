"""What may not come of a mutant: a traceback, a hang, more than one line, a half-written file."""

from __future__ import annotations

import re
import signal
from typing import Any

# What a command says besides the line that tells an error.
NOTE = re.compile(
    r"(data|pools|warning): |(protect|audit|compare|accounts|rendering) .*: |wrote |failed: |\d+ of \d+ thefts failed|"
    r".*UserWarning: .* is damaged|  history = fit\("
)
# Names of files that are being written, and of the place where a set is made.
DRAFT = re.compile(
    r"(^|/)\.[^/]*-[0-9]+\.[a-z0-9_]{8}$|\.try$|\.[0-9]+\.[0-9a-f]{32}|(^|/)store/\.work/[^/]*/|-(wal|shm|journal)$"
)
# What a command that ends with status 2 may have written for good: rows, answers that were paid for, a journal, cells
# of a comparison, and a damaged file under its new name.
KEPT = re.compile(r"audit\.sqlite|rows\.sqlite|attempts\.jsonl|store|compared|out/(cells|locks|releases)|\.damaged$")


def fault(ended: dict[str, Any]) -> str:
    """What is wrong about the end of a command, or the empty string."""
    errors, status = ended["errors"], ended["status"]
    if status is None:
        return "hangs"
    if "Traceback" in errors or "error of stealguard itself" in errors:
        return "traceback"
    if status == -signal.SIGABRT and any("os:abort" in argument for argument in ended["arguments"]):
        return ""  # the command line names this function, which is run
    if status not in (0, 1, 2):
        return f"status {status}"
    lines = errors.splitlines()
    if status == 1 and not any("thefts failed" in line for line in lines):
        return "status 1 without a word"
    told = [line for line in lines if not NOTE.match(line)]
    if status == 2 and (len(told) != 1 or not told[0].startswith("error: ") or lines[-1] != told[0]):
        return f"{len(told)} lines"
    left = [name for name in ended["added"] if DRAFT.search(name)]
    if status == 2:
        trained = any(
            name.endswith("checkpoint.pt") for name in ended["added"]
        )  # the same command with --resume goes on
        touched = [*ended["added"], *ended["changed"], *ended["removed"]]
        left += [name for name in touched if not (KEPT.search(name) or (trained and ".partial" in name))]
    return f"leaves {', '.join(left)}" if left else ""
