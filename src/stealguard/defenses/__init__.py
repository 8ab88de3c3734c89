"""Every defense by its name. A defense is a frozen dataclass; its fields are its settings."""

from __future__ import annotations

from stealguard.defenses.adaptive_misinformation import AdaptiveMisinformation
from stealguard.defenses.cip import CIP
from stealguard.defenses.edm import EDM
from stealguard.defenses.hoda import HODA
from stealguard.defenses.ini import InI
from stealguard.defenses.misleader import Misleader
from stealguard.defenses.nasty_teacher import NastyTeacher
from stealguard.defenses.prada import PRADA
from stealguard.types import Defense

__all__ = ["CIP", "DEFENSES", "EDM", "HODA", "PRADA", "AdaptiveMisinformation", "InI", "Misleader", "NastyTeacher"]

DEFENSES: dict[str, type[Defense]] = {
    "none": Defense,
    "ini": InI,
    "adaptive-misinformation": AdaptiveMisinformation,
    "edm": EDM,
    "nasty-teacher": NastyTeacher,
    "misleader": Misleader,
    "cip": CIP,
    "prada": PRADA,
    "hoda": HODA,
}
