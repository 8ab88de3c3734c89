"""`stealguard compare`."""

from __future__ import annotations

import sys
from pathlib import Path

from stealguard.cli.options import Json
from stealguard.cli.printing import exit_if_failed, print_rows


def compare(
    grid: Path,
    *,
    out: Path = Path("runs/compare"),
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    gpus: int | None = None,
    address: str | None = None,
    device: str | None = None,
    allow_code: bool = False,
    json_: Json = False,
) -> None:
    """Train and attack everything in a grid that is not done yet; exit status 1 if some of it failed.

    Parameters
    ----------
    grid
        A YAML file: data, nets, outliers, defenses, attacks, pools, labels, treatments, own, budgets, seeds, clone, ...
    out
        Where releases, rows and the page go; several grids may share it.
    engine
        Where the work is done: local (processes of this machine), ray or slurm.
    workers
        How many cells at once.
    threads
        Processor threads of each.
    gpus
        GPUs of each. Local workers take one in turn, if there are any; ray and slurm give as many as you ask for.
    address
        The Ray cluster to join (auto, HOST:PORT), or submitit's cluster (slurm, local, debug).
    device
        A torch device; a GPU if there is one.
    allow_code
        Import what the grid names as module:Class or module:callable. This runs that code: allow it only for grids
        that you trust. Without this option such a grid is refused.
    json_
        Print the rows as JSON lines.
    """
    from stealguard.comparing import compare as run
    from stealguard.report import write_html

    rows = run(
        grid, out, engine=engine, workers=workers, threads=threads, gpus=gpus, address=address, device=device,
        allow_code=allow_code,
    )  # fmt: skip
    print_rows(rows, as_json=json_)
    page = out / "report.html"
    write_html(rows, page, title=f"Grid {grid.stem}", command=" ".join(["stealguard", *sys.argv[1:]]))
    print(f"wrote {page}", file=sys.stderr)
    exit_if_failed(rows)
