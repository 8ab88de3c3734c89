"""Every attack by its name. An attack is a frozen dataclass; its fields are its settings."""

from __future__ import annotations

from stealguard.attacks.active import ActiveThief
from stealguard.attacks.adaptive import AdaptiveKnockoff
from stealguard.attacks.base import Attack
from stealguard.attacks.copycat import CopycatCNN
from stealguard.attacks.cover import Cover
from stealguard.attacks.data_free.dfme import DFME
from stealguard.attacks.data_free.dfms import DFMSHL
from stealguard.attacks.data_free.disguide import DisGUIDE
from stealguard.attacks.data_free.maze import MAZE
from stealguard.attacks.dissector import BlackboxDissector
from stealguard.attacks.explore import Explore
from stealguard.attacks.filter import Filter
from stealguard.attacks.jacobian import JBDA, JBDATR
from stealguard.attacks.knockoff import Knockoff
from stealguard.attacks.marich import MARICH
from stealguard.attacks.own_form import OwnForm
from stealguard.attacks.refusals import Refusals
from stealguard.attacks.sieve import Sieve
from stealguard.attacks.unmask import Unmask
from stealguard.registry import Registry

__all__ = [
    "ATTACKS",
    "DFME",
    "DFMSHL",
    "JBDA",
    "JBDATR",
    "MARICH",
    "MAZE",
    "ActiveThief",
    "AdaptiveKnockoff",
    "BlackboxDissector",
    "CopycatCNN",
    "Cover",
    "DisGUIDE",
    "Explore",
    "Filter",
    "Knockoff",
    "OwnForm",
    "Refusals",
    "Sieve",
    "Unmask",
]

ATTACKS: Registry[Attack] = Registry(
    "attack",
    needs=("budget", "needed", "__call__"),
    built_in={
        "knockoff": Knockoff,
        "knockoff-adaptive": AdaptiveKnockoff,
        "copycat": CopycatCNN,
        "sieve": Sieve,
        "filter": Filter,
        "unmask": Unmask,
        "explore": Explore,
        "own-form": OwnForm,
        "cover": Cover,
        "refusals": Refusals,
        "active-thief": ActiveThief,
        "marich": MARICH,
        "dissector": BlackboxDissector,
        "jbda": JBDA,
        "jbda-tr": JBDATR,
        "dfme": DFME,
        "maze": MAZE,
        "disguide": DisGUIDE,
        "dfms-hl": DFMSHL,
    },
)
