"""What a thief does with the answers before learning from them: a metered box in, a box out that counts the same.

A treatment works on what has been answered so far, chunk by chunk, so it goes with every attack. A row of zeros is
an answer that the thief does not believe: cross-entropy learns nothing from it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from stealguard.attacks.recovery import Map, Means, Method, d_dae, p_bayes, recovery, shadow_answers
from stealguard.boxes.base import top_1
from stealguard.errors import Invalid, NotApplicable, pick
from stealguard.seeds import derive
from stealguard.training.augment import affine
from stealguard.types import Asked

TINY = 1e-6  # below what a float32 softmax answers for a class it rules out


class Treatment:
    """The answers as they come; subclasses change them."""

    def __init__(self, box: Asked, means: Means | None = None):
        self._box = box

    @property
    def left(self) -> int:
        """How many inputs may still be answered."""
        return self._box.left

    def __call__(self, x: Tensor, /) -> Tensor:
        return self.treat(self._box(x))

    @abstractmethod
    def treat(self, answers: Tensor) -> Tensor:
        """Rows (N, K) on the simplex -> what the thief learns from, rows on the simplex or of zeros."""


class Sharpened(Treatment):
    """Each probability to the fourth power, renormalized: undoes smoothing."""

    def treat(self, answers: Tensor) -> Tensor:
        return F.normalize(answers.clamp_min(TINY) ** 4, p=1, dim=1)


class Standardized(Treatment):
    """Softmax of the log-probabilities' z-scores, class by class: undoes whatever is the same for all inputs.

    Mean and deviation are those of all answers so far.
    """

    def __init__(self, box: Asked, means: Means | None = None):
        super().__init__(box, means)
        self._count, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def treat(self, answers: Tensor) -> Tensor:
        logs = answers.clamp_min(TINY).log().double()
        self._count += len(logs)
        self._sum = self._sum + logs.sum(dim=0)
        self._squares = self._squares + (logs**2).sum(dim=0)
        mean = self._sum / self._count
        deviation = (self._squares / self._count - mean**2).clamp_min(1e-12).sqrt()
        return (3 * (logs - mean) / deviation).softmax(dim=1).to(answers.dtype)


class Debiased(Treatment):
    """Each class divided by its share of the answers so far, renormalized: undoes a class that is said too often."""

    def __init__(self, box: Asked, means: Means | None = None):
        super().__init__(box, means)
        self._prior = torch.zeros(())

    def treat(self, answers: Tensor) -> Tensor:
        self._prior = self._prior + answers.sum(dim=0)
        return F.normalize(answers / self._prior.clamp_min(1.0), p=1, dim=1)


class Confident(Treatment):
    """Only the half of the answers that are surest, as far as can be told by then; the others become zeros."""

    def __init__(self, box: Asked, means: Means | None = None):
        super().__init__(box, means)
        self._seen: list[Tensor] = []

    def treat(self, answers: Tensor) -> Tensor:
        sure = answers.max(dim=1).values
        self._seen.append(sure)
        return answers * (sure >= torch.cat(self._seen).median())[:, None]


class Top(Treatment):
    """The most probable class alone."""

    def treat(self, answers: Tensor) -> Tensor:
        return top_1(answers)


class Smoothed(Treatment):
    """The mean answer to an input and to slightly turned and shifted copies of it, each of which is a query."""

    copies = 4

    @property
    def left(self) -> int:
        return self._box.left // self.copies

    def __call__(self, x: Tensor, /) -> Tensor:
        if x.dim() != 4:
            raise NotApplicable("smoothing turns and shifts images, and these inputs are none")
        asked = [x, *(affine(x, angle=0.1, scale=0.05, shift=0.05) for _ in range(self.copies - 1))]
        return torch.stack([self._box(part) for part in asked]).mean(dim=0)


class Recovered(Treatment):
    """The answers with a defense's perturbation undone, as far as `method` can tell from them.

    Shadow models are trained at once, and asked instead of the box; which perturbation it is and how to undo it is
    learned once, from the first answers that the attack pays for. So no query is spent beyond the attack's own.
    Labels alone are to both methods a perturbation like others.

    Raises:
        NotApplicable: the thief's pool is too small to train shadow models on.
    """

    def __init__(self, box: Asked, means: Means | None = None, *, method: Method):
        super().__init__(box, means)
        if means is None:
            raise Invalid("means", "given: recovery needs a pool and an architecture", None)
        self._method, self._seed, self._clean = method, means.seed, shadow_answers(means)
        self._undo: Map | None = None

    def treat(self, answers: Tensor) -> Tensor:
        told = (answers > 0).any(dim=1)  # another treatment may have made zeros of some
        if not told.any():
            return answers
        if self._undo is None:
            self._undo = recovery(self._method, self._clean, answers[told], seed=derive(self._seed, "recovery"))
        return answers.index_put((told,), self._undo(answers[told]))


TREATMENTS: dict[str, Callable[[Asked, Means | None], Asked]] = {
    "sharpen": Sharpened,
    "z-score": Standardized,
    "debias": Debiased,
    "confident": Confident,
    "top-1": Top,
    "smooth": Smoothed,
    "d-dae": partial(Recovered, method=d_dae),
    "p-bayes": partial(Recovered, method=p_bayes),
}


def treated(box: Asked, names: Sequence[str], means: Means | None = None) -> Asked:
    """`box` with the treatments of these names, the first one nearest to the answers.

    `means` is what the thief has beside the box, for those that need it.
    """
    for name in names:
        box = pick(TREATMENTS, name, "answers")(box, means)
    return box
