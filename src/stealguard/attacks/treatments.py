"""What an attacker does with the answers before the clone learns from them.

A treatment takes a metered box and is one that counts the same. It works on the answers so far, chunk by chunk, so it
goes with every attack. A row of zeros is an answer that the attacker discards: cross-entropy learns nothing from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from stealguard.attacks.recovery import Map, Method, Resources, d_dae, p_bayes, recovery, shadow_answers
from stealguard.boxes.base import top_1
from stealguard.errors import Invalid, NotApplicable, pick
from stealguard.seeds import derive
from stealguard.training.augment import affine
from stealguard.types import Asked

_TINY = 1e-6  # below a float32 softmax's answer for a class that it rules out


class Treatment(ABC):
    """A rule from answers to answers; subclasses say which."""

    def __init__(self, box: Asked, resources: Resources | None = None):
        self._box = box

    @property
    def left(self) -> int:
        """How many inputs may still be answered."""
        return self._box.left

    def __call__(self, x: Tensor, /) -> Tensor:
        return self.treat(self._box(x))

    @abstractmethod
    def treat(self, answers: Tensor) -> Tensor:
        """Rows (N, K) on the simplex -> what the clone learns from, rows on the simplex or of zeros."""


class Sharpened(Treatment):
    """Each probability to the fourth power, renormalized: undoes smoothing."""

    def treat(self, answers: Tensor) -> Tensor:
        return F.normalize(answers.clamp_min(_TINY) ** 4, p=1, dim=1)


class Standardized(Treatment):
    """Softmax of the log-probabilities' z-scores, class by class: undoes what is the same for all inputs.

    Mean and deviation are those of all answers so far.
    """

    def __init__(self, box: Asked, resources: Resources | None = None):
        super().__init__(box, resources)
        self._count, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def treat(self, answers: Tensor) -> Tensor:
        logs = answers.clamp_min(_TINY).log().double()
        self._count += len(logs)
        self._sum = self._sum + logs.sum(dim=0)
        self._squares = self._squares + (logs**2).sum(dim=0)
        mean = self._sum / self._count
        deviation = (self._squares / self._count - mean**2).clamp_min(1e-12).sqrt()
        return (3 * (logs - mean) / deviation).softmax(dim=1).to(answers.dtype)


class Debiased(Treatment):
    """Each class divided by its share of the answers so far, renormalized: undoes a preferred class."""

    def __init__(self, box: Asked, resources: Resources | None = None):
        super().__init__(box, resources)
        self._prior = torch.zeros(())

    def treat(self, answers: Tensor) -> Tensor:
        self._prior = self._prior + answers.sum(dim=0)
        return F.normalize(answers / self._prior.clamp_min(1.0), p=1, dim=1)


class Confident(Treatment):
    """The more confident half of the answers so far; the others become rows of zeros."""

    def __init__(self, box: Asked, resources: Resources | None = None):
        super().__init__(box, resources)
        self._seen: list[Tensor] = []

    def treat(self, answers: Tensor) -> Tensor:
        confidence = answers.max(dim=1).values
        self._seen.append(confidence)
        return answers * (confidence >= torch.cat(self._seen).median())[:, None]


class Top(Treatment):
    """The most probable class alone."""

    def treat(self, answers: Tensor) -> Tensor:
        return top_1(answers)


class Smoothed:
    """The mean answer to an input and to slightly turned and shifted copies of it, each of which is a query."""

    copies = 4

    def __init__(self, box: Asked, resources: Resources | None = None):
        self._box = box

    @property
    def left(self) -> int:
        """How many inputs may still be answered."""
        return self._box.left // self.copies

    def __call__(self, x: Tensor, /) -> Tensor:
        """
        Raises:
            NotApplicable: the inputs are not images.
        """
        if x.dim() != 4:
            raise NotApplicable("Smoothing turns and shifts images, and these inputs are not images.")
        asked = [x, *(affine(x, angle=0.1, scale=0.05, shift=0.05) for _ in range(self.copies - 1))]
        return torch.stack([self._box(part) for part in asked]).mean(dim=0)


class Recovered(Treatment):
    """The answers with a defense's perturbation undone, as far as `method` can infer it from them.

    Shadow models are trained at once, and asked instead of the box. Which perturbation is in place and how to undo it
    is learned once, from the attack's first answers, so no query is spent beyond the attack's own. For both methods,
    labels alone are a perturbation like others.

    Raises:
        Invalid: there are no resources.
        NotApplicable: the attacker's pool is too small to train shadow models on.
    """

    def __init__(self, box: Asked, resources: Resources | None = None, *, method: Method):
        super().__init__(box, resources)
        if resources is None:
            raise Invalid("resources", "given: recovery needs a pool and an architecture", None)
        self._method, self._seed, self._clean = method, resources.seed, shadow_answers(resources)
        self._undo: Map | None = None

    def treat(self, answers: Tensor) -> Tensor:
        kept = (answers > 0).any(dim=1)  # another treatment may have made zeros of some
        if not kept.any():
            return answers
        if self._undo is None:
            self._undo = recovery(self._method, self._clean, answers[kept], seed=derive(self._seed, "recovery"))
        return answers.index_put((kept,), self._undo(answers[kept]))


TREATMENTS: dict[str, Callable[[Asked, Resources | None], Asked]] = {
    "sharpen": Sharpened,
    "z-score": Standardized,
    "debias": Debiased,
    "confident": Confident,
    "top-1": Top,
    "smooth": Smoothed,
    "d-dae": partial(Recovered, method=d_dae),
    "p-bayes": partial(Recovered, method=p_bayes),
}


def treated(box: Asked, names: Sequence[str], resources: Resources | None = None) -> Asked:
    """`box` with the treatments of these names, the first one nearest to the answers.

    Args:
        resources: what the attacker has beside the box, for the treatments that need it.

    Raises:
        Invalid: there is no treatment of a name.
    """
    for name in names:
        box = pick(TREATMENTS, name, "treatments")(box, resources)
    return box
