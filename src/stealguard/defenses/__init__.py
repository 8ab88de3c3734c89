"""Every defense by its name, and what a defense of one's own is made of.

A defense is a frozen dataclass; its fields are its settings.
"""

from __future__ import annotations

from stealguard.defenses.adaptive_misinformation import AdaptiveMisinformation
from stealguard.defenses.base import Cost, Defended, Defense, Plain, Rule
from stealguard.defenses.cip import CIP
from stealguard.defenses.d_add import DADD
from stealguard.defenses.detection import Detector
from stealguard.defenses.edm import EDM
from stealguard.defenses.grad2 import GRAD2
from stealguard.defenses.hoda import HODA
from stealguard.defenses.ini import InI, RobustInI
from stealguard.defenses.mad import MAD
from stealguard.defenses.memguard import MemGuard
from stealguard.defenses.misleader import Misleader
from stealguard.defenses.modelguard import ModelGuardS, ModelGuardW
from stealguard.defenses.nasty_teacher import NastyTeacher
from stealguard.defenses.prada import PRADA
from stealguard.defenses.reverse_sigmoid import DCP, ReverseSigmoid
from stealguard.defenses.truncation import Rounding, TopK
from stealguard.registry import Registry

__all__ = [
    "CIP",
    "DADD",
    "DCP",
    "DEFENSES",
    "EDM",
    "GRAD2",
    "HODA",
    "MAD",
    "PRADA",
    "AdaptiveMisinformation",
    "Cost",
    "Defended",
    "Defense",
    "Detector",
    "InI",
    "MemGuard",
    "Misleader",
    "ModelGuardS",
    "ModelGuardW",
    "NastyTeacher",
    "Plain",
    "ReverseSigmoid",
    "RobustInI",
    "Rounding",
    "Rule",
    "TopK",
]

DEFENSES: Registry[Defense] = Registry(
    "defense",
    base=Defense,
    built_in={
        "none": Defense,
        "ini": InI,
        "ini-robust": RobustInI,
        "top-k": TopK,
        "rounding": Rounding,
        "reverse-sigmoid": ReverseSigmoid,
        "dcp": DCP,
        "mad": MAD,
        "grad2": GRAD2,
        "modelguard-w": ModelGuardW,
        "modelguard-s": ModelGuardS,
        "adaptive-misinformation": AdaptiveMisinformation,
        "edm": EDM,
        "nasty-teacher": NastyTeacher,
        "misleader": Misleader,
        "cip": CIP,
        "memguard": MemGuard,
        "prada": PRADA,
        "hoda": HODA,
        "d-add": DADD,
    },
)
