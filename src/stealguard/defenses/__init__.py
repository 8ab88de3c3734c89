"""Every defense by its name. A defense is a frozen dataclass; its fields are its settings."""

from __future__ import annotations

from stealguard.defenses.grad2 import GRAD2
from stealguard.defenses.ini import InI
from stealguard.defenses.mad import MAD
from stealguard.defenses.modelguard import ModelGuardS, ModelGuardW
from stealguard.defenses.reverse_sigmoid import DCP, ReverseSigmoid
from stealguard.defenses.truncation import Rounding, TopK
from stealguard.types import Defense

__all__ = [
    "DCP",
    "DEFENSES",
    "GRAD2",
    "MAD",
    "InI",
    "ModelGuardS",
    "ModelGuardW",
    "ReverseSigmoid",
    "Rounding",
    "TopK",
]

DEFENSES: dict[str, type[Defense]] = {
    "none": Defense,
    "ini": InI,
    "top-k": TopK,
    "rounding": Rounding,
    "reverse-sigmoid": ReverseSigmoid,
    "dcp": DCP,
    "mad": MAD,
    "grad2": GRAD2,
    "modelguard-w": ModelGuardW,
    "modelguard-s": ModelGuardS,
}
