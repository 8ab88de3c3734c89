"""What is answered by a net that knows outliers: at once, or by what an account has asked before.

A net whose logits v were trained with outliers as a further class of logit 0 tells by its `odds`, log sum_k exp v_k,
how much likelier an input is of the task than an outlier. An answer names the net's class where the odds are greater
than a strictness, and a decoy's elsewhere. All answers have one shape: a constant for the class that is named, and
another constant for all others, so that neither confidence nor floor tells one kind from the other.

What follows from the outputs alone is computed in torch, so that it can be exported and done once for the merged inputs
of many accounts. What is remembered of one account is computed by NumPy: a request is of a few rows, and an operation
on these takes a microsecond there, but several in torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.boxes.base import logits, outputs_of
from stealguard.defenses.base import Plain
from stealguard.defenses.drift import GROUPS, NEAR, STEP, Drift, centers, followed
from stealguard.seeds import derive
from stealguard.training.augment import half_affine
from stealguard.types import Batch, Scope, State

BINS, LOW, HIGH = 40, -8.0, 12.0  # of the histograms of odds
SCALE = BINS / (HIGH - LOW)
HALF = 0.5  # a count added to each bin
BELOW = -(LOW + np.arange(BINS - 1, 0, -1) / SCALE)  # where bins end, from the last one down, negated
ACCOUNT = "account"  # the name, in the state, of suspicion, trust, standing and three numbers of drift
RECOVERY = 0.7  # suspicion that a query takes back at most: about a tenth of what an outlier adds
BEST = 5.5  # standing: log odds that an account's record takes off its strictness at most
WORST = 0.5  # share of what full trust takes off, that a record puts on again at most
CREDIT = 0.2  # standing that a query earns at most: about a thirtieth of what an outlier costs
FAR = 0.15  # suspicion that a query takes back at most where the account's inputs have drifted
KEPT = 64  # latest queries that a repeat is looked for among
ALIKE = 0.05  # share of the task's inputs that count as repeats of one of `KEPT` others
ROWS = 256  # queries that are compared with others at once
TINY = 1e-24  # squared length of outputs, below which they have no direction
COLUMNS = 16  # of each head's outputs at most, that repeats are recognized by
FIRST = 0.17  # share of the task's inputs that a new account gets decoys for, where its strictness is not given
UNLIMITED = -1  # in place of the number of answers that are left
SIGNALS = "signals"  # the name of what a guard with memory reads

Array = NDArray[np.floating[Any]]

Suspects = Literal["refuse", "decoys"]
SUSPECTS: tuple[Suspects, ...] = get_args(Suspects)


class Numbers(NamedTuple):
    """What `Measured` holds, for NumPy; the evidence from the last bin down."""

    evidence: Array
    confidence: float
    alike: float
    first: float
    means: Array
    whitening: Array
    weights: Array


class Measured(nn.Module):
    """What held-out inputs tell about the odds. Before `measure`, nothing is evidence, and no query is a repeat.

    Attributes:
        evidence: log p(odds | outlier) / p(odds | task) in each bin of odds, (BINS,).
        confidence: the share of the task's inputs that the net classifies correctly, ().
        alike: the likeness, in [-1, 1], above which a query is a repeat, ().
        first: the log odds that all but the share FIRST of the task's inputs have, ().
        means, whitening, weights: the centers of the first COLUMNS logits, (K, D), (D, D) and (K,).
    """

    evidence: Tensor
    confidence: Tensor
    alike: Tensor
    first: Tensor
    means: Tensor
    whitening: Tensor
    weights: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        size = min(COLUMNS, classes)
        self.register_buffer("evidence", torch.zeros(BINS))
        self.register_buffer("confidence", torch.tensor(0.9))
        self.register_buffer("alike", torch.tensor(1.0))
        self.register_buffer("first", torch.tensor(6.0))
        self.register_buffer("means", torch.zeros(classes, size))
        self.register_buffer("whitening", torch.zeros(size, size))
        self.register_buffer("weights", torch.zeros(classes))
        self._numbers: tuple[object, Numbers] | None = None

    @property
    def numbers(self) -> Numbers:
        """All of them as numbers, which are read anew when a buffer has changed."""
        version = [(id(buffer), buffer._version) for buffer in self._buffers.values() if buffer is not None]
        if self._numbers is None or self._numbers[0] != version:
            known = Numbers(
                self.evidence.flip(0).double().numpy(force=True),
                self.confidence.item(), self.alike.item(), self.first.item(),
                *(buffer.numpy(force=True) for buffer in (self.means, self.whitening, self.weights)),
            )  # fmt: skip
            self._numbers = version, known
        return self._numbers[1]

    def measure(self, heads: Mapping[str, nn.Module], held_out: Batch) -> None:
        """Read all of them from inputs that nothing was trained on: task inputs, half of them moved, and outliers."""
        x, y = held_out.x, held_out.y
        moved = half_affine(x, generator=torch.Generator().manual_seed(derive(0, "moved"))).clamp(0, 1)
        task, outlier = (_histogram(logits(heads["logits"], part).logsumexp(dim=1)) for part in (moved, held_out.z))
        outputs = outputs_of(heads, x)
        right = (outputs["logits"].argmax(dim=1) == y.to(x.device)).sum()
        self.evidence.copy_((outlier / task).log())
        self.confidence.copy_((right + 1) / (len(x) + 2))
        self.first.copy_(odds(outputs).quantile(FIRST))
        if len(x) > KEPT:
            self.alike.copy_(likeness(directions(outputs)).quantile(1 - ALIKE))
        v = outputs["logits"]
        for name, found in centers(v[:, :COLUMNS], F.one_hot(v.argmax(dim=1), v.shape[1]))._asdict().items():
            self.get_buffer(name).copy_(found)


def _histogram(odds: Tensor) -> Tensor:
    """The share of each bin, (BINS,)."""
    counts = _bins(odds).bincount(minlength=BINS) + HALF
    return counts / counts.sum()


def _bins(odds: Tensor) -> Tensor:
    """The bins (N,) that odds (N,) fall into; the outer ones are open."""
    return ((odds - LOW) * SCALE).long().clamp(0, BINS - 1)


def directions(outputs: Mapping[str, Tensor]) -> Tensor:
    """What queries are compared by: the directions of both heads' outputs together, (N, D), D at most 2 COLUMNS."""
    return torch.from_numpy(_directed(_compared(outputs).numpy(force=True)))


def _compared(outputs: Mapping[str, Tensor]) -> Tensor:
    """The outputs of both heads, (N, D)."""
    return torch.cat([outputs[name][:, :COLUMNS] for name in ("logits", "decoys")], dim=1)


def _directed(points: Array) -> Array:
    """The points, (N, D), at length 1."""
    squared = np.einsum("nd,nd->n", points, points)
    return points / np.sqrt(np.fmax(squared, TINY))[:, None]  # type: ignore[no-any-return]


def likeness(points: Tensor) -> Tensor:
    """Of each point but the first KEPT, (KEPT + N, D), the greatest cosine with the KEPT before it, (N,)."""
    return torch.from_numpy(_likeness(points.numpy(force=True)))


def _likeness(points: Array) -> Array:
    if len(points) == KEPT + 1:  # most requests are of one query
        return np.fmax.reduce(points[:KEPT].dot(points[KEPT]), keepdims=True)
    found = []
    for start in range(KEPT, len(points), ROWS):
        part = points[start - KEPT : start + ROWS]
        cosines = part[KEPT:].dot(part.T)  # of which row n's columns n to n + KEPT - 1 are wanted
        down, right = cosines.strides
        before = np.ndarray((len(cosines), KEPT), cosines.dtype, cosines, 0, (down + right, right))
        found.append(np.fmax.reduce(before, axis=1))  # of what is no number, nothing is a repeat
    return np.concatenate(found)


def one_shape(chosen: Tensor, classes: int, confidence: float | Tensor) -> Tensor:
    """Rows on the simplex (N, K): `confidence` for the class chosen, (N,), and the rest for the others alike.

    >>> one_shape(torch.tensor([1]), 3, 0.5)
    tensor([[0.2500, 0.5000, 0.2500]])
    """
    sure = torch.as_tensor(confidence, dtype=torch.float64, device=chosen.device)
    sure = sure.clamp_min(1.01 / classes)  # the class is the most probable one, whatever was measured
    named = chosen[:, None] == torch.arange(classes, device=chosen.device)
    return torch.where(named, sure, (1 - sure) / (classes - 1)).float()


@lru_cache(maxsize=64)
def _shapes(classes: int, confidence: float, dtype: np.dtype[Any]) -> Array:
    """The answers (K + 1, K) that name each class, and the uniform one."""
    named = one_shape(torch.arange(classes), classes, confidence).numpy().astype(dtype)
    return np.concatenate([named, np.full((1, classes), 1 / classes, dtype)])


class Gate(Plain):
    """Answers with the net's class where the odds are above a strictness, and with the decoys' elsewhere.

    Args:
        measured: on held-out inputs.
        strictness: log odds; None for `measured.first`.
        decoys: whether there are some; without, what does not pass is answered uniformly.
    """

    def __init__(self, measured: Measured, strictness: float | None, decoys: bool):
        self.measured, self._strictness, self.decoys = measured, strictness, decoys

    @property
    def strictness(self) -> float:
        return self.measured.numbers.first if self._strictness is None else self._strictness

    def answer(self, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return self.answers(outputs, self.passed(outputs, {}))

    def passed(self, outputs: Mapping[str, Tensor], state: State, /) -> Tensor:
        found = odds(outputs)  # which may be on another device than the net
        return found > (self.measured.first.to(found.device) if self._strictness is None else self._strictness)

    def at(self, strictness: float, /) -> Gate:
        return Gate(self.measured, strictness, self.decoys)

    def answers(self, outputs: Mapping[str, Tensor], passed: Tensor) -> Tensor:
        """The answers, (N, K), if the net answers these, (N,)."""
        v = outputs["logits"]
        chosen = torch.where(passed, v.argmax(dim=1), outputs["decoys"].argmax(dim=1))
        answers = one_shape(chosen, v.shape[1], self.measured.confidence).to(v.dtype)
        return answers if self.decoys else torch.where(passed[:, None], answers, 1 / v.shape[1])


def odds(outputs: Mapping[str, Tensor]) -> Tensor:
    """log sum_k exp v_k, (N,)."""
    return outputs["logits"].logsumexp(dim=1)


class Review(NamedTuple):
    """Which queries the net answers, (n,); n is less than the queries' number if the next one reveals an attacker."""

    passed: Tensor
    state: State


class Suspicion(Plain):
    """A gate whose strictness falls as an account earns trust, and that stops to answer an account under suspicion.

    Queries count one by one in their order, however they are batched. With e the evidence of a query's odds, which is
    at most 0 less for a repeat of one of the account's last queries (max(0, e)):

        suspicion <- max(0, suspicion + max(e, -RECOVERY)),    trust <- min(full, max(0, trust - e)),
        standing <- min(BEST, max(-WORST (first - floor), standing - max(e, -CREDIT))),
        strictness = first - max(0, (first - floor) trust / full + standing).

    A new account's suspicion is half of the limit: an outlier adds less than that, so that one alone reveals nobody,
    but two at the beginning do. An outlier adds about ten times as much as an honest query can take back, so that no
    more than an eleventh of an account's queries can be outliers for long.

    Trust is earned and lost within a few queries, and judges what an account asks now. Standing remembers some fifty
    queries. With few outliers it is good, and unusual inputs are answered; with more than one in thirty it is bad,
    however well they are hidden, and only inputs like the task's are answered. A new account's is 0.

    Inputs that are no outliers, and yet together unlike the task's, make good neither: where they have drifted,
    RECOVERY is FAR, and -CREDIT is CREDIT. Inputs that a program draws drift, among which an attacker hides outliers.
    So do inputs of the task that all differ from it in one way, such as being smaller: these users' answers suffer.

    A query that lifts suspicion above the limit reveals an attacker. Then, with `refuse`, the request is refused as a
    whole; the account can have as many answers as there are queries before that one, which are examined like all
    others, and no more. A request for more than these is refused unseen, and a second query that reveals an attacker
    leaves no answers: an account that could be refused again and again would tell, for nothing, which inputs are
    outliers. Neither trust nor standing counts after a refusal, or tests of inputs would cost nothing to an account
    that goes on with what is left. With `decoys`, that query and all later ones are answered with decoys.

    The state is `account`, the numbers above, and of drift how many inliers it is of, whether it was found, and how
    many queries are not yet in its sums; `drift`, these sums; `seen`, the last queries' signals, (KEPT, 3 + D), with 1
    for an inlier, or 0, in place of the odds; and `left`, the answers that it can still have, or UNLIMITED.

    Args:
        gate: its strictness is that of an account without trust.
        floor: the strictness of an account with full trust and a standing of 0, if it is less.
        full: how much trust is full trust, greater than 0.
        limit: of suspicion, greater than 0.
        suspects: what they get, `refuse` or `decoys`.
        classes: K.
        drift: the squared drift that counts as none, greater than 0.
    """

    scope: ClassVar[Scope] = "account"

    def __init__(
        self, gate: Gate, floor: float, full: float, limit: float, suspects: Suspects, classes: int, drift: float = NEAR
    ):
        self._gate, self._floor, self._full, self.limit, self._refuse = gate, floor, full, limit, suspects == "refuse"
        self._classes, self._size, self._near = classes, 2 * min(COLUMNS, classes), drift

    @property
    def strictness(self) -> float:
        """That of an account without trust."""
        return self._gate.strictness

    def start(self) -> State:
        account = torch.tensor([self.limit / 2, 0, 0, 0, 0, 0], dtype=torch.float64)
        sums = torch.zeros(min(GROUPS, self._classes), self._size // 2 + 1, dtype=torch.float64)
        seen = torch.zeros(KEPT, 3 + self._size)
        return {ACCOUNT: account, "drift": sums, "seen": seen, "left": torch.tensor(UNLIMITED)}

    def digest(self, outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The `signals`, (N, 3 + D): the odds, the net's class and the decoys', and outputs of both."""
        if SIGNALS in outputs:
            return outputs
        v = outputs["logits"]
        both = torch.cat([v, outputs["decoys"]], dim=1)
        named = both.reshape(-1, 2, v.shape[1]).argmax(dim=2)
        points = both if v.shape[1] <= COLUMNS else _compared(outputs)
        return {SIGNALS: torch.cat([v.logsumexp(dim=1, keepdim=True), named.to(v.dtype), points], dim=1)}

    def passed(self, outputs: Mapping[str, Tensor], state: State, /) -> Tensor:
        return self.review(outputs, state).passed

    def at(self, strictness: float, /) -> Gate:
        return self._gate.at(strictness)

    def review(self, outputs: Mapping[str, Tensor], state: State) -> Review:
        """Look at an account's next queries, up to the first that reveals an attacker."""
        signals = self.digest(outputs)[SIGNALS]
        passed, after = self._review(signals.numpy(force=True), state)
        return Review(torch.tensor(passed, dtype=torch.bool, device=signals.device), after)

    @np.errstate(invalid="ignore")  # a net may overflow
    def _review(self, signals: Array, state: State) -> tuple[list[bool], State]:
        known = self._gate.measured.numbers
        suspicion, trust, standing, inliers, judged, pending = state[ACCOUNT].tolist()
        sums, seen = state["drift"].numpy(force=True), state["seen"].numpy(force=True)
        recent, evidence = np.concatenate((seen, signals)), known.evidence.take(BELOW.searchsorted(-signals[:, 0]))
        repeats = _likeness(_directed(recent[:, 3:])) > known.alike
        if repeats.any():
            evidence[repeats] = np.fmax(evidence[repeats], 0)
        recent[KEPT:, 0] = evidence < 0
        before = Drift(sums, int(inliers), judged > 0, int(pending))
        drifted, after = self._drift(recent, before)
        strictness, full, trust = self.strictness, self._full, min(self._full, trust)
        most = max(0.0, strictness - self._floor)
        worst, fall = -WORST * most, most / full if int(state["left"]) == UNLIMITED else 0.0
        passed = list[bool]()
        for o, e, moved in zip(signals[:, 0].tolist(), evidence.tolist(), drifted, strict=True):
            relief, least = (FAR, CREDIT) if moved else (RECOVERY, -CREDIT)
            if suspicion <= self.limit:
                suspicion += e if e > -relief else -relief
            if suspicion > self.limit:
                break
            granted = fall * trust + standing if fall else 0.0
            passed.append(o > (strictness - granted if granted > 0 else strictness))
            suspicion, trust = suspicion if suspicion > 0 else 0.0, min(full, trust - e) if trust > e else 0.0
            standing -= e if e > least else least
            standing = BEST if standing > BEST else worst if standing < worst else standing
        n = len(passed)
        if n < len(signals):
            _, after = self._drift(recent[: KEPT + n], before)
        last = recent[n : n + KEPT].astype(seen.dtype, copy=n > KEPT)  # no long request is kept for its end's sake
        numbers = np.array([suspicion, trust, standing, after.inliers, after.drifted, after.pending])
        changed = {ACCOUNT: numbers, "seen": last, "drift": after.sums}
        return passed, {**state, **{key: torch.from_numpy(value) for key, value in changed.items()}}

    def _drift(self, recent: Array, before: Drift) -> tuple[list[bool], Drift]:
        """Whether the account's inputs have drifted at each of its next queries, and what is known after them."""
        sums, inliers, drifted, pending = before
        n, more = len(recent) - KEPT, int(np.count_nonzero(recent[KEPT:, 0]))
        if pending + n <= KEPT and inliers % STEP + more < STEP:  # nothing is judged, and nothing forgotten
            return [drifted] * n, Drift(sums, inliers + more, drifted, pending + n)
        rows, known = recent[KEPT - pending :], self._gate.measured.numbers
        summed = Drift(sums, inliers - int(np.count_nonzero(rows[:pending, 0])), drifted)
        flags, after = followed(summed, *self._apart(rows, known), known.whitening, self._near)
        return flags[pending:], after

    def _apart(self, rows: Array, known: Numbers) -> tuple[Array, NDArray[np.intp]]:
        """What drift is followed by: differences from the means of classes, and 1, (n, D + 1), and groups, (n,)."""
        named, size = rows[:, 1].astype(np.intp), self._size // 2
        apart = np.ones((len(rows), size + 1))
        apart[:, :-1] = rows[:, 3 : 3 + size] - known.means.take(named, axis=0)
        apart[:, :-1] *= known.weights.take(named)[:, None]
        apart[rows[:, 0] == 0] = 0  # what is no number, too
        return apart, named % GROUPS

    def _answers(self, signals: Array, passed: list[bool]) -> Array:
        """The answers, (N, K), if the net answers these queries, and none that comes later."""
        net, chosen = signals[:, 1:3].T.astype(np.intp)
        if not self._gate.decoys:
            chosen.fill(self._classes)
        np.copyto(chosen[: len(passed)], net[: len(passed)], where=passed)
        return _shapes(self._classes, self._gate.measured.numbers.confidence, signals.dtype).take(chosen, axis=0)

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        left, given = int(state["left"]), self.digest(outputs)[SIGNALS]
        signals = given.numpy(force=True)
        if UNLIMITED < left < len(signals):
            return torch.from_numpy(self._answers(signals[:left], [])).to(given.device), state
        passed, after = self._review(signals, state)
        n, asked = len(passed), len(signals)
        answers = torch.from_numpy(self._answers(signals, passed))
        if not given.is_cpu:
            answers = answers.to(given.device)
        if not self._refuse:
            return answers, after
        if n < asked:  # what came before the revealing query is not held against the account twice
            n = n if left == UNLIMITED else 0
            return answers[:n], {**state, "left": torch.tensor(n)}
        return answers, after if left == UNLIMITED else {**after, "left": torch.tensor(left - n)}
