"""The names of `stealguard.training.combine`, under the path that they had in version 0.1.0."""

from stealguard.errors import deprecated
from stealguard.training.combine import COMBINES, pcgrad, total, upgrad

__all__ = ["COMBINES", "pcgrad", "total", "upgrad"]

deprecated("stealguard.combine", "stealguard.training.combine", "0.4")
