"""PRADA (Juuti, Szyller, Marchal & Asokan, EuroS&P 2019, arXiv 1805.02628): queries too regular to be a user's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stealguard.defenses.base import Cost, Defense
from stealguard.defenses.detection import Detector
from stealguard.errors import StealguardError, require
from stealguard.types import Guard, State

FIRST = 100  # a verdict needs more distances than this
OF_A_CLASS = 10  # and at least so many of a class, for them to count
OUTLIER = 3.0  # standard deviations from the mean at which a distance is left out


@dataclass(frozen=True)
class PRADA(Defense):
    """Refuses an account whose queries' distances to its own earlier ones are not normally distributed.

    Of each class that the model answers, a growing set of the account's queries is kept. A query's distance is that to
    the nearest of its class's set, and it joins the set if that is more than T = max(T, mean - deviation of the
    distances at which members joined). All distances without outliers go through the Shapiro-Wilk test; W < delta
    reveals an attacker. The distances of natural queries are normally distributed; those of synthetic ones follow from
    the step with which they were made.

    As in the authors' program a verdict is given every ten queries, on more than 100 distances, from classes with at
    least ten. Theirs keeps every query that joins and every distance, and may accept an account again; here both are
    bounded, and an account that was refused stays so.

    Args:
        delta: the strength, in [0, 1]: the least W of an honest account. The defender measures W on honest accounts to
            set it.
        every: queries from one verdict to the next.
        kept: of an account's queries in all growing sets together; when they are full none joins.
        window: of its latest distances; at most 5000, for which the test is valid.
    """

    # A verdict needs more than `FIRST` distances of one account: fewer from each of many are never judged.
    countered_by = ("accounts",)

    delta: float = 0.9
    every: int = 10
    kept: int = 2000
    window: int = 4000

    def __post_init__(self) -> None:
        require(0 <= self.delta <= 1, "delta", "in [0, 1]", self.delta)
        for name in ("every", "kept"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(FIRST < self.window <= 5000, "window", f"in {FIRST + 1} .. 5000", self.window)

    @property
    def cost(self) -> Cost:
        return Cost(state=f"up to {self.kept} queries and {self.window} distances an account")

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        """
        Raises:
            StealguardError: scipy is not installed.
        """
        _shapiro()
        return Distances(self)


class Distances(Detector):
    """Refuses by the distances between an account's queries, which it remembers."""

    def __init__(self, settings: PRADA):
        self._settings = settings

    def blank(self) -> State:
        none = torch.empty(0, dtype=torch.float64)
        return {
            "seen": torch.tensor(0),
            "inputs": torch.empty(0, 0), "classes": none.long(), "gaps": none.clone(),
            "distance_classes": none.long(), "distances": none.clone(),
            "threshold_classes": none.long(), "thresholds": none.clone(),
        }  # fmt: skip

    def examine(
        self, answers: Tensor, outputs: Mapping[str, Tensor], x: Tensor, state: State
    ) -> tuple[State, int | None]:
        history = _History(state, self._settings)
        found = history.examine(x.detach().flatten(1).float().cpu(), answers.argmax(dim=1).tolist())
        return history.state(), found


class _History:
    """The queries of one account, read from a state that stays as it is.

    Args:
        state: see `state`.
        settings: the defense.
    """

    def __init__(self, state: State, settings: PRADA):
        self._settings, self._seen = settings, int(state["seen"])
        self._inputs = list(state["inputs"])  # the growing sets, one after the other as they grew: queries (D,),
        self._classes = state["classes"].tolist()  # the class of each,
        self._gaps = state["gaps"].tolist()  # and the distance at which it joined
        self._thresholds = dict(zip(state["threshold_classes"].tolist(), state["thresholds"].tolist(), strict=True))
        pairs = zip(state["distance_classes"].tolist(), state["distances"].tolist(), strict=True)
        self._distances = deque[tuple[int, float]](pairs, maxlen=settings.window)  # with their classes

    def state(self) -> State:
        """What is remembered.

        `seen` queries; the growing sets as `inputs` (M, D), their `classes` (M,) and the distances (`gaps`, (M,)) at
        which they joined; the latest `distances` (L,) and their `distance_classes`; of each of the `threshold_classes`
        the threshold, (C,).
        """
        return {
            "seen": torch.tensor(self._seen),
            "inputs": torch.stack(self._inputs) if self._inputs else torch.empty(0, 0),
            "classes": torch.tensor(self._classes, dtype=torch.long),
            "gaps": torch.tensor(self._gaps, dtype=torch.float64),
            "distance_classes": torch.tensor([c for c, _ in self._distances], dtype=torch.long),
            "distances": torch.tensor([d for _, d in self._distances], dtype=torch.float64),
            "threshold_classes": torch.tensor(list(self._thresholds), dtype=torch.long),
            "thresholds": torch.tensor(list(self._thresholds.values()), dtype=torch.float64),
        }

    def examine(self, queries: Tensor, classes: list[int]) -> int | None:
        """Remember queries (N, D) of these classes, up to the first that reveals an attacker; its number, or None."""
        nearest, among = np.full(len(queries), np.inf), {}
        for c in set(classes):
            rows = np.flatnonzero(np.array(classes) == c)
            of_class = queries[torch.from_numpy(rows)]
            among[c] = rows, _distances(of_class, of_class)
            if c in self._thresholds:
                old = torch.stack([z for z, k in zip(self._inputs, self._classes, strict=True) if k == c])
                nearest[rows] = _distances(of_class, old).min(axis=1)
        for i, c in enumerate(classes):
            if self._note(c, queries[i], float(nearest[i])):
                rows, distances = among[c]
                nearest[rows] = np.minimum(nearest[rows], distances[np.searchsorted(rows, i)])
            self._seen += 1
            if self._seen % self._settings.every == 0 and self._suspicious():
                return i
        return None

    def _note(self, c: int, query: Tensor, distance: float) -> bool:
        """Note the distance; whether the query joins its class's set."""
        new = c not in self._thresholds
        if not new:
            self._distances.append((c, distance))
        if len(self._inputs) == self._settings.kept or not (new or distance > self._thresholds[c]):
            return False
        self._inputs.append(query)
        self._classes.append(c)
        self._gaps.append(0.0 if new else distance)
        gaps = np.array(self._gaps)[np.array(self._classes) == c]
        self._thresholds[c] = max(self._thresholds.get(c, 0.0), gaps.mean() - gaps.std())
        return True

    def _suspicious(self) -> bool:
        if len(self._distances) <= FIRST:
            return False
        classes, distances = (np.array(column) for column in zip(*self._distances, strict=True))
        d = distances[np.bincount(classes)[classes] >= OF_A_CLASS]
        d = d[np.abs(d - d.mean()) < OUTLIER * d.std()] if len(d) else d
        return len(d) > FIRST and float(_shapiro()(d).statistic) < self._settings.delta


def _distances(x: Tensor, y: Tensor) -> np.ndarray:
    """L2 distances (N, M) of rows (N, D) and (M, D), the same whatever the batch: not by matrix products."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").double().numpy()


def _shapiro() -> Callable[[np.ndarray], Any]:
    """The Shapiro-Wilk test of values (N,), whose statistic is W."""
    try:
        from scipy.stats import shapiro
    except ImportError as e:
        raise StealguardError("prada needs scipy: pip install 'stealguard[detect]'") from e
    return shapiro
