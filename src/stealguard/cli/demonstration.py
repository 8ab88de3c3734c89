"""The demonstration: an undefended LeNet-5 beside a defended one on MNIST, both audited, one page."""

from __future__ import annotations

from pathlib import Path

from stealguard import report
from stealguard.attacks import Knockoff
from stealguard.auditing.run import audit
from stealguard.errors import require
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
    command = f"stealguard demo --out {out} --epochs {epochs}"
    report.write_html(rows, page, title="LeNet-5 on MNIST, with and without robust InI", command=command)
    return page


def _release(folder: Path, *, defense: str, epochs: int) -> Release:
    if not folder.exists():
        return protect("lenet5", DATA, out=folder, defense=defense, epochs=epochs, resume=True)
    found = load(folder)
    trained = found.recipe["training"]["epochs"]
    require(trained == epochs, "epochs", f"{trained}, as `{folder}` was trained (or name another `out`)", epochs)
    return found
