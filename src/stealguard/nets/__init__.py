"""Networks: by name, with their normalization inside, so that every one takes [0, 1]; and the user's own."""

from __future__ import annotations

from stealguard.nets.building import NETS, Normalized, build, check_name, of_user
from stealguard.nets.copying import copied
from stealguard.nets.fresh import reinitialized, seed_from, sibling
from stealguard.nets.probing import Adapted, adapted, check
from stealguard.nets.state import restore, state_of
from stealguard.nets.structure import structure

__all__ = [
    "NETS",
    "Adapted",
    "Normalized",
    "adapted",
    "build",
    "check",
    "check_name",
    "copied",
    "of_user",
    "reinitialized",
    "restore",
    "seed_from",
    "sibling",
    "state_of",
    "structure",
]
