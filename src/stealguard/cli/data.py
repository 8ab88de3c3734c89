"""`stealguard data`: fetch, list and verify sets."""

from __future__ import annotations

import json
from typing import Any

from cyclopts import App

from stealguard.cli.options import Json
from stealguard.cli.printing import print_table
from stealguard.errors import require

app = App(name="data", help="Fetch, list and verify data sets.")


@app.command(name="list")
def list_(*, json_: Json = False) -> None:
    """Every set, and whether the store has it."""
    from stealguard import data

    _print_states(data.listing(), json_)


@app.command
def get(names: list[str]) -> None:
    """Fetch or make sets, and keep them in the store.

    Parameters
    ----------
    names
        Which sets.
    """
    from stealguard import data
    from stealguard.errors import pick

    for name in names:
        pick(data.SETS, name, "data")
    for name in names:
        print(data.get(name))


@app.command
def verify(*, json_: Json = False) -> None:
    """Hash every stored set again; exit status 2 if one is damaged."""
    from stealguard import data

    found = data.verify()
    _print_states(found, json_)
    damaged = [state.name for state in found if not state.ok]
    require(not damaged, "store", "undamaged (delete the file and get the set again)", ", ".join(damaged))


def _print_states(states: list[Any], as_json: bool) -> None:
    from stealguard.data import SETS

    if as_json:
        print(json.dumps([{**state._asdict(), "path": str(state.path)} for state in states]))
    else:
        rows = [(state.name, SETS[state.name].about, state.state) for state in states]
        print_table(("set", "what it is", "state"), rows)
