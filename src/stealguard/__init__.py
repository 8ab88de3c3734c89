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
    from stealguard import attacks, boxes, combine, data, defenses, losses, nets, report, surrogate
    from stealguard.attacks.base import Attack
    from stealguard.auditing import audit
    from stealguard.comparing import compare
    from stealguard.defenses.base import Defense
    from stealguard.defenses.ini import InI
    from stealguard.errors import StealguardError
    from stealguard.releases import PRESETS, Release, guarded, load, protect
    from stealguard.results import metrics
    from stealguard.training import Training, fit
    from stealguard.types import BlackBox

_HOMES = {
    "protect": "releases",
    "guarded": "releases",
    "load": "releases",
    "Release": "releases",
    "PRESETS": "releases",
    "audit": "auditing",
    "compare": "comparing",
    "InI": "defenses.ini",
    "Defense": "defenses.base",
    "Attack": "attacks.base",
    "BlackBox": "types",
    "Training": "training",
    "fit": "training",
    "StealguardError": "errors",
    "metrics": "results",
}
# No module is named like a public function: importing the module would put itself in the function's place.
_PACKAGES = ("attacks", "boxes", "combine", "data", "defenses", "losses", "nets", "report", "surrogate")

__all__ = ["__version__", *_HOMES, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"stealguard.{name}")
    if name in _HOMES:
        home = import_module(f"stealguard.{_HOMES[name]}")
        return import_module(f"{home.__name__}.{name}") if name == "metrics" else getattr(home, name)
    raise AttributeError(f"module `stealguard` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
