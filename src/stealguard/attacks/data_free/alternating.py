"""Training in turns: a generator makes queries, and clones learn from the answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.attacks.base import QueryPool
from stealguard.attacks.data_free.generators import generator, squash
from stealguard.attacks.transfer import labels_only, refuse_labels
from stealguard.devices import device_of
from stealguard.errors import NoAnswers, NonFiniteLoss, Refused, require
from stealguard.seeds import derive, seeded
from stealguard.training.descent import Adam, Descent
from stealguard.training.losses import center
from stealguard.types import Asked

_TINY = 1e-12  # stands for a probability of 0, which has no logarithm


@dataclass(frozen=True)
class Alternating:
    """How generator and clones train, in turns: SGD for the clones, Adam or SGD for the generator.

    Args:
        batch: images in a step, at least 2, since the generator normalizes over them; fewer are asked if the budget
            is not enough for a whole round of steps.
        lr, momentum, weight_decay: of the clones' SGD.
        generator_lr: the generator's.
        generator_optimizer: `adam` or `sgd`, with the clones' momentum and weight decay.
        drops: shares of the budget at which both rates fall to 0.3 of what they were; none for a cosine to 0.
        latent: numbers in the generator's noise.
        width: of the generator's layers.
    """

    batch: int = 256
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    generator_lr: float = 1e-4
    generator_optimizer: Literal["adam", "sgd"] = "adam"
    drops: tuple[float, ...] = ()
    latent: int = 100
    width: int = 16

    def __post_init__(self) -> None:
        for name, least in (("batch", 2), ("latent", 1), ("width", 1)):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= least, name, f"a whole number of at least {least}", value)
        for name in ("lr", "generator_lr"):
            value = getattr(self, name)
            require(value > 0 and math.isfinite(value), name, "a positive number", value)
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        known = ("adam", "sgd")
        require(self.generator_optimizer in known, "generator_optimizer", "`adam` or `sgd`", self.generator_optimizer)
        require(all(0 < at < 1 for at in self.drops), "drops", "shares in (0, 1)", self.drops)

    def sgd(self, weights: list[nn.Parameter]) -> Descent:
        """The clones' optimizer, over these weights."""
        return Descent(weights, self.momentum, self.weight_decay)

    def rate(self, done: float) -> float:
        """The factor on both rates when this share of the budget, in [0, 1], is spent."""
        return 0.3 ** sum(done >= at for at in self.drops) if self.drops else (1 + math.cos(math.pi * done)) / 2


Gap = Callable[[Tensor, Tensor], Tensor]


def l1(logits: Tensor, answers: Tensor) -> Tensor:
    """Mean |s - center(log p)| of each row, (N,): log p are the victim's logits up to a constant (DFME).

    A one-hot row has no such logits: there it is cross-entropy, which learns nothing from a row of zeros.
    """
    recovered = center(answers.clamp_min(_TINY).log())
    return torch.where(
        labels_only(answers), F.cross_entropy(logits, answers, reduction="none"), (logits - recovered).abs().mean(dim=1)
    )


def kl(logits: Tensor, answers: Tensor) -> Tensor:
    """KL(p || q) of each row, (N,)."""
    return F.kl_div(F.log_softmax(logits, dim=1), answers, reduction="none").sum(dim=1)


GAPS: dict[str, Gap] = {"l1": l1, "kl": kl}  # what clones minimize: logits and answers (N, K) -> (N,)


def evenness(probabilities: Tensor) -> Tensor:
    """Entropy of the mean of rows (..., K): greatest, log K, if the rows together give each class the same share."""
    share = probabilities.flatten(0, -2).mean(dim=0)
    return -(share * share.clamp_min(_TINY).log()).sum()  # x log x has no slope at 0


class Replay:
    """The latest `size` inputs and answers, allocated once; none if `size` is 0."""

    def __init__(self, size: int):
        self._size, self._n, self._x, self._answers = size, 0, torch.empty(0), torch.empty(0)

    def __len__(self) -> int:
        return min(self._n, self._size)

    def add(self, x: Tensor, answers: Tensor) -> None:
        """Keep x, (M, *shape), and its answers, (M, K), in place of the oldest."""
        if not self._size:
            return
        if not self._n:
            self._x, self._answers = (t.new_empty(self._size, *t.shape[1:]) for t in (x, answers))
        x, answers = x[-self._size :], answers[-self._size :]
        places = torch.arange(self._n, self._n + len(x), device=x.device) % self._size
        self._x[places], self._answers[places] = x, answers
        self._n += len(x)

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """n of them at random, with replacement."""
        rows = torch.randint(len(self), (n,)).to(self._x.device)
        return self._x[rows], self._answers[rows]


class Alternation:
    """A generator, the clones that learn from the same answers, and the budget that is left.

    Args:
        box: what is asked.
        budget: the greatest number of inputs that may be answered, if the box would answer more.
        like: one input, (1, *shape).
        clones: from inputs to logits.
        training: how both sides train.
        replay: the number of latest inputs and answers that are kept.
        labels: whether labels alone are enough.

    Attributes:
        device: the clones'.
        learned: whether anything was answered.
        generator: from noise to inputs.
        answered: the inputs that the clones were trained on, with their answers.
    """

    def __init__(
        self, box: Asked, budget: int, like: Tensor, clones: Sequence[nn.Module], training: Alternating,
        replay: int, labels: bool,
    ):  # fmt: skip
        self._box, self._clones, self._training, self._labels = box, clones, training, labels
        self._asked_on = like.device
        self._total = self._left = min(budget, box.left)
        self.device = device_of(clones[0])
        self._steps, self._rate, self.learned = 0, 1.0, False
        self.answered = Replay(min(replay, self._total))
        self.generator = generator(tuple(like.shape[1:]), training.latent, training.width).to(self.device)
        self._clone_optimizer = training.sgd([p for clone in clones for p in clone.parameters() if p.requires_grad])
        weights = list(self.generator.parameters())
        adam = training.generator_optimizer == "adam"
        self._generator_optimizer = Adam(weights) if adam else training.sgd(weights)

    @property
    def left(self) -> int:
        """How many inputs may still be answered."""
        return min(self._left, self._box.left)

    def rounds(self, cost: int) -> Iterator[tuple[int, bool]]:
        """Until the budget is spent: the images in a step, and whether the budget is enough for a whole round of steps.

        Args:
            cost: queries in a round for each image of a step. If the budget is not enough for even one such image, the
                rest is for the clones alone.
        """
        while self.left:
            self._rate = self._training.rate(1 - self._left / self._total)
            n = min(self._training.batch, self.left // cost)
            yield n or self.left, n > 0

    def unsquashed(self, n: int) -> Tensor:
        """n new images before they are squashed into [0, 1], (n, *shape), with the generator's graph.

        They are the first of a whole batch, however small n is: the generator normalizes over the batch.
        """
        return self.generator.before(torch.randn(self._training.batch, self._training.latent).to(self.device))[:n]

    def ask(self, x: Tensor) -> Tensor:
        """The box's answers, (N, K), to x, (N, *shape); N is at most `left`.

        Raises:
            NotApplicable: the first answers are labels alone, and those are not enough. They are spent: only answers
                tell what a box answers.
            NonFiniteLoss: x has a NaN: the generator has diverged.
        """
        if not x.isfinite().all():
            raise NonFiniteLoss(
                f"Loss `generator` made inputs that are not finite by step {self._steps}. "
                "A smaller `generator_lr` usually mends it."
            )
        first = self._left == self._total
        self._left -= len(x)
        answers = self._box(x.detach().to(self._asked_on)).to(self.device)
        self.learned = True
        if first and not self._labels:
            refuse_labels(answers)
        return answers

    def train_generator(self, loss: Tensor) -> None:
        """One step of the generator down `loss`."""
        weights = list(self.generator.parameters())
        self._step(self._generator_optimizer, self._training.generator_lr, "generator", loss, weights)

    def train_clones(self, n: int, steps: int, gap: Gap) -> None:
        """Steps of every clone on n new images each, as far as the budget goes."""
        for _ in range(steps):
            if self.left:
                with torch.no_grad():
                    x = squash(self.unsquashed(min(n, self.left)))
                answers = self.ask(x)
                self.answered.add(x, answers)
                self._learn(x, answers, gap)

    def replay(self, steps: int, gap: Gap) -> None:
        """Steps of every clone on batches of images that were asked before."""
        for _ in range(steps):
            self._learn(*self.answered.draw(self._training.batch), gap)

    def _learn(self, x: Tensor, answers: Tensor, gap: Gap) -> None:
        """One step of every clone toward the answers, (N, K), to x, (N, *shape)."""
        for clone in self._clones:
            clone.train(len(x) > 1)  # one input has no statistics to normalize by
        loss = torch.stack([gap(clone(x), answers).mean() for clone in self._clones]).sum()
        self._step(self._clone_optimizer, self._training.lr, "clone", loss, None)

    def _step(
        self, optimizer: Descent | Adam, lr: float, name: str, loss: Tensor, inputs: list[nn.Parameter] | None
    ) -> None:
        self._steps += 1
        if not math.isfinite(value := loss.item()):
            mend = "A smaller `lr` or `generator_lr` usually mends it."
            raise NonFiniteLoss(f"Loss `{name}` is {value} at step {self._steps}. {mend}")
        for weight in optimizer.parameters:
            weight.grad = None
        loss.backward(inputs=inputs)
        optimizer.step(lr * self._rate)


@contextmanager
def alternation(
    box: Asked, budget: int, pool: QueryPool, clones: Sequence[nn.Module], training: Alternating, *, seed: int,
    replay: int = 0, labels: bool = True,
) -> Iterator[Alternation]:  # fmt: skip
    """An `Alternation` for inputs like the pool's first, from `seed`; after it the clones are in evaluation mode.

    A refusal by the box ends it: a step whose queries were not all answered is not made.

    Raises:
        NoAnswers: the box answers nothing at all. Where it would answer fewer inputs than a step has, clones stay as
            they are.
    """
    with seeded(derive(seed, "queries")), suppress(Refused):
        turns = Alternation(box, budget, pool[:1], clones, training, replay, labels)
        yield turns
    if not turns.learned and not box.left:
        raise NoAnswers
    for clone in clones:
        clone.eval()
