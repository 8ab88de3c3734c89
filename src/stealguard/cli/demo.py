"""`stealguard demo`."""

from __future__ import annotations

from pathlib import Path

from stealguard.cli.options import use_threads


def demo(*, out: Path = Path("runs/demo"), epochs: int = 16, threads: int | None = None) -> None:
    """Protect LeNet-5 on MNIST, steal it beside an undefended one, and write a page to open: takes a few minutes.

    Parameters
    ----------
    out
        Where releases and page go; what is already there is not done again.
    epochs
        Passes over the task data, for either net: half of the usual number, so that it takes minutes. As before, where
        the releases are there.
    threads
        Processor threads.
    """
    from stealguard.cli.demonstration import run
    from stealguard.files import real

    use_threads(threads)
    print(f"Open {real(run(out, epochs)).as_uri()}")
