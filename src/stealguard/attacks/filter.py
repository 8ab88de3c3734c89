"""Filter: keep the answers that the net gave itself, by a property that decoys lack, and train on these alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from stealguard.attacks.base import QueryPool
from stealguard.attacks.selectors import Honest, SelectingAttack, chosen
from stealguard.attacks.transfer import lengthened, random_queries, soft_queries
from stealguard.seeds import derive
from stealguard.training.loop import Training, fit
from stealguard.types import Asked


@dataclass(frozen=True)
class Filter(SelectingAttack):
    """KnockoffNets on those answers that a selector takes for the net's own; on all answers if it selects none.

    The attacker has read the defense's code. `minimum`: a decoy with a uniform share `doubt` has no probability below
    doubt / K, and a confident net has, so one comparison separates them. `residual`: decoys are linear in the input, so
    the family of linear decoys is fitted to all answers, and those of the greatest divergence from it are kept.

    Args:
        budget, selector, threshold, share, trim, doubt: see `SelectingAttack`.
        training: how the clone trains.
        least: the least number of optimizer steps: few answers pass.

    Raises:
        NotApplicable: the selector is `minimum`, and the first answers are labels alone, which are spent.
    """

    training: Training = field(default_factory=lambda: Training(epochs=60))
    least: int = 300

    def __call__(
        self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int, honest: Honest | None = None
    ) -> nn.Module:
        """Ask and train; `honest` replaces the selector by the truth, for upper bounds."""
        queries = soft_queries if self.selector == "minimum" and honest is None else random_queries
        transfer = queries(box, pool, self.budget, seed=seed)
        x, answers = transfer.x, transfer.answers
        kept = chosen(honest(x) if honest else self.selecting(x, answers)(x, answers))
        training = lengthened(self.training, int(kept.sum()), self.least)
        fit(clone, x[kept], answers[kept], training, seed=derive(seed, "clone"), progress=False)
        return clone
