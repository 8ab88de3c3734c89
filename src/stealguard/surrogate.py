"""The names of `stealguard.defenses.surrogate`, under the path that they had in version 0.1.0."""

from stealguard.defenses.surrogate import READINGS, Linearization, Reading, isolation, magnitude, magnitude_at
from stealguard.errors import deprecated

__all__ = ["READINGS", "Linearization", "Reading", "isolation", "magnitude", "magnitude_at"]

deprecated("stealguard.surrogate", "stealguard.defenses.surrogate", "0.4")
