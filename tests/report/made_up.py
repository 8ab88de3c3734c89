"""Made-up audit rows, for the tests of rows and of reports."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from stealguard.results import Row, VictimFacts, key_of
from stealguard.results.migrations import CLASSES, THEFT_METRICS, VICTIM_METRICS

REACHED = {  # clone accuracy of seed 0
    ("undefended", "cifar10-gray", "soft"): 0.968,
    ("undefended", "cifar10-gray", "hard"): 0.932,
    ("undefended", "letters", "soft"): 0.977,
    ("undefended", "letters", "hard"): 0.956,
    ("ini", "cifar10-gray", "soft"): 0.101,
    ("ini", "cifar10-gray", "hard"): 0.181,
    ("ini", "letters", "soft"): 0.925,
    ("ini", "letters", "hard"): 0.874,
}
RELEASES = {
    "undefended": {"release_hash": "cd" * 32, "defense": "none", "defense_settings": "{}", "benign_accuracy": 0.989},
    "ini": {"release_hash": "ab" * 32, "benign_accuracy": 0.963},
}
UNMEASURED = {"benign_accuracy": None}


OF_VICTIM = {"release": "name", "release_hash": "key", "victim_seed": "seed"}  # what the tests say, and the field
OF_VICTIM |= {f.name: f.name for f in fields(VictimFacts) if f.name not in ("name", "key", "seed", "metrics")}
MEASURED = dict.fromkeys(VICTIM_METRICS, "victim") | dict.fromkeys(THEFT_METRICS, "theft")
MEASURED["test_inputs"] = "victim"


def make_row(**changes: Any) -> Row:
    """A sound row; what is not given is made up, and the key follows from the rest unless it is given.

    Facts of the victim and metrics are given side by side with the row's own fields; a metric that is None is left out.
    """
    values: dict[str, Any] = {
        "release": "ini",
        "release_hash": "9f" * 32,
        "data": "mnist",
        "net": "lenet5",
        "defense": "ini",
        "defense_settings": '{"gamma": 0.3}',
        "classes": CLASSES.get(changes.get("data", "mnist")),
        "attack": "knockoff",
        "attack_settings": '{"budget": 20000, "training": {"epochs": 8, "lr": 0.05}}',
        "pool": "letters",
        "pool_hash": "1c" * 32,
        "in_family": False,
        "labels": "soft",
        "own": 0,
        "budget": 20_000,
        "queries": 20_000,
        "seed": 0,
        "clone": "lenet5",
        "benign_accuracy": 0.975,
        "clone_accuracy": 0.925,
        "agreement": 0.93,
        "seconds": 31.5,
        "status": "ok",
        "reason": "",
        "when": "2026-01-02T03:04:05Z",
        "version": "0.1.0",
        "torch": "2.13.0",
        "python": "3.12.1",
        "hardware": "2 x CPU",
        "threads": 2,
    } | changes
    made = key_of(made=repr(values))
    victim = {field: values.pop(name) for name, field in OF_VICTIM.items() if name in values}
    given = values.pop("metrics", {})
    measured: dict[str, dict[str, Any]] = {"victim": {}, "theft": {}}
    for name, owner in MEASURED.items():
        if (value := values.pop(name, None)) is not None:
            measured[owner][name] = value
    facts = VictimFacts(**victim, metrics=measured["victim"])
    return Row(**{"key": made} | values, victim=facts, metrics=measured["theft"] | given)


def changed(row: Row, **metrics: float) -> Row:
    """The row with other metrics of the theft."""
    return replace(row, metrics={**row.metrics, **metrics})


def failed_row(**changes: Any) -> Row:
    nothing = {"benign_accuracy": None, "clone_accuracy": None, "agreement": None, "queries": 0}
    return make_row(**nothing | {"status": "failed", "reason": "out of memory"} | changes)


def undefended_row(**changes: Any) -> Row:
    return make_row(**{"release": "plain", "defense": "none", "release_hash": "0" * 64} | changes)


def audited(seeds: int = 1) -> list[Row]:
    """Two releases, two pools, two label modes: a defense that holds on its own family alone."""
    rows = []
    for (release, pool, labels), reached in REACHED.items():
        own = pool == "cifar10-gray" and release == "ini"
        for seed in range(seeds):
            clone = reached + (0, 0.007, -0.004)[seed]
            part = "9d" * 32 if own else "1c" * 32  # what is held out of the family, or all of it
            changes = RELEASES[release] | {"pool": pool, "pool_hash": part, "in_family": own, "labels": labels}
            rows.append(make_row(release=release, seed=seed, clone_accuracy=clone, agreement=clone + 0.004, **changes))
    return rows


SWEPT = {  # defense: its settings, benign accuracy and how well it protects, from 0 to 1
    "none": [({}, 0.989, 0.0)],
    "ini": [({"gamma": 0.3, "delta": 1.0}, 0.984, 0.25), ({"gamma": 0.0, "delta": 1.0}, 0.986, 0.08)],
    "reverse-sigmoid": [({"beta": beta}, 0.988 - beta / 50, beta / 2) for beta in (0.2, 0.5, 0.8, 1.1)],
    "mad": [({"epsilon": epsilon}, 0.989 - epsilon / 40, epsilon / 2.5) for epsilon in (0.1, 0.5, 1.0, 1.5)],
    "adaptive-misinformation": [({"tau": tau}, 0.99 - tau / 8, 0.75 * tau) for tau in (0.3, 0.6, 0.9)],
}
WAYS = [
    *(("knockoff", pool, budget) for pool in ("letters", "svhn-gray") for budget in (1_000, 20_000)),
    *(("jbda", "own:150", budget) for budget in (1_000, 20_000)),
]


def grid(
    data: Sequence[str] = ("mnist", "fashion-mnist"), finer: int = 1, victims: int = 3, seeds: int = 2,
    ways: Sequence[tuple[str, str, int]] = WAYS,
) -> list[Row]:  # fmt: skip
    """Rows as a grid leaves them: every defense and setting, `finer` times as many, on every set and way to steal."""
    draw = random.Random(0)
    settings = [
        (name, chosen | ({"step": step} if step and name != "none" else {}), benign - step / 400, protects)
        for name, found in SWEPT.items() for chosen, benign, protects in found
        for step in range(finer if name != "none" else 1)
    ]  # fmt: skip
    cells = itertools.product(data, settings, range(victims), ways, ("soft", "hard"), range(seeds))
    luck = {
        (name, json.dumps(chosen), one): draw.gauss(0, 0.012) for name, chosen, *_ in settings for one in range(victims)
    }
    return [
        _grid_row(task, name, chosen, benign + luck[name, json.dumps(chosen), victim] / 4 - 0.1 * (task != "mnist"),
                  protects - luck[name, json.dumps(chosen), victim], victim, way, labels, seed, draw)
        for task, (name, chosen, benign, protects), victim, way, labels, seed in cells
    ]  # fmt: skip


def _grid_row(
    task: str, name: str, chosen: dict[str, float], benign: float, protects: float, victim: int,
    way: tuple[str, str, int], labels: str, seed: int, draw: random.Random,
) -> Row:  # fmt: skip
    attack, pool, budget = way
    reached = (0.95 if labels == "soft" else 0.9) * (1 - protects * (0.9 if labels == "soft" else 0.6))
    reached = max(0.08, min(1.0, reached * (0.8 if attack == "jbda" else 1) * (0.7 if budget < 5_000 else 1)))
    setting = key_of(task=task, name=name, settings=chosen)
    slow = {"mad": 2.4, "adaptive-misinformation": 1.9, "reverse-sigmoid": 1.05}.get(name, 1.0)
    return make_row(
        key=key_of(setting=setting, victim=victim, way=way, labels=labels, seed=seed),
        release=f"{name}-{setting[:6]}-{victim}", release_hash=key_of(setting=setting, victim=victim), data=task,
        defense=name, defense_settings=json.dumps(chosen), attack=attack, pool=pool, budget=budget, queries=budget,
        attack_settings=json.dumps({"budget": budget, "training": {"epochs": 8}}), labels=labels, seed=seed,
        benign_accuracy=benign, clone_accuracy=min(1, max(0, reached + draw.gauss(0, 0.01))), agreement=reached,
        setting=setting, victim_seed=victim, top_1_kept=1 - protects * protects / 20 if protects > 0 else 1.0,
        distortion=max(0.0, protects), calibration_error=0.01 + abs(protects) / 5,
        ms_1=0.5 * slow, ms_64=0.05 * slow**2,
        plain_ms_1=0.5, plain_ms_64=0.05, protect_seconds=30.0 * (7 if name == "ini" else 1) + victim,
    )  # fmt: skip


def plain(text: str) -> str:
    """Without the narrow space that keeps a number and its % together."""
    return text.replace("\u202f", " ")
