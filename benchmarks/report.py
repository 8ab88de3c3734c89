"""The page of ten thousand stored rows: how long it takes, and how large it is."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.measure import interleaved
from tests.report.made_up import grid

from stealguard.report import write_html
from stealguard.results import Store, read


def report(rounds: int) -> None:
    """Seconds from a store of ten thousand rows to a page, of a grid of 29 settings and one of 53."""
    pools = [("knockoff", f"pool{number}", 20_000) for number in range(100)]
    grids = {
        "29 settings, 3 victims, 3 clones": grid(data=["mnist"], finer=2, victims=3, seeds=3, ways=pools[:21]),
        "53 settings, 1 victim, 1 clone": grid(data=["mnist"], finer=4, victims=1, seeds=1, ways=pools),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in grids.items():
            store, page = Path(folder, f"{name}.sqlite"), Path(folder, "page.html")
            Store(store).put(*rows)
            times = interleaved({"page": lambda store=store, page=page: write_html(read(store), page)}, rounds)["page"]
            print(f"{name:36}  {len(rows):,} rows, seconds {statistics.median(times):5.2f}  "
                  f"({min(times):.2f} - {max(times):.2f}), {page.stat().st_size / 1e6:.2f} MB")  # fmt: skip
