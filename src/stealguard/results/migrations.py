"""Older forms of rows, and how they become the present one. Importing this loads no torch.

Formats are numbered alike in stores (SQLite's `user_version`) and in JSON lines (`"format"`). Up to format 2 a row was
flat, and its JSON did not say its format; from format 3 on the victim's facts and the metrics stand apart. A new format
needs one function in `STEPS`, and one in `stealguard.results.tables.READERS` that reads the records of the old store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stealguard.errors import require

FORMAT = 3
FLAT = 2


def upgraded(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row's JSON data of any format so far -> of the present one. Raises `Invalid` for a newer format."""
    number = record.get("format", FLAT)
    known = isinstance(number, int) and not isinstance(number, bool) and number >= FLAT
    require(known, "format", "the number of a row format", repr(number))
    require(number <= FORMAT, "format", f"at most {FORMAT}, the newest that this version of stealguard reads", number)
    for step in range(number, FORMAT):
        record = STEPS[step](record)
    return record


RENAMED = {"thief": "clone", "own_family": "in_family", "answers": "treatment"}

OF_VICTIM = {
    "release": "name", "release_hash": "key", "setting": "setting", "victim_seed": "seed", "data": "data",
    "net": "net", "defense": "defense", "defense_settings": "defense_settings",
}  # fmt: skip
VICTIM_METRICS = (
    "benign_accuracy", "top_1_kept", "distortion", "calibration_error", "ms_1", "ms_64", "plain_ms_1", "plain_ms_64",
    "protect_seconds",
)  # fmt: skip
THEFT_METRICS = ("clone_accuracy", "agreement", "no_theft")

TEN = ("mnist", "fashion-mnist", "kmnist", "cifar10", "cifar10-gray", "svhn")
CLASSES = dict.fromkeys(TEN, 10) | {"emnist-letters": 26, "cifar100": 100, "tiny-imagenet": 200}
"""Classes of the sets that had a name in format 2, whose rows do not say it."""


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Format 2 -> 3: the victim's columns and the metrics move into objects of their own; what is None is left out."""
    flat = {RENAMED.get(name, name): value for name, value in flat.items()}
    data = flat.get("data")
    victim = {new: flat.pop(old) for old, new in OF_VICTIM.items() if old in flat}
    victim["classes"] = CLASSES.get(data) if isinstance(data, str) else None
    victim["metrics"] = _taken(flat, VICTIM_METRICS)
    metrics = _taken(flat, THEFT_METRICS)
    return {**flat, "format": 3, "victim": victim, "metrics": metrics}


def _taken(flat: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: flat.pop(name) for name in names if name in flat}
    return {name: value for name, value in found.items() if value is not None}


STEPS: dict[int, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {2: nested}
