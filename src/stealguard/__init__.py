"""Protect classifiers against model stealing, and audit them. Importing this loads no torch.

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

__version__ = "0.2.0"

if TYPE_CHECKING:
    from stealguard import attacks, boxes, combine, data, defenses, losses, nets, report, surrogate
    from stealguard.attacks.base import Attack
    from stealguard.auditing import Given, Remote, Victim, audit
    from stealguard.comparing import compare
    from stealguard.defenses.base import Defense
    from stealguard.defenses.ini import InI
    from stealguard.errors import StealguardError
    from stealguard.releases import PRESETS, Release, guarded, load, protect
    from stealguard.results import Rows, metrics
    from stealguard.training import Training, fit
    from stealguard.types import BlackBox

__all__ = [
    "PRESETS",
    "Attack",
    "BlackBox",
    "Defense",
    "Given",
    "InI",
    "Release",
    "Remote",
    "Rows",
    "StealguardError",
    "Training",
    "Victim",
    "__version__",
    "attacks",
    "audit",
    "boxes",
    "combine",
    "compare",
    "data",
    "defenses",
    "fit",
    "guarded",
    "load",
    "losses",
    "metrics",
    "nets",
    "protect",
    "report",
    "surrogate",
]

_HOMES = {
    "PRESETS": "releases",
    "Attack": "attacks.base",
    "BlackBox": "types",
    "Defense": "defenses.base",
    "Given": "auditing",
    "InI": "defenses.ini",
    "Release": "releases",
    "Remote": "auditing",
    "Rows": "results",
    "StealguardError": "errors",
    "Training": "training",
    "Victim": "auditing",
    "audit": "auditing",
    "compare": "comparing",
    "fit": "training",
    "guarded": "releases",
    "load": "releases",
    "protect": "releases",
}
# Modules that are public names themselves. No module is named like a public function: importing such a module would
# put itself in the function's place.
_MODULES = {name: name for name in __all__ if name not in (*_HOMES, "__version__")} | {"metrics": "results.metrics"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"stealguard.{_MODULES[name]}")
    if name in _HOMES:
        return getattr(import_module(f"stealguard.{_HOMES[name]}"), name)
    raise AttributeError(f"module `stealguard` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
