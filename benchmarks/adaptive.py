"""The default defense against attackers who know its code, and what it costs honest users: one JSON line each.

    python -m benchmarks.adaptive --victims 3 --workers 2 --out FILE.jsonl

Victims are LeNet-5 on MNIST under the default preset, trained first and kept beside the output, so that a second run
uses them again. Each measurement of each victim is then work of its own. `--quick` is for a look at whether all runs.
`--task` and `--net` name another task. What a program draws that is near the task is digits or garments; printed digits
are for MNIST alone. With `--device cuda`, victims and clones are trained and asked on the GPU.

Attackers query with letters, or with the first of `--pools`, in 20,000 queries in all, one at a time, over a number of
accounts: when an account has had its share or is refused, the next one is used. `told` attackers know which answers are
honest, as no attacker can.
Lines say `guard: memory` for the default, and `guard: none` for the same weights without memory at strictness 1.25.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from benchmarks.digits import printed, splines
from benchmarks.garments import garments
from benchmarks.measure import interleaved
from torch import Tensor, nn
from torch.nn import functional as F

import stealguard as sg
from stealguard import data
from stealguard.attacks import Explore, Filter, Knockoff, OwnForm, Sieve, Unmask
from stealguard.attacks.base import Attack
from stealguard.attacks.refusals import SLIGHT
from stealguard.attacks.treatments import Smoothed
from stealguard.attacks.variation import moved as altered
from stealguard.boxes import Accounts, Labels, Metered
from stealguard.boxes.base import logits, outputs_of
from stealguard.data.roles import named
from stealguard.defenses import RobustInI
from stealguard.defenses.decoys import Decoyed
from stealguard.defenses.drift import squared
from stealguard.defenses.suspicion import Gate, Suspicion, odds
from stealguard.errors import Refused, StealguardError
from stealguard.nets import build
from stealguard.results.metrics import accuracy
from stealguard.results.provenance import provenance
from stealguard.results.renaming import best_renaming, renamed_accuracy
from stealguard.seeds import derive, seeded
from stealguard.training import Training, fit
from stealguard.training.augment import affine, half_affine
from stealguard.types import State

VARIED = "strictness", "floor", "trust", "suspicion", "drift"  # settings of the defense that `--variants` may change
WARM = 10  # inputs known to be honest that "told warm" asks first of each account, whose suspicion falls for each
STRONG = 2.5  # how much inputs are distorted for a clone that learns from copies: visibly
BENT = 1.0  # and for a drawn input that is asked bent: about as much as handwriting differs
SURE = 3.0  # log odds of a drawn input that the net takes for one of the task without doubt
EARNED = 6  # answers that an account gives before it is refused, about: attackers plan with as many
FEW = StealguardError, ValueError, RuntimeError, IndexError  # what attacks raise on a handful of answers or none
ALONE = RobustInI(strictness=1.25, memory=False)
GUARDS = "memory", "none"
CLONES = {
    "knockoff": Knockoff(), "knockoff smooth": Knockoff(), "sieve": Sieve(),
    "filter minimum": Filter(doubt=0.0), "filter residual": Filter(selector="residual", doubt=0.0),
    "unmask": Unmask(doubt=0.0), "own-form": OwnForm(masked=False, probes=0.0, doubt=0.0),
    "explore minimum": Explore(doubt=0.0), "explore residual": Explore(selector="residual", doubt=0.0),
    "explore consistency": Explore(selector="consistency", ranks=1, doubt=0.0),
    "told filter": Filter(doubt=0.0), "told explore": Explore(doubt=0.0),
    "told early": Explore(first=0.15, rounds=6, doubt=0.0), "told warm": Explore(doubt=0.0),
}  # fmt: skip
DRAWN = {"mnist": splines, "fashion-mnist": garments}  # what a program draws for a task, with labels


@dataclass(frozen=True)
class Work:
    """A measurement of a victim; `settings` are its arguments beside the victim."""

    victim: int
    measurement: str
    settings: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    folder: str
    task: str = "mnist"
    net: str = "lenet5"
    pools: tuple[str, ...] = ("letters", "hershey")
    budget: int = 20_000
    epochs: int | None = None
    device: str = "cpu"
    accounts: int = 200
    each: int = 5000


# --- the victim and its guards -------------------------------------------------------------------------------------


class Target:
    """A victim under some settings of its guard, as its owner sees it."""

    def __init__(self, release: sg.Release, defense: RobustInI, device: str = "cpu"):
        model = release.model
        assert isinstance(model, Decoyed)
        self.gate = Gate(deepcopy(model.measured), defense.strictness, decoys=True)  # outputs come to the processor
        model.to(device)
        self.heads, self.net, self.shape = model.heads(), model.net, release.shape
        classes = release.output.classes
        remembering = Suspicion(
            self.gate, defense.floor, defense.trust, defense.suspicion, defense.suspects, classes, defense.drift
        )
        self.guard: Gate | Suspicion = remembering if defense.memory else self.gate

    def review(self, outputs: Mapping[str, Tensor], state: State) -> tuple[Tensor, State]:
        """Which of the next queries are answered honestly, up to the one that is refused."""
        if isinstance(self.guard, Suspicion):
            return self.guard.review(outputs, state)
        return odds(outputs) > self.gate.strictness, state


class ManyAccounts:
    """A box that asks one query at a time, from one account after the other; `honest` is what no attacker knows.

    Args:
        target: the victim.
        accounts: how many there are.
        each: queries that an account is used for at most.
        warm: how many of these are, at first, inputs that were answered honestly before, slightly changed.
    """

    def __init__(self, target: Target, accounts: int, each: int, warm: int = 0):
        self._target, self._accounts, self._each, self._warm = target, accounts, each, warm
        self._inliers: list[Tensor] = []
        self._used, self._state = 0, target.guard.start()
        self._granted: Tensor | None = None
        self._honest: dict[bytes, bool] = {}
        self.spent = self.refused = 0  # accounts
        self.owners: list[int] = []  # the account that asked each query

    def __call__(self, x: Tensor) -> Tensor:
        if self._granted is not None and len(self._granted) == len(x):
            granted, self._granted = self._granted, torch.empty(0)
            return granted
        passed, outputs = [torch.empty(0, dtype=torch.bool)], outputs_of(self._target.heads, x)
        start = 0
        while start < len(x) and self.spent < self._accounts:
            rows = slice(start, min(len(x), start + self._each - self._used))
            part = {name: output[rows] for name, output in outputs.items()}
            found, self._state = self._target.review(part, self._state)
            passed.append(found)
            if self._warm:
                self._inliers += list(x[rows][: len(found)][found])
            self.owners += [self.spent] * len(found)
            start, self._used = start + len(found), self._used + len(found)
            self.refused += start < rows.stop
            if self._used == self._each or start < rows.stop:
                self._used, self._state, self.spent = 0, self._target.guard.start(), self.spent + 1
                self._open()
        honest = torch.cat(passed)
        for row, flag in zip(x, honest.tolist(), strict=False):
            self._honest[row.numpy().tobytes()] = flag
        answers = self._target.gate.answers({name: output[:start] for name, output in outputs.items()}, honest)
        if start < len(x):
            self._granted = answers
            raise Refused("No account is left.", start)
        return answers

    def _open(self) -> None:
        """Begin an account with known inliers, once there are so many; they leave fewer of its queries."""
        if self._warm and len(self._inliers) >= self._warm:
            with seeded(derive(0, "warm", self.spent)):
                rows = torch.randperm(len(self._inliers))[: self._warm].tolist()
                known = altered(torch.stack([self._inliers[row] for row in rows]), SLIGHT)
            _, self._state = self._target.review(outputs_of(self._target.heads, known), self._state)
            self._used = self._warm

    def honest(self, x: Tensor) -> Tensor:
        """Which of the inputs that were asked, (n, *shape), were answered honestly."""
        return torch.tensor([self._honest.get(row.numpy().tobytes(), False) for row in x], dtype=torch.bool)

    @property
    def honest_answers(self) -> int:
        return sum(self._honest.values())


class Covered:
    """A box that asks `k` drawn inputs before each query."""

    def __init__(self, box: ManyAccounts, drawn: Tensor, k: int):
        self._box, self._drawn, self._k, self._next = box, drawn, k, 0
        self._granted: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._granted is not None and len(self._granted) == len(x):
            return self._granted
        rows = (self._next + torch.arange(self._k * len(x))) % len(self._drawn)
        mixed = torch.cat([self._drawn[rows].view(len(x), self._k, *x.shape[1:]), x[:, None]], dim=1).flatten(0, 1)
        self._next += len(rows)
        try:
            return self._box(mixed)[self._k :: self._k + 1]
        except Refused as refusal:
            answers = self._box(mixed[: refusal.left]) if refusal.left else torch.empty(0, 1)
            self._granted = answers[self._k :: self._k + 1]
            raise Refused(str(refusal), len(self._granted)) from refusal


@cache
def tested(task: str) -> tuple[Tensor, Tensor]:
    test = data.task(task).test
    return test.x[:], test.y


@cache
def pool(name: str, task: str) -> Tensor:
    """At most 40,000 inputs of the set with this name, of the task's shape."""
    x = named([name], tuple(tested(task)[0].shape[1:]), "pools", resize=True)[name]
    return x[: min(len(x), 40_000)]


def clone(seed: int, scale: Scale) -> nn.Module:
    net = build(scale.net, pool(scale.pools[0], scale.task)[:2000], 10, seed=derive(seed, "clone"))
    return net.to(scale.device)


def judged(stolen: nn.Module, task: str) -> dict[str, float]:
    """A clone's accuracy on the task's test set, as it is and renamed."""
    x, y = tested(task)
    answers = logits(stolen, x).softmax(dim=1)
    return {
        "clone_accuracy": accuracy(answers, y),
        "renamed_accuracy": best_renaming(answers, y),
        "renamed_accuracy_20": renamed_accuracy(answers, y, 20),
    }


# --- what an attacker gets -----------------------------------------------------------------------------------------


def theft(
    target: Target, seed: int, scale: Scale, *, attack: str, accounts: int | None = None, labels: str = "soft",
    pool_name: str = "",
) -> dict[str, Any]:  # fmt: skip
    """A clone by one of `CLONES`, whose budget is divided over the accounts; without a number, nobody counts them."""
    pool_name = pool_name or scale.pools[0]
    queries, asked = pool(pool_name, scale.task), {"pool_name": pool_name, "labels": labels, "accounts": accounts}
    number = accounts or scale.budget
    size = min(scale.budget, len(queries), max(200, EARNED * number))
    how: Attack = replace(CLONES[attack], budget=size)  # type: ignore[assignment, type-var]
    many = ManyAccounts(target, number, -(-scale.budget // number), WARM if attack == "told warm" else 0)
    metered, stolen = Metered(many if labels == "soft" else Labels(many), size), clone(seed, scale)
    told: dict[str, Any] = {"honest": many.honest} if attack.startswith("told") else {}
    try:
        with seeded(derive(seed, attack)):
            how(Smoothed(metered) if "smooth" in attack else metered, queries, stolen, seed=seed, **told)
        found: dict[str, Any] = judged(stolen, scale.task)
    except FEW as e:
        found = {"failed": f"{type(e).__name__}: {e}".splitlines()[0]}
    return {
        **asked, **found,
        "answers": metered.spent, "honest_answers": many.honest_answers, "accounts_spent": many.spent,
    }  # fmt: skip


def cover(
    target: Target,
    seed: int,
    scale: Scale,
    *,
    k: int,
    accounts: int = 1,
    sure: bool = False,
    bent: bool = False,
    strong: bool = False,
) -> dict[str, Any]:
    """Exploration told which answers are honest, each query behind k drawn inputs of known labels.

    With `bent`, drawn inputs are turned, scaled, moved and bent before they are asked, which makes them more like the
    task's. With `sure`, only those are asked whose odds are above SURE, as if the attacker knew which these are. With
    `strong`, clones learn from distorted copies, with the stolen answers and without.
    """
    size = scale.budget // (k + 1)
    drawn, names = DRAWN[scale.task](scale.budget - size, seed)
    many = ManyAccounts(target, accounts, -(-scale.budget // accounts))
    with seeded(derive(seed, "bent")):
        covers = altered(drawn, BENT) if bent else drawn
    covers = covers[odds(outputs_of(target.heads, covers)) > SURE] if sure else covers
    box, stolen = Recorded(Covered(many, covers, k), target.shape), clone(seed, scale)
    with suppress(*FEW):
        queries = pool(scale.pools[0], scale.task)
        Explore(budget=size, doubt=0.0)(Metered(box, size), queries, stolen, seed=seed, honest=many.honest)
    x, answers = box.x[many.honest(box.x)], box.answers[many.honest(box.x)]
    own = torch.eye(10)[names]
    found = {"no_theft": learned(drawn, own, seed, scale, strong)["clone_accuracy"], "stolen_rows": len(x)}
    if len(x):
        copies = max(1, len(drawn) // (4 * len(x)))  # stolen rows have a fifth of the weight, however few they are
        both = torch.cat([drawn, *[x] * copies]), torch.cat([own, *[answers] * copies])
        found |= learned(*both, seed, scale, strong)
    return {
        **found,
        "asked": len(box.x) * (k + 1),
        "accounts_refused": many.refused,
        "drawn_pass": drawn_pass(target, drawn),
    }


def learned(x: Tensor, y: Tensor, seed: int, scale: Scale, strong: bool = False) -> dict[str, float]:
    """`judged` of a clone that is trained on these: the medians of three trainings, of which one may end at chance."""
    training = Training(epochs=8, augment="half-affine")
    if strong:
        with seeded(derive(seed, "distorted")):
            x, y = torch.cat([altered(x, STRONG) for _ in range(8)]), y.repeat(8, 1)
        training = Training(epochs=1, weight_decay=5e-4, schedule="warm-cosine")
    found = []
    for number in range(3):
        net = clone(derive(seed, number), scale)
        fit(net, x, y, training, seed=derive(seed, number), progress=False)
        found.append(judged(net, scale.task))
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def drawn_pass(target: Target, drawn: Tensor) -> float:
    """The share of drawn inputs that a gate of strictness 0 answers honestly."""
    return (logits(target.net, drawn[:2000]).logsumexp(dim=1) > 0).double().mean().item()


class Recorded:
    """A box that keeps what was asked and answered."""

    def __init__(self, box: Callable[[Tensor], Tensor], shape: tuple[int, ...]):
        self._box, self.x, self.answers = box, torch.empty(0, *shape), torch.empty(0, 10)

    def __call__(self, x: Tensor) -> Tensor:
        answers = self._box(x)
        self.x, self.answers = torch.cat([self.x, x]), torch.cat([self.answers, answers])
        return answers


def near_task(target: Target, seed: int, scale: Scale, *, labels: str) -> dict[str, Any]:
    """KnockoffNets with drawn inputs on one account, beside what their own labels give without any query."""
    drawn, names = DRAWN[scale.task](scale.budget, seed)
    many = ManyAccounts(target, 1, scale.budget)
    box = Metered(many if labels == "soft" else Labels(many), scale.budget)
    stolen, own = clone(seed, scale), torch.eye(10)[names]
    Knockoff(budget=scale.budget)(box, drawn, stolen, seed=seed)
    alone = learned(drawn, own, seed, scale)["clone_accuracy"]
    found = {"answers": box.spent, "honest_answers": many.honest_answers, "drawn_pass": drawn_pass(target, drawn)}
    return {**judged(stolen, scale.task), "no_theft": alone, **found}


def labels_alone(target: Target, seed: int, scale: Scale, *, n: int) -> dict[str, Any]:
    """What n labeled task samples give without any query: the median of five draws."""
    x, y = tested(scale.task)
    found = []
    for draw in range(5):
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(derive(seed, "alone", draw)))
        known, net = order[:n].repeat(16), clone(derive(seed, draw), scale)
        training = Training(epochs=40, batch=32, lr=0.02, augment="half-affine")
        fit(net, x[known], y[known], training, seed=draw, progress=False)
        found.append(accuracy(logits(net, x[order[n:]]).softmax(dim=1), y[order[n:]]))
    return {"no_theft": statistics.median(found), "draws": found}


def told_apart(target: Target, _: int, scale: Scale, *, pool_name: str) -> dict[str, Any]:
    """AUC of honest answers against decoys by one soft answer: its shape, and its class by the true odds of each."""
    x = pool(pool_name, scale.task)[: scale.budget]
    outputs = outputs_of(target.heads, x)
    honest = odds(outputs) > target.gate.strictness
    answers = target.gate.answers(outputs, honest)
    labels = answers.argmax(dim=1)
    share = torch.stack([honest[labels == k].double().mean() for k in range(answers.shape[1])]).nan_to_num()
    shape = {f"auc_{name}": auc(score, honest) for name, score in {
        "minimum": -answers.amin(dim=1), "confidence": answers.amax(dim=1), "class": share[labels],
    }.items()}  # fmt: skip
    return {"honest": honest.double().mean().item(), **shape}


def auc(score: Tensor, positive: Tensor) -> float:
    """The chance that a positive scores above a negative, ties half."""
    values, place = score.double().unique(return_inverse=True)
    up = place[positive].bincount(minlength=len(values)).double()
    down = place[~positive].bincount(minlength=len(values)).double()
    below = down.cumsum(0) - down / 2
    return ((up * below).sum() / (up.sum() * down.sum()).clamp_min(1)).item()


def related(target: Target, seed: int, scale: Scale, *, kept: int, accounts: int) -> dict[str, Any]:
    """Whether an index of recent queries could join the accounts of an attacker.

    Half of all queries are of honest accounts, test inputs half of which are moved; half are of an attacker's accounts,
    exploration told which answers are honest. Of the queries that the net itself answers, the index keeps the latest
    `kept` in the net's features. A query's evidence is how near it is to the nearest of another account. AUC of
    attackers' against honest queries, and against the same of accounts, by the means of their queries.
    """
    many, size = ManyAccounts(target, accounts, -(-scale.budget // accounts)), min(scale.budget, EARNED * accounts)
    box = Recorded(many, target.shape)
    how = replace(CLONES["told early"], budget=size, training=Training(epochs=1), least=1)  # type: ignore[type-var]
    with suppress(*FEW):
        queries = pool(scale.pools[0], scale.task)
        how(Metered(box, size), queries, clone(seed, scale), seed=seed, honest=many.honest)  # type: ignore[call-arg, operator]
    x, owner = box.x, torch.tensor(many.owners[: len(box.x)])
    test = moved(tested(scale.task)[0], "half moved", seed)
    order = torch.randint(len(test), (len(x),), generator=torch.Generator().manual_seed(derive(seed, "related")))
    both = torch.stack([x, test[order]], dim=1).flatten(0, 1)
    owners = torch.stack([owner, accounts + owner], dim=1).flatten()
    theirs = torch.arange(len(both)) % 2 == 0
    answered = torch.cat([odds(outputs_of(target.heads, part)) > target.gate.strictness for part in both.split(4096)])
    v, owners, theirs = features(target.net, both[answered]), owners[answered], theirs[answered]
    near = torch.full((len(v),), -torch.inf)
    for rows in torch.arange(len(v)).split(256):
        latest = torch.arange(max(0, int(rows[0]) - kept), int(rows[0]))
        if len(latest):
            found = v[rows] @ v[latest].T
            near[rows] = found.masked_fill(owners[rows][:, None] == owners[latest], -1).amax(dim=1)
    there = near > -1
    near, owners, theirs = near[there], owners[there], theirs[there]
    of_account = [(near[owners == o].mean(), bool(theirs[owners == o][0])) for o in owners.unique().tolist()]
    means, whose = torch.tensor([m for m, _ in of_account]), torch.tensor([w for _, w in of_account])
    return {"attackers": int(theirs.sum()), "honest": int((~theirs).sum()), "auc_query": auc(near, theirs),
            "auc_account": auc(means, whose)}  # fmt: skip


def features(net: nn.Module, x: Tensor) -> Tensor:
    """What the last linear layer reads, as vectors of length 1, (N, D)."""
    last, seen = [part for part in net.modules() if isinstance(part, nn.Linear)][-1], list[Tensor]()
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        logits(net, x)
    finally:
        hook.remove()
    return nn.functional.normalize(torch.cat(seen), dim=1)


# --- what honest users get -----------------------------------------------------------------------------------------


def moved(x: Tensor, how: str, seed: int) -> Tensor:
    with seeded(derive(seed, how)):
        match how.split():
            case "as", "it", "is":
                return x
            case "slightly", "moved":
                return affine(x, angle=0.05, scale=0.03, shift=0.02).clamp(0, 1)
            case "noise", deviation:
                return (x + float(deviation) * torch.randn(x.shape)).clamp(0, 1)
            case "half", "moved":
                order = torch.randperm(len(x))
                return half_affine(x[order])[order.argsort()].clamp(0, 1)
            case ["faint"]:
                return 0.6 * x
            case ["blurred"]:
                return F.avg_pool2d(x, 3, stride=1, padding=1)
            case ["smaller"]:
                edge = x.shape[-1] // 9
                return F.pad(F.interpolate(x, size=x.shape[-1] - 2 * edge, mode="bilinear", antialias=True), [edge] * 4)
            case _:
                return affine(x).clamp(0, 1)


def honest(target: Target, seed: int, scale: Scale, *, how: str, share: float = 0.0) -> dict[str, Any]:
    """Accounts that ask test inputs drawn with replacement, a share of them printed digits instead."""
    x, y = tested(scale.task)
    x = moved(x, how, seed)
    foreign, names = printed(2000, seed) if share else (x[:0], y[:0])
    mixed, labels = torch.cat([x, foreign]), torch.cat([y, names])
    outputs = outputs_of(target.heads, mixed)
    alone = outputs["logits"].argmax(dim=1) == labels
    generator = torch.Generator().manual_seed(derive(seed, "honest", how))
    suspected, right, when = 0, [], []
    for _ in range(scale.accounts):
        rows = torch.randint(len(x), (scale.each,), generator=generator)
        other = torch.rand(scale.each, generator=generator) < share
        drawn = torch.randint(max(1, len(foreign)), (scale.each,), generator=generator)
        rows = torch.where(other, len(x) + drawn, rows)
        part = {name: output[rows] for name, output in outputs.items()}
        passed, _ = target.review(part, target.guard.start())
        answers = target.gate.answers({name: output[: len(passed)] for name, output in part.items()}, passed)
        hit = torch.zeros(scale.each, dtype=torch.bool)
        hit[: len(passed)] = answers.argmax(dim=1) == labels[rows[: len(passed)]]
        suspected += len(passed) < scale.each
        right.append(hit)
        when.append(other)
    hits, others = torch.stack(right), torch.stack(when)
    found = {"suspected": suspected / scale.accounts, "net_alone": alone[: len(x)].double().mean().item()}
    found |= {"first_five": hits[:, :5].double().mean().item(), "later": hits[:, 20:].double().mean().item()}
    if share:
        found |= {"printed": hits[others].double().mean().item(), "own": hits[~others].double().mean().item()}
        found |= {"printed_net_alone": alone[len(x) :].double().mean().item()}
    return found


def drift(target: Target, seed: int, scale: Scale, *, what: str) -> dict[str, Any]:
    """How far the means of many inputs' logits are from the task's, by classes, in squared standard deviations."""
    drawn, _ = DRAWN[scale.task](scale.each, seed)
    with seeded(derive(seed, "bent")):
        made = {"drawn": drawn, "bent": altered(drawn, BENT)}
    outputs = outputs_of(target.heads, made[what] if what in made else moved(tested(scale.task)[0], what, seed))
    known, inliers = target.gate.measured, odds(outputs) > (SURE if what in made else 0)
    v = outputs["logits"][inliers]
    named = v.argmax(dim=1)
    apart = F.pad((v - known.means[named]) * known.weights[named, None], (0, 1), value=1)
    sums = F.one_hot(named, v.shape[1]).T.to(v.dtype) @ apart
    found = squared(sums.numpy(), known.whitening.numpy(force=True)) / len(v)
    return {"squared_drift": found, "inliers": inliers.double().mean().item()}


def first_five(target: Target, seed: int, scale: Scale, *, how: str) -> dict[str, Any]:
    """Many accounts of forty queries: test inputs that are answered rightly at the beginning and later."""
    found = honest(target, seed, replace(scale, accounts=10 * scale.accounts, each=40), how=how)
    return {name: found[name] for name in ("first_five", "later", "net_alone", "suspected")}


def took(target: Target, seed: int, scale: Scale) -> dict[str, Any]:
    """How long an answer takes beside one without memory, in twenty requests of 64 inputs."""
    requests = tested(scale.task)[0][: 20 * 64].split(64)
    boxes = {
        name: Accounts(target.heads, guard, target.shape).connect("a")
        for name, guard in {"memory": target.guard, "none": target.gate}.items()
    }
    seconds = interleaved({name: lambda box=box: [box(x) for x in requests] for name, box in boxes.items()}, 25)  # type: ignore[misc]
    ratios = sorted(a / b for a, b in zip(seconds["memory"], seconds["none"], strict=True))
    each = {f"ms_64_{name}": 1000 * statistics.median(times) / 20 for name, times in seconds.items()}
    return {"ratio": statistics.median(ratios), "least": ratios[0], "greatest": ratios[-1], **each}


MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "theft": theft, "cover": cover, "near task": near_task, "labels alone": labels_alone, "told apart": told_apart,
    "related": related, "honest": honest, "first five": first_five, "drift": drift, "time": took,
}  # fmt: skip


# --- the plan ------------------------------------------------------------------------------------------------------


def plan(victims: int, variants: list[str], scale: Scale) -> list[Work]:
    """All work, what matters most first; `variants` are other settings of the defense, NAME=VALUE."""
    shares = (0.05, 0.2) if scale.task == "mnist" else (0.0,)  # of printed digits
    drawn = scale.task in DRAWN
    made: list[tuple[str, dict[str, Any]]] = [("time", {}), ("labels alone", {"n": 20})]
    made += [
        ("theft", {"attack": name, "accounts": a})
        for a in (1000, 20_000, 100, 1)
        for name in ("told explore", "told early")
    ]
    made += [
        ("theft", {"attack": "told warm", "accounts": a, "pool_name": name})
        for a in (100, 1000)
        for name in scale.pools
    ]
    made += [("first five", {"how": how}) for how in ("as it is", "half moved", "moved")]
    made += [("honest", {"how": how}) for how in ("slightly moved", "moved", "noise .1", *_SHIFTED)]
    made += [("honest", {"how": "as it is", "share": share}) for share in shares]
    ways = "as it is", "half moved", "moved", "noise .1", *_SHIFTED, "drawn", "bent"
    made += [("drift", {"what": what}) for what in ways if drawn]
    made += [("cover", {"k": k}) for k in (20, 40, 10, 80, 1) if drawn]
    made += [("cover", {"k": k, "sure": True}) for k in (20, 40, 80) if drawn]
    made += [("cover", {"k": k, "sure": True, "bent": True, "strong": True}) for k in (20, 40, 80) if drawn]
    made += [("cover", {"k": 10, "accounts": 100})] if drawn else []
    made += [("theft", {"guard": "none", "attack": name, "labels": "hard"}) for name in _LABELS]
    made += [("theft", {"guard": "none", "attack": name}) for name in _SOFT]
    made += [("told apart", {"guard": "none", "pool_name": name}) for name in scale.pools]
    plain = [name for name in CLONES if not name.startswith("told") and "smooth" not in name]  # four queries an answer
    made += [("theft", {"attack": name, "accounts": 1}) for name in plain]
    one = {"labels": "hard", "accounts": 1}
    made += [("theft", {"attack": name, **one}) for name in _LABELS if not name.startswith("told")]
    made += [("theft", {"attack": "knockoff", "labels": "hard", "accounts": a}) for a in (100, 1000, 20_000)]
    made += [("theft", {"attack": name, "accounts": 20_000}) for name in _MANY]
    made += [
        ("theft", {"attack": "told explore", "accounts": a, "pool_name": name})
        for name in scale.pools[1:] for a in (1, 100, 1000, 20_000)
    ]  # fmt: skip
    made += [("near task", {"labels": "hard"})] if drawn else []
    made += [("related", {"kept": 16_384, "accounts": a}) for a in (1000, 20_000)]
    for name, value in (variant.split("=") for variant in variants):
        other = {name: float(value)}
        made += [("theft", {"attack": "told explore", "accounts": a, **other}) for a in (100, 1000, 20_000)]
        made += [("honest", {"how": "as it is", "share": shares[0], **other})]
        made += [("honest", {"how": "moved", **other}), ("first five", {"how": "as it is", **other})]
    return [Work(victim, name, tuple(settings.items())) for name, settings in made for victim in range(victims)]


_SHIFTED = "smaller", "blurred", "faint", "noise .2"  # all inputs differ from the task's in one way
_LABELS = ["told explore", "knockoff", "sieve", "explore consistency", "own-form", "told filter"]
_MANY = ["explore residual", "explore consistency", "knockoff smooth"]
_SOFT = ["knockoff", "knockoff smooth", "explore residual", "filter residual", "explore minimum", "unmask", "own-form"]


def release_of(victim: int, scale: Scale) -> Path:
    return Path(scale.folder) / f"victim-{victim}"


def trained(victim: int, scale: Scale, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    out = release_of(victim, scale)
    if not (out / "recipe.json").exists():
        sg.protect(
            scale.net, scale.task, out=out, seed=victim, epochs=scale.epochs, device=scale.device, progress=False
        )
    kept = sg.load(out)
    measured = {name: value.tolist() for name, value in kept.model.measured.named_buffers()}  # type: ignore[operator, union-attr]
    return {"measurement": "victim", "victim": victim, "seconds": kept.recipe["seconds"], **measured}


def measured(work: Work, scale: Scale) -> dict[str, Any]:
    torch.set_num_threads(1)  # many small nets are trained at once, each on a processor of its own
    started, settings = time.perf_counter(), dict(work.settings)
    variant = " ".join(f"{name}={settings[name]:g}" for name in VARIED if name in settings)
    told = {"measurement": work.measurement, "victim": work.victim, "guard": "memory", "variant": variant, **settings}
    defense = ALONE if settings.pop("guard", "memory") == "none" else RobustInI()
    defense = replace(defense, **{name: settings.pop(name) for name in VARIED if name in settings})
    try:
        target = Target(sg.load(release_of(work.victim, scale), device="cpu"), defense, scale.device)
        found = MEASUREMENTS[work.measurement](target, work.victim, scale, **settings)
    except Exception:  # one measurement that breaks must not end the others
        found = {"error": traceback.format_exc()}
    return {**told, "key": key(work), "defense": asdict(defense), **found, "seconds": time.perf_counter() - started}


def key(work: Work) -> str:
    return json.dumps([work.measurement, work.victim, work.settings])


def finished(path: Path, scale: Scale) -> set[str]:
    """The keys of what a file has already of this task and net."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in map(json.loads, lines) if "key" in line and "error" not in line]
    return {line["key"] for line in kept if (line["scale"]["task"], line["scale"]["net"]) == (scale.task, scale.net)}


def results(given: argparse.Namespace, scale: Scale) -> Iterator[dict[str, Any]]:
    """Every line, as it is ready."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // given.victims) if given.workers >= given.victims else 1
    with ProcessPoolExecutor(given.workers, mp_context=context) as workers:
        for ended in as_completed([workers.submit(trained, v, scale, threads) for v in range(given.victims)]):
            yield ended.result()
        only, done = given.only or MEASUREMENTS, finished(given.out, scale)
        planned = [work for work in plan(given.victims, given.variants, scale) if work.measurement in only]
        guarded = [work for work in planned if dict(work.settings).get("guard", "memory") in given.guards]
        chosen = [work for work in guarded if key(work) not in done]
        for ended in as_completed([workers.submit(measured, work, scale) for work in chosen]):
            yield ended.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victims", type=int, default=3)
    parser.add_argument("--task", default="mnist")
    parser.add_argument("--net", default="lenet5", help="of victims and clones")
    parser.add_argument("--pools", nargs="+", default=["letters", "hershey"], help="most queries come from the first")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="where nets are trained and asked")
    parser.add_argument("--out", type=Path, required=True, help="lines are added; what it has is not measured again")
    parser.add_argument("--releases", type=Path, help="folder of the victims; beside the output if it is not given")
    usual = ["floor=-5", "strictness=8", "trust=30"]
    parser.add_argument("--variants", nargs="*", default=usual, help="other settings to compare")
    parser.add_argument("--only", nargs="*", choices=MEASUREMENTS, help="some measurements alone")
    parser.add_argument("--guards", nargs="+", choices=GUARDS, default=GUARDS, help="the default, or it without memory")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    folder = given.releases or given.out.parent / f"{given.out.stem}-victims"
    scale = Scale(str(folder), given.task, given.net, tuple(given.pools), device=given.device)
    if given.quick:
        scale = replace(scale, budget=4_000, epochs=6, accounts=20, each=1000)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    told = {"command": " ".join(["python -m benchmarks.adaptive", *sys.argv[1:]]), "provenance": provenance()}
    with given.out.open("a", encoding="utf-8") as file:
        for line in results(given, scale):
            print(json.dumps({**line, "scale": {**asdict(scale), "folder": ""}, **told}), file=file, flush=True)
            print({k: v for k, v in line.items() if k not in ("defense", "evidence", "key")}, flush=True)


if __name__ == "__main__":
    main()
