"""Slurm, through submitit, which is imported by those who ask for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stealguard.comparing.engines.base import MANY, PATIENCE, Ended, Wanted, Work
from stealguard.errors import StealguardError, one_line


class Slurm:
    """Slurm: a job for each piece of work, with its logs in the folder `slurm` of the comparison.

    A site's own options (partition, account, time) are given to sbatch by its variables, `SBATCH_PARTITION` and so on.
    `address` is submitit's word for where jobs go: `slurm`, or `local` and `debug`, which do without Slurm.
    """

    def __init__(self, work: Work, home: Path, wanted: Wanted):
        try:
            import submitit
        except ImportError as e:
            raise StealguardError(f"The engine `slurm` needs submitit: pip install 'stealguard[slurm]' ({e}).") from e
        self.workers, self.threads = wanted.workers or MANY, wanted.threads or 1
        gpus = {} if wanted.gpus is None else {"gpus_per_node": wanted.gpus}
        try:
            self._executor = submitit.AutoExecutor(home / "slurm", cluster=wanted.address or "slurm")
            self._executor.update_parameters(name="stealguard", cpus_per_task=self.threads, timeout_min=24 * 60, **gpus)
        except (RuntimeError, ValueError) as e:
            raise StealguardError(f"The engine `slurm` cannot be used: {one_line(e)}.") from e
        self._work = work
        self._running: dict[str, Any] = {}

    def start(self, key: str, /, *arguments: Any) -> None:
        self._running[key] = self._executor.submit(self._work, *arguments)

    def ended(self) -> Iterator[Ended]:
        done = {key: job for key, job in self._running.items() if job.done()}
        if not done:
            time.sleep(PATIENCE)
        for key, job in done.items():
            del self._running[key]
            error = job.exception()
            yield Ended(key, (str(error).splitlines() or [type(error).__name__])[0] if error else job.result())

    def close(self) -> None:
        for job in self._running.values():
            job.cancel()
