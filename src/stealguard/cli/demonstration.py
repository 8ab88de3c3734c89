"""The demonstration: an undefended LeNet-5 beside a defended one on MNIST, both audited, one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stealguard import report
from stealguard.attacks import Knockoff
from stealguard.auditing.run import audit
from stealguard.releases.protection import protect
from stealguard.releases.release import Release, load

DATA = "mnist"
BUDGETS = {"glyphs": 5_000, "letters": 20_000}  # a third of the defender's own glyphs is unseen; letters are unseen


def run(out: Path, epochs: int) -> Path:
    """Protect, audit and report into `out`, skipping what is already there; returns the page."""
    plain = _release(out / "undefended", defense="none", epochs=epochs)
    defended = _release(out / "robust", defense="ini-robust", epochs=epochs)
    rows = [
        row
        for release in (plain, defended)
        for pool, budget in BUDGETS.items()
        for row in audit(release, [Knockoff(budget=budget)], pools=[pool])
    ]
    print(report.render(rows, "table"))
    page = out / "report.html"
    report.write_html(rows, page, title="LeNet-5 on MNIST, with and without robust InI", command="stealguard demo")
    return page


def _release(folder: Path, **how: Any) -> Release:
    return load(folder) if folder.exists() else protect("lenet5", DATA, out=folder, resume=True, **how)
