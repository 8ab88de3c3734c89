"""Recovery: undo a perturbation of answers, from rows alone, before the clone learns from them.

Both methods need pairs of a clean answer and of what the defense would make of it. The attacker cannot see the victim's
clean answers and makes its own: shadow models answer public inputs, the perturbations that the attacker suspects are
applied to their answers, and what undoes them there is applied to the victim's answers.

The steps, and where they are approximations:

- Shadow models have the clone's architecture. The papers train them on public data *with labels*; here the pool has no
  labels, and clusters of the pool stand for them, one for each of the K classes. The victim is not asked for them. The
  papers train dozens (ModelGuard) to thousands (D-DAE); here there are three, trained for different lengths, so that
  their confidence runs from low to high.
- The disruption detector finds from the attack's first answers which perturbation is in place. D-DAE trains one binary
  classifier for each defense on the answers to a few tuned queries; this is one classifier of single rows over all
  suspected perturbations, whose log-probabilities for those answers are added, so that it works with any attack's
  queries and spends none of its own. If it finds no defense, answers are left as they are.
- The recovery is then fitted to that one perturbation: `d_dae` or `p_bayes`.

Chen, Guan & Xu, "D-DAE: Defense-Penetrating Model Extraction Attacks", IEEE S&P 2023; Tang, Dai, Chen & Sun,
"ModelGuard: Information-Theoretic Defense Against Model Extraction Attacks", USENIX Security 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.attacks.base import QueryPool
from stealguard.attacks.selection import k_means
from stealguard.boxes.base import Boxed, logits, top_1
from stealguard.errors import NotApplicable
from stealguard.seeds import derive, seeded
from stealguard.simplex import reverse_sigmoid
from stealguard.training.loop import Training, fit
from stealguard.types import Batch

Map = Callable[[Tensor], Tensor]
"""Rows (N, K) on the simplex -> rows (N, K) on the simplex."""

Method = Callable[[Map, Tensor, Tensor], Map]
"""A perturbation, clean rows and some of the victim's answers -> what undoes the perturbation."""

_SHADOW_INPUTS = 2000  # that a shadow model learns, and as many more that it answers
_SHADOW_EPOCHS = (2, 4, 8)  # one shadow model for each
_TABLE = 20_000  # rows of pBayes's table
_CONCENTRATION = 4  # times K: how close pBayes's draws are to their means, the authors' setting
_NEIGHBORS = 4  # the least number of its rows that pBayes averages
_TOLERANCE = 1e-4  # L2 distance up to which two perturbed rows are the same to pBayes, the authors' setting
_CHUNK = 256  # rows recovered at once


class Fresh(Protocol):
    """A net that has learned nothing, drawn from a seed."""

    def __call__(self, *, seed: int) -> nn.Module: ...


class Resources(NamedTuple):
    """What an attacker has beside the box: public inputs (N, *shape), nets of the clone's architecture, a seed."""

    pool: QueryPool
    fresh: Fresh
    seed: int


def identity(y: Tensor) -> Tensor:
    return y


def rounding(y: Tensor, digits: int = 1) -> Tensor:
    """To so many decimals, renormalized; where every entry is rounded to 0, the most probable class."""
    rounded = y.round(decimals=digits)
    return F.normalize(torch.where((rounded > 0).any(dim=1, keepdim=True), rounded, top_1(y)), p=1, dim=1)


def noise(y: Tensor, scale: float = 0.1) -> Tensor:
    """Gaussian noise of this deviation, from torch's global generator, put back on the simplex."""
    return F.normalize((y + scale * torch.randn_like(y)).clamp_min(1e-6), p=1, dim=1)


def mixing(y: Tensor, share: float = 0.5) -> Tensor:
    """So much of each row replaced by the uniform one."""
    return (1 - share) * y + share / y.shape[1]


def mad(y: Tensor, budget: float = 1.0) -> Tensor:
    """MAD with its `argmin` oracle: towards the least probable class, within this L1 distance (Orekondy et al., 2020).

    The defense looks for the class that turns the attacker's gradient most; for any surrogate that is one of the
    classes which the answer rules out.
    """
    target = F.one_hot(y.argmin(dim=1), y.shape[1]).to(y.dtype)
    step = (budget / (target - y).abs().sum(dim=1, keepdim=True)).clamp_max(1.0)
    return y + step * (target - y)


SUSPECTED: dict[str, Map] = {
    "none": identity,
    "top-1": top_1,
    "rounding": rounding,
    "reverse-sigmoid-0.3": partial(reverse_sigmoid, beta=0.3),
    "reverse-sigmoid-0.7": reverse_sigmoid,
    "noise": noise,
    "mixing-0.5": mixing,
    "mixing-0.9": partial(mixing, share=0.9),
    "mad-0.5": partial(mad, budget=0.5),
    "mad-1.0": mad,
}
"""The attacker's guesses: what a defense may do to a row.

A random swap of classes is not among them: a row that was swapped looks like one that was not, so a recovery from rows
could only flatten both.
"""


def shadow_answers(resources: Resources) -> Tensor:
    """Shadow models' answers to public inputs that they have not learned from: clean rows (M, K).

    Raises:
        NotApplicable: the pool is too small to train shadow models on, as the pool of a data-free attack is.
    """
    order = torch.randperm(
        len(resources.pool), generator=torch.Generator().manual_seed(derive(resources.seed, "public"))
    )
    x = resources.pool[order[: 2 * _SHADOW_INPUTS]]
    classes = logits(resources.fresh(seed=derive(resources.seed, "classes")), x[:1]).shape[1]
    if len(x) < 2 * classes:
        message = f"Recovery trains shadow models on at least {2 * classes} inputs, and the pool has {len(x)}."
        raise NotApplicable(message)
    labels = k_means(x, classes, seed=derive(resources.seed, "clusters"))
    learned, asked = x.chunk(2)
    clean = []
    for epochs in _SHADOW_EPOCHS:
        seed = derive(resources.seed, "shadow", epochs)
        net = resources.fresh(seed=derive(seed, "net"))
        fit(net, learned, labels[: len(learned)], Training(epochs, batch=64, lr=0.02), seed=seed, progress=False)
        clean.append(Boxed(net, tuple(x.shape[1:]))(asked))
    return torch.cat(clean)


def detect(clean: Tensor, answers: Tensor, suspected: Mapping[str, Map] = SUSPECTED, *, seed: int) -> str:
    """The name of the suspected perturbation that `answers` look most like, given clean rows."""
    with seeded(derive(seed, "detector")):
        rows = torch.cat([suspect(clean) for suspect in suspected.values()])
        layers = nn.Linear(clean.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(suspected))
        net = nn.Sequential(*layers).to(clean.device)
    targets = torch.arange(len(suspected)).repeat_interleave(len(clean))
    training = Training(epochs=12, batch=256, lr=0.1)
    fit(net, _spectrum(rows), targets, training, seed=derive(seed, "detector"), progress=False)
    with torch.no_grad():
        evidence = net(_spectrum(answers)).log_softmax(dim=1).mean(dim=0)
    return list(suspected)[int(evidence.argmax())]


def _spectrum(rows: Tensor) -> Tensor:
    """Log-probabilities in descending order: what a perturbation changes of them does not depend on the classes."""
    return rows.clamp_min(1e-12).log().sort(dim=1, descending=True).values / 10


def recovery(method: Method, clean: Tensor, answers: Tensor, *, seed: int) -> Map:
    """The map that undoes the perturbation of the victim's first answers (N, K), learned from clean rows (M, K).

    The shadow models' classes are clusters, not the victim's classes, so the entries of each row are put in a random
    order: the victim may be certain of classes that no shadow model is certain of.
    """
    suspect = detect(clean, answers, seed=seed)
    if suspect == "none":
        return identity
    with seeded(derive(seed, "recovery")):
        return method(SUSPECTED[suspect], clean.gather(1, torch.rand_like(clean).argsort(dim=1)), answers)


class Restorer(nn.Module):
    """Perturbed rows (N, K) -> clean ones: D-DAE's layers for 10 classes, wider for more.

    It corrects log y', so that it starts close to the identity, and a softmax puts its rows on the simplex. The
    authors' network makes the rows itself, by sigmoids divided by their sum; with K = 100 it does not learn even the
    identity in the time that this one takes.
    """

    def __init__(self, classes: int):
        super().__init__()
        wide = max(128, 4 * classes)
        self.body = nn.Sequential(
            nn.Linear(classes, wide), nn.BatchNorm1d(wide), nn.LeakyReLU(0.2),
            nn.Linear(wide, wide // 2), nn.BatchNorm1d(wide // 2), nn.LeakyReLU(0.2),
            nn.Linear(wide // 2, classes),
        )  # fmt: skip

    def forward(self, y: Tensor) -> Tensor:
        return (y.clamp_min(1e-6).log() + self.body(y)).softmax(dim=1)


def restoring(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The L1 distance between the restored rows and the clean rows."""
    return {"restore": (model(batch.x) - batch.y).abs().sum(dim=1).mean()}


def d_dae(perturb: Map, clean: Tensor, answers: Tensor) -> Map:
    """D-DAE's recovery: a network trained from perturbed to clean rows of shadow models."""
    net, seed = Restorer(clean.shape[1]).to(clean.device), int(torch.randint(2**62, ()))
    training = Training(epochs=30, batch=128, lr=0.05, weight_decay=1e-4)
    fit(net, perturb(clean), clean, training, seed=seed, objective=restoring, progress=False)
    return torch.no_grad()(net)


def p_bayes(perturb: Map, clean: Tensor, answers: Tensor) -> Map:
    """ModelGuard's partial Bayes attack: E[y | y'] as the mean of the clean rows in a table next to y'.

    The table has the shadow models' answers, and draws from Dirichlet distributions around the victim's own. Next to
    y' are the entries whose perturbed row is as near as the fourth nearest one, or nearer than `_TOLERANCE`, in L2.
    The authors take those as near as the nearest of a million entries; of this many, the mean of four is better. To
    save time, they also compare only entries of the same top-1 if the defense keeps it.
    """
    around = answers[torch.randint(len(answers), (max(_TABLE - len(clean), 0),))]
    drawn = torch.distributions.Dirichlet(around.clamp_min(1e-3) * _CONCENTRATION * clean.shape[1]).sample()
    table = torch.cat([clean, drawn])[:_TABLE]
    return partial(conditional_mean, perturb(table).double(), table.double())


def conditional_mean(perturbed: Tensor, clean: Tensor, answers: Tensor) -> Tensor:
    """For each answer (N, K), the mean of the clean rows (T, K) whose perturbed rows (T, K) are next to it."""
    means = []
    for part in answers.to(perturbed).split(_CHUNK):
        distance = torch.cdist(part, perturbed)
        reach = distance.kthvalue(min(_NEIGHBORS, len(clean)), dim=1, keepdim=True).values.clamp_min(_TOLERANCE)
        next_to = (distance <= reach).to(clean)
        means.append(next_to @ clean / next_to.sum(dim=1, keepdim=True))
    return torch.cat(means).to(answers)
