"""Unmask: decoys that leave out the net's own class give that class away, on nearly every query."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stealguard.attacks.base import PoolAttack, QueryPool
from stealguard.attacks.decoy_family import fitted, without_each, without_floor
from stealguard.attacks.transfer import soft_queries
from stealguard.boxes.base import logits
from stealguard.errors import require
from stealguard.seeds import derive
from stealguard.training.loop import Training, fit
from stealguard.types import Asked, Batch


@dataclass(frozen=True)
class Unmask(PoolAttack):
    """Train on the class that each decoy leaves out, or that it has more of than a decoy should.

    The attacker has read the code: a decoy is (1 - doubt) softmax(d without the net's class) + doubt / K, with d linear
    in the input, plus what is left of the net's own answer. With the uniform share removed, d is fitted to the decoys,
    each without the class that it seems to leave out. Then each class in turn is left out of an answer and of the
    fit; the rest agrees best without the net's own class, so its likelihood is exp(-KL / t), with t the usual KL of
    the best class. Classes that d rarely answers cannot be told apart, so the clone learns the sum of the candidates:
    -log sum_c w_c q_c(x), w_c the likelihoods. Answers with a probability below `threshold` are the net's own.

    Args:
        budget: queries, at least 1; the pool must hold as many inputs.
        threshold: the probability that the smallest entry of one of the net's own answers is below, in [0, 1).
        trim: the share of answers that is dropped when decoys are fitted, in [0, 1).
        doubt: the share of a decoy that is uniform, in [0, 1), as the defense's code says; 0 if there is none.
        training: how the clone trains.

    Raises:
        NotApplicable: the first answers are labels alone, which are spent: a label hides what is missing.
    """

    threshold: float = 0.005
    trim: float = 0.15
    doubt: float = 0.1
    training: Training = field(default_factory=lambda: Training(epochs=24))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("threshold", "trim", "doubt"):
            require(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        transfer = soft_queries(box, pool, self.budget, seed=seed)
        rows = candidates(transfer.x, transfer.answers, self.threshold, self.trim, self.doubt)
        seed = derive(seed, "clone")
        fit(clone, transfer.x, rows, self.training, seed=seed, objective=_sum_of_candidates, progress=False)
        return clone


def candidates(x: Tensor, answers: Tensor, threshold: float, trim: float, doubt: float) -> Tensor:
    """Likelihoods, (N, K) in [0, 1], that each class is the net's own; rows of zeros where there is no answer."""
    own = (answers.amin(dim=1) < threshold) if doubt else torch.zeros(len(answers), dtype=torch.bool).to(x.device)
    if own.all():
        return answers
    family = fitted(x[~own], without_floor(answers[~own], doubt), trim=trim, masked=True, rounds=3)
    found = without_each(without_floor(answers, doubt), logits(family, x))
    best = found.amin(dim=1, keepdim=True)
    usual = best[~own].median().clamp_min(1e-5)
    likelihood = ((best - found) / usual).exp() * (answers.amax(dim=1, keepdim=True) > 0)
    return torch.where(own[:, None], answers, likelihood)


def _sum_of_candidates(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Mean of -log sum_c w_c q_c; a row without candidates has no gradient."""
    some = batch.y.sum(dim=1) > 0
    logs = model(batch.x).log_softmax(dim=1) + batch.y.clamp_min(1e-12).log()
    return {"candidates": -torch.where(some, logs.logsumexp(dim=1), 0).mean()}
