"""The names of `stealguard.training.losses`, under the path that they had in version 0.1.0."""

from stealguard.errors import deprecated
from stealguard.training.losses import center, induction, inner, kl, mean_abs, norm, task_loss

__all__ = ["center", "induction", "inner", "kl", "mean_abs", "norm", "task_loss"]

deprecated("stealguard.losses", "stealguard.training.losses", "0.4")
