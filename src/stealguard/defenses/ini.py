"""Isolation and Induction, trained into the weights: Guo et al., ACM MM 2023, arXiv 2308.00958, and what follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.defenses.base import Cost, Defense
from stealguard.defenses.decoys import DOUBT, Decoyed, Decoys
from stealguard.defenses.surrogate import READINGS, Linearization, Reading, isolation, magnitude_at
from stealguard.errors import pick, require, require_weight
from stealguard.nets import build, reinitialized, seed_from
from stealguard.seeds import derive
from stealguard.training.combine import COMBINES
from stealguard.training.losses import induction
from stealguard.types import Batch, Objective


@dataclass(frozen=True)
class InI(Defense):
    """L = L_task + gamma L_ind + delta L_iso + epsilon L_mag, with the authors' weights.

    Args:
        gamma: weight of induction: on outliers, answer as the surrogate itself does.
        delta: weight of isolation: on task data, turn the thief's gradient away from the true one.
        epsilon: weight of the magnitude of the gradient that a thief gets on outliers.
        reading: the thief's divergence: KL(p || q) as in the `paper`, or KL(q || p) as in the `official` program.
        combine: `pcgrad` (the authors'), `total` or `upgrad`.
        surrogate: architecture of the stand-in for the thief; the victim's own if None.
        surrogates: how many of them, each drawn at random and frozen; the terms are averaged over them.
    """

    gamma: float = 0.3
    delta: float = 1.0
    epsilon: float = 1000.0
    reading: Reading = "official"
    combine: Literal["total", "pcgrad", "upgrad"] = "pcgrad"  # type: ignore[misc]
    surrogate: str | None = None
    surrogates: int = 1

    def __post_init__(self) -> None:
        for name in ("gamma", "delta", "epsilon"):
            require_weight(getattr(self, name), name)
        require(self.surrogates >= 1, "surrogates", "at least 1", self.surrogates)
        require(self.reading in READINGS, "reading", f"one of {', '.join(READINGS)}", f"`{self.reading}`")
        pick(COMBINES, self.combine, "combine")

    @staticmethod
    def robust() -> RobustInI:
        """This house's own continuation of the method, with its default settings."""
        return RobustInI()

    @property
    def needs_outliers(self) -> bool:
        return self.gamma > 0 or self.epsilon > 0

    def objective(self, model: nn.Module, like: Tensor, *, seed: int) -> Objective:
        frozen = [self._stand_in(model, like, derive(seed, "surrogate", i)) for i in range(self.surrogates)]
        return lambda victim, batch: self._losses(victim, batch, frozen)

    def _stand_in(self, model: nn.Module, like: Tensor, seed: int) -> nn.Module:
        """A random network in evaluation mode, on the model's device."""
        if self.surrogate is None:
            return reinitialized(model, seed=seed).eval()
        device = next(model.parameters()).device
        with torch.no_grad():
            classes = model(like[:2].to(device)).shape[1]
        return build(self.surrogate, like, classes, seed=seed).to(device).eval()

    def _losses(self, victim: nn.Module, batch: Batch, surrogates: Sequence[nn.Module]) -> dict[str, Tensor]:
        """The weighted terms, in the authors' order; each batch goes through the victim on its own."""
        x, y, z = batch
        v = victim(x)
        terms = {"task": F.cross_entropy(v, y)}
        if self.needs_outliers:
            assert z is not None, "fit hands outliers to whoever needs them"
            on_outliers = victim(z)
            at_outliers = [Linearization(s, z) for s in surrogates]
        if self.gamma:
            terms["induction"] = self.gamma * _mean(induction(on_outliers, s.logits) for s in at_outliers)
        if self.delta:
            terms["isolation"] = self.delta * _mean(isolation(v, s, x, y, self.reading) for s in surrogates)
        if self.epsilon:
            terms["magnitude"] = self.epsilon * _mean(magnitude_at(on_outliers, s, self.reading) for s in at_outliers)
        return terms


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


@dataclass(frozen=True)
class RobustInI(Defense):
    """Isolation by an outlier class without a place in the answer, induction by decoys.

    Let v be the net's logits and let an outlier be a further class, whose logit is 0:

        L_task = mean log(1 + sum_k exp v_k(x)) - v_y(x),    L_ind = mean log(1 + sum_k exp v_k(z)),

    so that sum_k exp v_k is how much likelier an input is of the task than an outlier. A linear classifier d of the
    task learns to be wrong beside it, L_decoy = CE(d(x), w(y)), with w a secret permutation that moves every class.
    What is answered is

        g softmax(v) + (1 - g) (0.9 softmax(2 d) + 0.1 / K),   g = sigmoid(3 (log sum_k exp(v_k) - strictness)),

    where d leaves out the class that v finds most probable. So v answers where the net is sure that the input is the
    task's, and decoys answer elsewhere.

    Why a *linear* d: a thief learns what is simplest first. Decoys are simple and of a piece, on the pixels themselves,
    and a linear classifier calls nine of ten task inputs by w's wrong name; so the thief's first lesson is wrong on the
    task, and the few outliers that are still answered honestly must undo it. Near-uniform answers teach nothing, which
    leaves those few as the whole lesson; wrong answers made from the net's own share its features, from which the thief
    learns the net's border.

    Args:
        strictness: the strength: the logarithm of how much likelier outliers are held to be than in training, where
            one input in two is. Every unit costs honest users accuracy on unusual inputs, and a thief more.
        decoys: whether outliers are answered with decoys. Without, they are answered all but uniformly, an honest
            "unknown"; the most probable class is still the net's where floats can tell, so labels give much of it away.
    """

    answering = ("strictness", "decoys")

    strictness: float = 1.25
    decoys: bool = True

    def __post_init__(self) -> None:
        require(math.isfinite(self.strictness), "strictness", "a finite number", self.strictness)

    @property
    def needs_outliers(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        return Cost(trained="a linear classifier")

    def build(self, net: nn.Module, like: Tensor) -> nn.Module:
        with torch.no_grad():
            classes = net.eval()(like).shape[1]
        decoys = Decoys(like, classes, derive(seed_from(net), "decoys"))
        return Decoyed(net, decoys, self.strictness, DOUBT if self.decoys else 1.0)

    def plain(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, Decoyed)
        return model.net

    def objective(self, model: nn.Module, like: Tensor, *, seed: int) -> Objective:
        return self._losses

    def _losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Task inputs and outliers go through the net together: batch normalization sees what it will see in use."""
        assert isinstance(model, Decoyed)
        x, y, z = batch
        assert z is not None, "fit hands outliers to whoever needs them"
        v = F.pad(model.net(torch.cat([x, z])), (0, 1))
        outlier = torch.full((len(z),), v.shape[1] - 1, device=v.device)
        return {
            "task": F.cross_entropy(v[: len(x)], y),
            "induction": F.cross_entropy(v[len(x) :], outlier),
            "decoys": F.cross_entropy(model.decoys(x), model.decoys.wrong[y]),  # type: ignore[index]
        }
