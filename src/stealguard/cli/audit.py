"""`stealguard audit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stealguard.cli.options import Json, Many, Numbers, Settings, settings, use_threads
from stealguard.cli.printing import exit_if_failed, print_rows

if TYPE_CHECKING:
    from stealguard.results.row import Row


def audit(
    victim: str,
    *,
    suite: str | None = None,
    attack: str = "knockoff",
    budget: Numbers = None,
    set_: Settings = None,
    pools: Many = None,
    labels: Many = None,
    treatments: Many = None,
    own: Numbers = None,
    accounts: Numbers = None,
    accounts_to_reach: float | None = None,
    seeds: Numbers = None,
    clone: str | None = None,
    data: str | None = None,
    net: str | None = None,
    defense: str | None = None,
    resize: bool = False,
    store: Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    json_: Json = False,
) -> None:
    """Steal a model in every way that is asked for, and measure each clone; exit status 1 if some of it failed.

    Parameters
    ----------
    victim
        What is attacked: a release folder, module:callable of your own, or an ONNX file.
    suite
        Many attacks at once, by name (quick, adaptive, standard, full), instead of attack, budget, labels, treatments,
        own and accounts.
    attack
        What the attacker does: a name that `stealguard list attacks` shows, or module:Class of your own.
    budget
        How many answers the attacker may have; several for a curve.
    set_
        Settings of the attack, KEY=VALUE ... (training.epochs=50, for example).
    pools
        Sets that the attacker queries with, own:N (near N task samples), or nothing (for data-free attacks). Printed
        digits (the set digits) are what anyone can query who knows that the task is about digits.
    labels
        soft, hard or both.
    treatments
        What the attacker does with the answers before training on them: sharpen, z-score, debias, confident, smooth,
        top-1, d-dae, p-bayes; joined by + for one after the other.
    own
        How many labeled task samples the attacker has, to fine-tune the clone on.
    accounts
        Over how many accounts of the victim the budget is divided; several for a curve.
    accounts_to_reach
        Search the smallest number of accounts with which clone accuracy, in percent, is reached (80, for example).
    seeds
        One clone for each.
    clone
        The clone's architecture, a name or module:callable; the victim's own unless told otherwise.
    data
        The task, where the victim does not name it.
    net
        The module:callable of the protected network, where it is your own.
    defense
        The module:Class of the release's defense, where it is your own.
    resize
        Fit pools of another shape to the victim's inputs.
    store
        The SQLite file for the rows; audit.sqlite in the release folder unless told otherwise.
    device
        A torch device; a GPU if there is one.
    threads
        Processor threads.
    json_
        Print the rows as JSON lines.
    """
    from stealguard.attacks import ATTACKS
    from stealguard.auditing import audit as run
    from stealguard.errors import require
    from stealguard.settings import create

    use_threads(threads)
    attacks = suite or [create(ATTACKS, attack, settings(set_, "set"), "attack")]
    given: dict[str, Any] = {
        "attacks": attacks, "pools": pools, "labels": labels or ["soft", "hard"], "budgets": budget or [],
        "treatments": treatments or [""], "own": own or [0], "seeds": seeds or [0], "clone": clone, "data": data,
        "net": net, "defense": defense, "resize": resize, "store": store, "device": device,
    }  # fmt: skip
    if accounts_to_reach is None:
        rows = run(victim, accounts=accounts or [1], **given)
    else:
        require(accounts is None, "accounts", "left out where their number is searched for", accounts)
        rows = _searched(victim, accounts_to_reach, given)
    print_rows(rows, as_json=json_)
    exit_if_failed(rows)


def _searched(victim: str, percent: float, given: dict[str, Any]) -> list[Row]:
    """The rows of a search for the number of accounts, each told when it is known, and the number at the end."""
    from stealguard.auditing import accounts_to_reach
    from stealguard.auditing.accounts import tell

    rows: list[Row] = []

    def show(row: Row) -> None:
        rows.append(row)
        tell(row)

    found = accounts_to_reach(victim, percent / 100, show=show, **given)
    number = "more than were tried" if found is None else f"{found:,}, the smallest number tried"
    print(f"accounts needed for {percent:g} %: {number}", file=sys.stderr)
    return rows
