"""`stealguard list`: every name that a command takes, with one line on each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Literal

from stealguard.cli.options import Json
from stealguard.cli.printing import print_table
from stealguard.registry import Registry

Kind = Literal["attacks", "defenses", "nets", "presets", "suites", "sets", "treatments"]


def list_(kind: Kind, /, *, json_: Json = False) -> None:
    """Every name of one kind, with one line on each; methods of installed packages are among them.

    Parameters
    ----------
    kind
        attacks, defenses, nets, presets, suites, sets or treatments.
    json_
        Print an object of names and lines as JSON.
    """
    lines = LISTINGS[kind]()
    if json_:
        print(json.dumps(lines))
    else:
        print_table((kind, "what it is"), list(lines.items()))


def about(thing: object) -> str:
    """The first sentence or line of what documents a class, a function or a partial call of one.

    >>> about(len)
    'Return the number of items in a container.'
    """
    while hasattr(thing, "func"):  # a partial call is told apart from others by the function that it hands over
        thing = next((value for value in thing.keywords.values() if callable(value)), thing.func)  # type: ignore[attr-defined]
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _methods(table: Registry[object], parameter: str) -> dict[str, str]:
    return {name: about(table.find(name, parameter)) for name in table.names}


def _attacks() -> dict[str, str]:
    from stealguard.attacks import ATTACKS

    return _methods(ATTACKS, "attack")  # type: ignore[arg-type]


def _defenses() -> dict[str, str]:
    """Each defense with what counters it: attacks, treatments of answers, labels alone, many accounts."""
    from stealguard.defenses import DEFENSES

    countered = {name: DEFENSES.find(name, "defense").countered_by for name in DEFENSES.names}
    lines = _methods(DEFENSES, "defense")  # type: ignore[arg-type]
    return {
        name: f"{line} [countered by: {', '.join(countered[name])}]" if countered[name] else line
        for name, line in lines.items()
    }


def _nets() -> dict[str, str]:
    from stealguard.nets import NETS

    return {name: about(net) for name, net in NETS.items()}


def _presets() -> dict[str, str]:
    """Each preset's defense, those of its settings that are not its defaults, and the epochs."""
    from stealguard.releases.presets import PRESETS

    lines = {}
    for name, (defense, training) in PRESETS.items():
        usual = asdict(type(defense)())
        changed = ", ".join(f"{key}={value}" for key, value in asdict(defense).items() if value != usual[key])
        parts = [about(type(defense)), changed and f"Here {changed}.", f"{training.epochs} epochs."]
        lines[name] = " ".join(filter(None, parts))
    return lines


def _suites() -> dict[str, str]:
    """Each suite with its attacks, of which some follow from the victim's defense."""
    from stealguard.attacks import ATTACKS
    from stealguard.auditing.suites import SUITES, Block
    from stealguard.settings import describe

    knowing = Block((), ())  # in the place of what counters a defense
    lines = {}
    for name, suite in SUITES.items():
        blocks = suite([""], lambda budget: [knowing])
        names = dict.fromkeys(describe(ATTACKS, attack)[0] for block in blocks for attack in block.attacks)
        counter = ["what counters the defense"] * (knowing in blocks)
        lines[name] = f"{about(suite)} [attacks: {', '.join([*names, *counter])}]"
    return lines


def _sets() -> dict[str, str]:
    from stealguard.data import SETS

    return {name: spec.about for name, spec in SETS.items()}


def _treatments() -> dict[str, str]:
    from stealguard.attacks.treatments import TREATMENTS

    return {name: about(treatment) for name, treatment in TREATMENTS.items()}


LISTINGS: dict[str, Callable[[], dict[str, str]]] = {
    "attacks": _attacks,
    "defenses": _defenses,
    "nets": _nets,
    "presets": _presets,
    "suites": _suites,
    "sets": _sets,
    "treatments": _treatments,
}
