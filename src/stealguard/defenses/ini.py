"""Isolation and Induction, trained into the weights (Guo et al., ACM MM 2023, arXiv 2308.00958), and `ini-robust`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.defenses.base import Cost, Defended, Defense, evaluating, surrogate_of
from stealguard.defenses.decoys import Decoyed, Decoys
from stealguard.defenses.drift import NEAR
from stealguard.defenses.surrogate import LAYERS, READINGS, Layers, Linear, Reading, isolation_at, magnitude_at
from stealguard.defenses.suspicion import KEPT, SUSPECTS, Gate, Measured, Suspects, Suspicion
from stealguard.devices import device_of
from stealguard.errors import pick, require, require_weight
from stealguard.nets import build, seed_from
from stealguard.seeds import derive
from stealguard.training.combine import COMBINES, settled, settles
from stealguard.training.losses import induction
from stealguard.types import Batch

TERMS = "task", "induction", "isolation", "magnitude"  # in the order in which the authors give them to PCGrad


class Isolated(Defended):
    """The user's net; while it trains, frozen surrogates stand for the clones that attackers will train.

    The surrogates are drawn at the first losses, from a seed that follows from the weights that `net` has when this is
    built. They are neither parameters nor a part of the state dict.

    Args:
        net: from inputs (N, *shape) to logits (N, K).
        like: some of the task's inputs, (n, *shape).
        settings: the defense.
    """

    steady = True

    def __init__(self, net: nn.Module, like: Tensor, settings: InI):
        super().__init__(net)
        self.settings, self._seed = settings, derive(seed_from(net), "surrogate")
        self._draw = partial(_surrogate, settings.surrogate, like)
        self._surrogates: list[nn.Module] = []  # in a list torch does not see them

    def surrogates(self, like: Tensor) -> list[nn.Module]:
        """The surrogates, on the device and in the precision of `like`."""
        if not self._surrogates:
            self._surrogates = [self._draw(self.net, derive(self._seed, i)) for i in range(self.settings.surrogates)]
        weight = next(self._surrogates[0].parameters())
        if (weight.device, weight.dtype) != (like.device, like.dtype):  # `to` goes through every module
            self._surrogates = [surrogate.to(like) for surrogate in self._surrogates]
        return self._surrogates

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """The weighted terms, in the authors' order; each batch goes through the net on its own.

        Where each loss has a backward pass of its own, and only weights of the net are trained, these passes are taken
        here: what is kept for the task inputs is then freed before the outliers go through the net.
        """
        self.surrogates(batch.x)  # before the net runs, which may change its buffers
        trained = [p for p in self.net.parameters() if p.requires_grad]
        apart = self.settings.combine != "total" and settles(trained, batch)
        settle = partial(settled, by=trained) if apart else dict
        terms = {**settle(self._on_task(batch)), **settle(self._on_outliers(batch))}
        return {name: terms[name] for name in TERMS if name in terms}

    def _on_task(self, batch: Batch) -> Mapping[str, Tensor]:
        settings, v = self.settings, self.net(batch.x)
        terms = {"task": F.cross_entropy(v, batch.y)}
        if settings.delta:
            linear, surrogates = LAYERS[settings.surrogate_layers], self.surrogates(batch.x)
            x, y, v = (part[:: settings.isolate_every] for part in (batch.x, batch.y, v))
            cosines = (isolation_at(v, linear(s, x), y, settings.reading) for s in surrogates)
            terms["isolation"] = settings.delta * _mean(cosines)
        return terms

    def _on_outliers(self, batch: Batch) -> Mapping[str, Tensor]:
        if not self.settings.needs_outliers:
            return {}
        v, linear = self.net(batch.z), LAYERS[self.settings.surrogate_layers]
        weights = {"induction": self.settings.gamma, "magnitude": self.settings.epsilon}
        found = [self._at_outliers(v, linear(s, batch.z)) for s in self.surrogates(batch.z)]
        return {name: weights[name] * _mean(one[name] for one in found) for name in found[0]}

    def _at_outliers(self, v: Tensor, surrogate: Linear) -> dict[str, Tensor]:
        terms = {}
        if self.settings.gamma:
            terms["induction"] = induction(v, surrogate.logits)
        if self.settings.epsilon:
            terms["magnitude"] = magnitude_at(v, surrogate, self.settings.reading)
        return terms


def _surrogate(name: str | None, like: Tensor, net: nn.Module, seed: int) -> nn.Module:
    """A frozen net of the named architecture, or of that of `net`, with weights drawn from `seed`."""
    if name is None:
        return surrogate_of(net, seed)
    return build(name, like, _classes(net, like), seed=seed).eval()


def _mean(values: Iterable[Tensor]) -> Tensor:
    first, *others = values
    return torch.stack([first, *others]).mean() if others else first


@torch.no_grad()
def _classes(net: nn.Module, like: Tensor) -> int:
    """How many classes K the net has."""
    with evaluating(net):
        return int(net(like[:2].to(device_of(net))).shape[1])


@dataclass(frozen=True)
class InI(Defense):
    """Isolation and Induction: L = L_task + gamma L_ind + delta L_iso + epsilon L_mag, with defaults by the authors.

    Args:
        gamma: weight of induction: on outliers, answer as the surrogate itself does.
        delta: weight of isolation: on task data, turn the clone's gradient away from the one that true labels give.
        epsilon: weight of the magnitude of the gradient that a clone gets on outliers.
        reading: what the clone minimizes: KL(p || q) as in the `paper`, or KL(q || p) as in the `official` program.
        combine: `pcgrad` (the authors'), `total` or `upgrad`.
        surrogate: architecture of the surrogate; the victim's own if None.
        surrogates: how many of them, each drawn at random and frozen; the terms are averaged over them.
        surrogate_layers: gradients of `all` of the surrogate's weights, as published, or those of its `head`, the last
            layer, in closed form and without any backward pass through it.
        isolate_every: isolation reads one of so many of a batch's task inputs, all of them as published.
    """

    # Isolation turns the gradient of soft answers; near task inputs labels are right, and a pool can grow there.
    countered_by = ("labels", "explore")

    gamma: float = 0.3
    delta: float = 1.0
    epsilon: float = 1000.0
    reading: Reading = "official"
    combine: Literal["total", "pcgrad", "upgrad"] = "pcgrad"  # type: ignore[misc]
    surrogate: str | None = None
    surrogates: int = 1
    surrogate_layers: Layers = "all"
    isolate_every: int = 1

    def __post_init__(self) -> None:
        for name in ("gamma", "delta", "epsilon"):
            require_weight(getattr(self, name), name)
        for name in ("surrogates", "isolate_every"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.reading in READINGS, "reading", f"one of {', '.join(READINGS)}", f"`{self.reading}`")
        pick(COMBINES, self.combine, "combine")
        pick(LAYERS, self.surrogate_layers, "surrogate_layers")

    @staticmethod
    def robust() -> RobustInI:
        """`ini-robust`, this project's continuation of the method, with its default settings."""
        return RobustInI()

    @property
    def needs_outliers(self) -> bool:
        return self.gamma > 0 or self.epsilon > 0

    def build(self, net: nn.Module, like: Tensor) -> Defended:
        return Isolated(net, like, self)


@dataclass(frozen=True)
class RobustInI(Defense):
    """Isolation by an outlier class that no answer shows, induction by decoys, and a memory of each account.

    Let v be the net's logits and let outliers be a further class, whose logit is 0:

        L_task = mean log(1 + sum_k exp v_k(x)) - v_y(x),    L_ind = mean log(1 + sum_k exp v_k(z)),

    so that sum_k exp v_k is how much likelier an input is of the task than an outlier. A linear classifier d of the
    task learns to be wrong beside it, L_decoy = CE(d(x), w(y, x)). Each class is split into nine clusters, and w gives
    each cluster another wrong name. An answer names the class of v where log sum_k exp v_k is above a strictness, and
    that of d elsewhere: a decoy. The class that is named has the net's validation accuracy as its probability, and all
    others share the rest alike. So one answer does not tell which kind it is, and users' answers are calibrated on
    average.

    Why d is *linear*: a clone learns what is simplest first. Decoys are simple and consistent functions of the pixels,
    and a linear classifier gives most task inputs a wrong class. So what the clone learns first is wrong on the task,
    and the few outliers that are still answered honestly must correct it. Why *clusters*: a clone of decoys that merely
    permute the classes is a clone of the net once twenty labeled samples have renamed its classes. Why d does *not
    depend on the net*: whatever d knows of v, the answers tell.

    An attacker who asks for neighbors of what was answered honestly undoes every rule for single answers. So by default
    accounts have a memory (see `suspicion.Suspicion`): a new account needs odds of `strictness`, which falls to `floor`
    as the account asks inputs of the task, and rises again where more than one query in thirty is like an outlier. Such
    queries add to a suspicion, too. How far nets tell outliers from the task differs from task to task, so that a
    strictness is chosen by what it costs: 17 % of the task's inputs get decoys, which are wrong, if they are the first
    that an account asks. An account of which more than one query in eleven is like an outlier is refused. A suspect is
    refused, and not served wrong answers, so that honest users whose inputs are merely unusual are told.

    With two classes there are no decoys, whatever the settings say: the only wrong class is the opposite of the net's,
    so a clone of the decoys with its two classes exchanged would be a clone of the net. Outliers are then answered
    uniformly, as with `decoys` off.

    Args:
        strictness: the strength: the least log odds of an input that is answered to a new account, and to every one if
            there is no memory (for which 1.25 keeps 98 % of MNIST's answers right). Every unit costs benign accuracy on
            unusual inputs, and more clone accuracy. None for what all but 17 % of the task's held-out inputs have:
            6.2 on MNIST, 8.2 on Fashion-MNIST.
        floor: the strictness for an account with full trust, if it is less. It is up to 5.5 lower where an account has
            asked almost nothing but inputs of the task. It is higher, up to half the way back, where outliers are
            among its latest inputs, or where these are together unlike the task's.
        trust: how much is full trust; a typical input of the task earns about 6.
        memory: whether accounts have one.
        suspicion: how much reveals an attacker; an outlier adds 5 to 9 as a rule.
        suspects: what they get from then on: `refuse` for no more answers, `decoys` for nothing else.
        decoys: whether outliers are answered with decoys. Without, they are answered uniformly, which tells the user
            that the input is unknown, and an attacker which answers to learn from.
        drift: how far the means of an account's inputs may be from the task's, in variances, before it loses most of
            what it has earned. Inputs that a program draws are 3.6 away and more on MNIST, 5.8 on Fashion-MNIST; the
            task's own that are moved at most 1.8, and 3 to 15 where all are smaller or blurred, or have much noise. A
            greater value suits such users, and attackers who hide queries among inputs that they draw.
    """

    # Answers have one shape, so filters read labels; the gate leaks near the task, and memory belongs to an account. A
    # refusal tells that an account is suspected, and so which of its inputs are outliers.
    countered_by = ("explore", "own-form", "sieve", "refusals", "labels", "treatment:smooth", "accounts")

    answering = ("strictness", "floor", "trust", "memory", "suspicion", "suspects", "decoys", "drift")
    measured: ClassVar[Mapping[str, str]] = {"strictness": "measured.first"}
    confidence = (
        "The class is what counts. The number beside it is the net's accuracy on validation inputs: it is the same in "
        "every answer that names a class, and says nothing about the one input."
    )

    strictness: float | None = None
    floor: float = -3.0
    trust: float = 15.0
    memory: bool = True
    suspicion: float = 20.0
    suspects: Suspects = "refuse"
    decoys: bool = True
    drift: float = NEAR

    def __post_init__(self) -> None:
        for name in ("strictness", "floor"):
            value = getattr(self, name)
            if value is not None or name == "floor":
                number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
                require(number, name, "a finite number", value)
                object.__setattr__(self, name, float(value))  # 8 and 8.0 are one setting
        for name in ("trust", "suspicion", "drift"):
            require(0 < getattr(self, name) < math.inf, name, "a positive finite number", getattr(self, name))
        pick(dict.fromkeys(SUSPECTS), self.suspects, "suspects")

    @property
    def needs_outliers(self) -> bool:
        return True

    @property
    def distortion_limit(self) -> float:
        return 2.0

    @property
    def cost(self) -> Cost:
        state = f"6 numbers, a mean for each class and outputs for {KEPT} queries an account" if self.memory else ""
        return Cost(state=state, trained="a linear classifier")

    def build(self, net: nn.Module, like: Tensor) -> Defended:
        classes = _classes(net, like)
        measured = Measured(classes)
        gate = Gate(measured, self.strictness, self.decoys and classes > 2)
        remembering = Suspicion(gate, self.floor, self.trust, self.suspicion, self.suspects, classes, self.drift)
        decoys = Decoys(like, classes, derive(seed_from(net), "decoys"))
        return Decoyed(net, decoys, measured, remembering if self.memory else gate)
