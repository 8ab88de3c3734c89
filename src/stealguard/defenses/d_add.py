"""D-ADD (Mei et al., AAAI 2025, arXiv 2503.12497): an account's latest queries against the task's inputs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.boxes.base import logits
from stealguard.defenses.base import Cost, Defended, Defense, Plain, evaluating
from stealguard.defenses.hashing import projection, uniforms
from stealguard.errors import counted, require
from stealguard.nets import seed_from
from stealguard.seeds import derive
from stealguard.types import Batch, Scope, State

CLASSES = 256  # at most: each has a covariance of as many rows and columns
DRAWN = 4_000  # windows of held-out inputs, of which the threshold is a quantile
AT_ONCE = 2**21  # entries of the windows' matrices in memory


class Reference(nn.Module):
    """A normal distribution of the task's logits for each class, and what windows of task inputs differ from them.

    Nothing is known before `measure`: then no window differs by more than the threshold.

    Args:
        window: queries that are judged together, W.
        classes: K.
        key: of what poisoned answers are drawn from.
    """

    mean: Tensor
    factor: Tensor
    trace: Tensor
    scores: Tensor
    key: Tensor

    def __init__(self, window: int, classes: int, key: int):
        super().__init__()
        self.window = window
        self.register_buffer("mean", torch.zeros(classes, classes))
        self.register_buffer("factor", torch.zeros(classes, classes, classes))  # L, where L L^T is the covariance
        self.register_buffer("trace", torch.zeros(classes))  # of the covariance
        self.register_buffer("scores", torch.full((DRAWN,), torch.inf))
        self.register_buffer("key", torch.tensor(key))

    @torch.no_grad()
    def measure(self, v: Tensor, y: Tensor) -> None:
        """Fit on half of the held-out logits (N, K) with labels (N,), and score windows of the other half.

        Fewer inputs than a window has queries say nothing about windows: nothing is known of the task then.
        """
        if len(v) < self.window:
            found = f"a window has {self.window}, and held out were only {counted(len(v), 'task input')}"
            warnings.warn(f"d-add judges no query: {found}.", stacklevel=2)
            return
        generator = torch.Generator().manual_seed(int(self.key))
        half = len(v) // 2
        order = torch.randperm(len(v), generator=generator).to(v.device)
        one, other = order[:half], v[order[half:]]
        self._fit(v[one].double(), y[one])
        drawn = torch.randint(len(other), (DRAWN, self.window), generator=generator).to(v.device)
        self.scores.copy_(torch.cat([self.discrepancy(other[index]) for index in drawn.split(self.at_once)]))

    def _fit(self, v: Tensor, y: Tensor) -> None:
        """A class without held-out inputs has the distribution of all of them."""
        for c in range(len(self.mean)):
            of_class = v[y == c] if bool((y == c).any()) else v
            mean = of_class.mean(dim=0)
            _, s, basis = torch.linalg.svd((of_class - mean) / math.sqrt(len(of_class)), full_matrices=False)
            self.mean[c], self.trace[c] = mean.to(self.mean), s.square().sum().to(self.mean)
            self.factor[c].zero_()[:, : len(s)] = (basis.T * s).to(self.mean)

    @property
    def at_once(self) -> int:
        """How many windows are scored together."""
        return max(1, AT_ONCE // (self.window * max(self.window, len(self.mean))))

    def discrepancy(self, windows: Tensor) -> Tensor:
        """Squared Frechet distances to the classes' distributions, weighted by the classes' shares, (B,).

        sum_c n_c / W (|m_c - mu_c|^2 + tr C_c + tr S_c - 2 tr (C_c S_c)^(1/2)): of the n_c queries that the net gives
        class c, m_c is the mean and C_c the covariance; mu_c and S_c are the task's. The traces of the roots follow
        from one symmetric matrix of W rows a window: with S = L L^T and the centered queries Z of a class,
        (C S)^(1/2) has the eigenvalues of (Z L L^T Z^T / n)^(1/2).

        A window with a number that is not finite is infinitely far.

        Args:
            windows: logits, (B, W, K).
        """
        v = windows.to(self.mean.device, torch.float64)
        finite = v.isfinite().flatten(1).all(dim=1)
        v = v.nan_to_num(posinf=0, neginf=0)
        top = v.argmax(dim=2)
        same = (top[:, :, None] == top[:, None, :]).double()
        n = same.sum(dim=2, keepdim=True)
        off = v - self.mean[top].double()
        turned = self._turned(off.flatten(0, 1), top.flatten()).view_as(off)
        centers, turned = same @ off / n, turned - same @ turned / n
        spread = (off - centers).square().sum(dim=2)
        roots = torch.linalg.eigvalsh(same * n * (turned @ turned.mT)).clamp(min=0).sqrt().sum(dim=1)
        each = centers.square().sum(dim=2) + spread + self.trace[top].double()
        found = (each.sum(dim=1) - 2 * roots) / windows.shape[1]
        return found.where(finite, torch.inf).to(windows)

    def _turned(self, v: Tensor, classes: Tensor) -> Tensor:
        """Rows (M, K) times the factor of the class of each."""
        out = torch.empty_like(v)
        for c in classes.unique().tolist():
            rows = classes == c
            out[rows] = v[rows] @ self.factor[c].double()
        return out


class Discrepancy(Plain):
    """Answers at random what ends a window of an account's queries that differs too much from the task.

    The state is the logits of the account's latest queries, `latest` (at most W - 1, K).
    """

    scope: ClassVar[Scope] = "account"

    def __init__(self, reference: Reference, alarms: float):
        self._reference, self._alarms = reference, alarms

    def start(self) -> State:
        return {"latest": torch.zeros(0, len(self._reference.mean))}

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        y, v, known = self.answer(outputs, x), outputs["logits"], self._reference
        rows = torch.cat([state["latest"].to(v), v])
        poisoned = torch.zeros(len(v), dtype=torch.bool, device=v.device)
        if len(rows) >= known.window:
            windows = rows.unfold(0, known.window, 1).mT
            scores = torch.cat([known.discrepancy(part) for part in windows.split(known.at_once)])
            most = known.scores.quantile(1 - self._alarms, interpolation="higher")
            poisoned[-len(scores) :] = scores > most.to(scores)
        kept = rows[len(rows) - min(len(rows), known.window - 1) :].clone()  # no long request for its end's sake
        if poisoned.any():
            y = y.clone()
            y[poisoned] = self._random(x[poisoned.to(x.device)], y)
        return y, {"latest": kept.detach().float().cpu()}

    def _random(self, x: Tensor, y: Tensor) -> Tensor:
        """Softmax of normal logits that follow from the input, (N, K)."""
        u = uniforms(projection(x, int(self._reference.key))[0], y.shape[1])
        return F.softmax(math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 1e-12, 1 - 1e-12)), dim=1).to(y)


class Referenced(Defended):
    """The user's net and the `reference` that accounts are compared with; forward is the net's logits."""

    def __init__(self, net: nn.Module, settings: DADD, classes: int):
        reference = Reference(settings.window, classes, derive(seed_from(net), "poison"))
        super().__init__(net, Discrepancy(reference, settings.alarms))
        self.reference = reference

    def calibrate(self, held_out: Batch) -> None:
        device = self.reference.mean.device
        self.reference.measure(logits(self.net, held_out.x).to(device), held_out.y.to(device))


@dataclass(frozen=True)
class DADD(Defense):
    """Answers an account at random while its latest queries are distributed unlike task inputs.

    A window of an account's latest W queries is scored by the squared Frechet distance between normal distributions,
    of the window's queries and of task inputs, class by class. A query that ends a window with a score above the
    threshold is answered by random probabilities.

    In the paper features are those before the last layer; here they are the logits, since any module may be the net.
    Its thresholds are numbers for each data set; here the threshold is a quantile of the scores of windows of
    validation inputs. The published program judges batches of W queries; here every query ends a window, however
    queries are batched, and an account's first W - 1 queries are answered by the net. With fewer than W validation
    inputs, a tenth of the training inputs, no query is judged. What is drawn follows from the
    input, so that asking again tells nothing new.

    Args:
        alarms: the strength, in [0, 1]: the share of windows of task inputs whose last query is answered at random.
        window: W, at least 2; the paper has 16 for ten classes, and 256 for a hundred.
    """

    # A verdict needs `window` queries of one account: fewer from each of many are never judged. A window that is
    # filled with repeats of typical queries is close to the task.
    countered_by = ("knockoff", "cover", "accounts")

    answering = ("alarms",)

    alarms: float = 0.001
    window: int = 16

    def __post_init__(self) -> None:
        require(0 <= self.alarms <= 1, "alarms", "in [0, 1]", self.alarms)
        require(self.window >= 2, "window", "at least 2", self.window)

    @property
    def distortion_limit(self) -> float:
        return 2.0

    @property
    def cost(self) -> Cost:
        return Cost(state=f"the logits of {self.window - 1} queries an account")

    def build(self, net: nn.Module, like: Tensor) -> Defended:
        """
        Raises:
            Invalid: the net has more than 256 classes, whose covariances would not fit.
        """
        with evaluating(net):
            classes = logits(net, like[:2]).shape[1]
        require(classes <= CLASSES, "classes", f"at most {CLASSES} for `d-add`", classes)
        return Referenced(net, self, classes)
