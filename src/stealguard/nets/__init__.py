"""Networks: by name, with their normalization inside, so that every one takes [0, 1]; and the user's own."""

from __future__ import annotations

from stealguard.nets.building import NETS, Normalized, Statistic, build, check_name, is_users, of_user
from stealguard.nets.copying import copied
from stealguard.nets.fresh import reinitialized, seed_from, sibling
from stealguard.nets.probing import Adapted, adapted, check
from stealguard.nets.state import restore, state_of
from stealguard.nets.structure import structure
from stealguard.nets.weights import Weights, give, read_weights

__all__ = [
    "NETS",
    "Adapted",
    "Normalized",
    "Statistic",
    "Weights",
    "adapted",
    "build",
    "check",
    "check_name",
    "copied",
    "give",
    "is_users",
    "of_user",
    "read_weights",
    "reinitialized",
    "restore",
    "seed_from",
    "sibling",
    "state_of",
    "structure",
]
