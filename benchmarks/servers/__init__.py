"""Servers: how benchmarks start ours, and those that it is compared with, each as its documentation has it written."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# ONNX Runtime reads it when it is imported. stealguard's `onnx_runtime` would load torch into the servers of others.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@contextmanager
def started(command: Sequence[str], folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process and the port of `stealguard serve`, started by this command, once it answers; then it is killed.

    What it says goes to the file `messages` in the folder.
    """
    messages, environment = folder / "messages", {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        messages.open("w") as file,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=environment) as process,
    ):
        try:
            while not (ready := re.search(r"ready: http://\S+:(\d+)", messages.read_text())):
                if process.poll() is not None:
                    raise SystemExit(f"The server does not start:\n{messages.read_text()}")
                time.sleep(0.05)
            yield process, int(ready[1])
        finally:
            process.kill()
