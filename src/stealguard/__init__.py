"""Classifiers that give a model thief little to learn: protect, audit, serve. Importing this loads no torch.

```python
import stealguard as sg

release = sg.protect("lenet5", data="mnist", outliers=["cifar10-gray"], defense=sg.InI(), out="runs/ini")
rows = sg.audit("runs/ini", attacks=[sg.attacks.Knockoff(budget=20_000)], pools=["letters"])
box = sg.load("runs/ini").box
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stealguard import attacks, boxes, combine, data, defenses, losses, metrics, nets, report, surrogate
    from stealguard.auditing import audit
    from stealguard.comparing import compare
    from stealguard.defenses.ini import InI
    from stealguard.errors import StealguardError
    from stealguard.presets import PRESETS
    from stealguard.protection import guarded, protect
    from stealguard.release import Release, load
    from stealguard.training import Training, fit
    from stealguard.types import Attack, BlackBox, Defense

_HOMES = {
    "protect": "protection",
    "guarded": "protection",
    "audit": "auditing",
    "compare": "comparing",
    "load": "release",
    "Release": "release",
    "InI": "defenses.ini",
    "Defense": "types",
    "Attack": "types",
    "BlackBox": "types",
    "Training": "training",
    "fit": "training",
    "PRESETS": "presets",
    "StealguardError": "errors",
}
# No module is named like a public function: importing the module would put itself in the function's place.
_ROOMS = ("attacks", "boxes", "combine", "data", "defenses", "losses", "metrics", "nets", "report", "surrogate")

__all__ = ["__version__", *_HOMES, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"stealguard.{name}")
    if name in _HOMES:
        return getattr(import_module(f"stealguard.{_HOMES[name]}"), name)
    raise AttributeError(f"module `stealguard` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
