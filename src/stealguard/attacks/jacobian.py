"""Jacobian-based augmentation: a few inputs of the task, and steps along the clone's own gradient to new ones."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from stealguard.attacks.base import QueryPool, check_budget
from stealguard.attacks.transfer import Transfer, lengthened
from stealguard.devices import device_of
from stealguard.errors import require
from stealguard.seeds import derive, seeded
from stealguard.training.loop import Training, fit
from stealguard.types import Asked

_INPUTS = 128  # differentiated at once: a net keeps every layer's output of each

Score = Literal["probability", "logit"]


def jacobian_step(clone: nn.Module, x: Tensor, labels: Tensor, step: float, score: Score = "probability") -> Tensor:
    """clip(x + step sgn dF_label/dx), in [0, 1]: Papernot et al. (2017), algorithm 1, for a whole batch at once.

    In evaluation mode the inputs of a batch are independent, so one backward pass of the sum of the gathered
    scores has all their gradients. A probability's gradient has the sign of its log-odds' gradient, which does not
    vanish where the clone is certain.

    Args:
        clone: from inputs to logits; it is put into evaluation mode.
        x: inputs (N, *shape).
        labels: classes (N,): those that the box gave, or targets.
        step: the change of every pixel; toward the label if positive, away from it if negative.
        score: whose gradient: the label's probability, or its logit.
    """
    clone.eval()
    device = device_of(clone)
    with torch.enable_grad():
        here = x.to(device).detach().requires_grad_()
        logits = clone(here)
        column = labels.to(device)[:, None]
        total = logits.gather(1, column).sum()
        if score == "probability":
            total = total - logits.scatter(1, column, -torch.inf).logsumexp(dim=1).sum()
        (gradient,) = torch.autograd.grad(total, here)
    return (x + step * gradient.sign().to(x.device)).clamp(0, 1)


@dataclass(frozen=True)
class JacobianAttack(ABC):
    """What the attacks of this family share: train on all answers, make new inputs of the old ones, ask, repeat.

    If the budget is not enough for a whole round, a random part of the inputs is augmented.

    Args:
        budget: queries, at least 1; the default is enough for six doublings of 150 seeds.
        seeds: the number of inputs that the attacker begins with, the pool's first rows; all if there are fewer.
        rounds: augmentations.
        step: how far each pixel moves, in [-1, 1].
        scratch: train from the first weights in each round, as public programs do, rather than go on.
        training: how the clone trains in each round.
        least: the least number of optimizer steps in a training: a few seeds need more epochs than thousands.
    """

    budget: int = 9_600
    seeds: int = 150
    rounds: int = 6
    step: float = 0.1
    scratch: bool = True
    training: Training = field(default_factory=lambda: Training(epochs=10, batch=64))
    least: int = 300

    def __post_init__(self) -> None:
        check_budget(self.budget)
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
        require(self.rounds >= 0, "rounds", "at least 0", self.rounds)
        require(-1 <= self.step <= 1, "step", "in [-1, 1]", self.step)
        require(self.least >= 0, "least", "at least 0", self.least)

    @property
    def needed(self) -> int:
        return min(self.seeds, self.budget)

    @property
    def copies(self) -> int:
        """New inputs made of each old one in a round."""
        return 1

    @abstractmethod
    def augmented(self, clone: nn.Module, x: Tensor, answers: Tensor, number: int) -> Iterator[Tensor]:
        """What round `number` makes of inputs (N, *shape) answered by (N, K): `copies` times (N, *shape)."""

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        first = copy.deepcopy(clone.state_dict())
        transfer = Transfer(self.budget)
        transfer.ask(box, pool, torch.arange(min(self.seeds, len(pool))))
        for number in range(self.rounds + 1):
            if self.scratch:
                clone.load_state_dict(first)
            self._train(clone, transfer, derive(seed, "clone", number))
            room = min(box.left, self.budget - len(transfer))
            if number == self.rounds or not room:
                break
            with seeded(derive(seed, "augment", number)):
                self._augment(box, transfer, clone, number, room)
        return clone

    def _train(self, clone: nn.Module, transfer: Transfer, seed: int) -> None:
        longer = lengthened(self.training, len(transfer), self.least)
        fit(clone, transfer.x, transfer.answers, longer, seed=seed, progress=False)

    def _augment(self, box: Asked, transfer: Transfer, clone: nn.Module, number: int, room: int) -> None:
        """Ask what this round makes of the inputs so far, or of as many random ones as there is room for."""
        n, fitting = len(transfer), -(-room // self.copies)
        old = torch.arange(n) if fitting >= n else torch.randperm(n)[:fitting]
        for rows in old.split(_INPUTS):
            for new in self.augmented(clone, transfer.x[rows], transfer.answers[rows], number):
                transfer.ask(box, new)


@dataclass(frozen=True)
class JBDA(JacobianAttack):
    """Jacobian-based dataset augmentation (Papernot et al., AsiaCCS 2017, algorithm 1): each round doubles the set.

    The step goes toward the label that the box gave, as the paper writes it. Programs that step along the gradient of
    the cross-entropy (Knockoff Nets', ModelGuard's) go away from it: a negative `step`.

    Args:
        score: whose gradient: the paper's `probability`, or `logit`.
        period: rounds after which the step changes its sign (the paper's periodical step size); 0 for never.
    """

    score: Score = "probability"
    period: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.score in ("probability", "logit"), "score", "`probability` or `logit`", f"`{self.score}`")
        require(self.period >= 0, "period", "at least 0", self.period)

    def augmented(self, clone: nn.Module, x: Tensor, answers: Tensor, number: int) -> Iterator[Tensor]:
        turned = self.period > 0 and number // self.period % 2 == 1
        yield jacobian_step(clone, x, answers.argmax(dim=1), -self.step if turned else self.step, self.score)


@dataclass(frozen=True)
class JBDATR(JacobianAttack):
    """Several small steps toward a random class other than the box's label (PRADA's T-RND I-FGSM).

    Juuti et al., EuroS&P 2019. PRADA makes one new input of each old one in a round; ModelGuard's JBTR3, three.

    Args:
        steps: the number of equal steps that `step` is divided into.
        targets: new inputs made of each old one in a round, each with a target of its own.
        variant: `prada`, one target for each new input; or `program`, as ModelGuard's program does: a target drawn
            anew, from all classes, at each step, and steps of 1.85 times the length, clipped to `step` in all.
    """

    steps: int = 8
    targets: int = 3
    variant: Literal["prada", "program"] = "prada"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.step >= 0, "step", "in [0, 1]", self.step)
        require(self.steps >= 1, "steps", "at least 1", self.steps)
        require(self.targets >= 1, "targets", "at least 1", self.targets)
        require(self.variant in ("prada", "program"), "variant", "`prada` or `program`", f"`{self.variant}`")

    @classmethod
    def modelguard(cls) -> JBDATR:
        """As in ModelGuard (Tang et al., USENIX Security 2024): 1,000 seeds, three targets, 50,000 queries."""
        return cls(budget=50_000, seeds=1_000, variant="program")

    @property
    def copies(self) -> int:
        return self.targets

    def augmented(self, clone: nn.Module, x: Tensor, answers: Tensor, number: int) -> Iterator[Tensor]:
        for _ in range(self.targets):
            yield self._toward_random(clone, x, answers)

    def _toward_random(self, clone: nn.Module, x: Tensor, answers: Tensor) -> Tensor:
        labels, classes = answers.argmax(dim=1), answers.shape[1]
        target, moved = (labels + torch.randint_like(labels, 1, classes)) % classes, x
        redrawn = self.variant == "program"
        length = (1.85 if redrawn else 1.0) * self.step / self.steps
        for _ in range(self.steps):
            if redrawn:
                target = torch.randint_like(labels, classes)
            moved = jacobian_step(clone, moved, target, length).clamp(x - self.step, x + self.step)
        return moved
