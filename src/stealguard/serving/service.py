"""One release, ready to answer the requests of many accounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealguard.boxes import Accounts
from stealguard.boxes.accounts import Judged, States
from stealguard.checks import check_range
from stealguard.defenses.suspicion import ACCOUNT, Suspicion
from stealguard.releases import Release
from stealguard.releases.recipes import validated
from stealguard.serving.batching import Batcher
from stealguard.serving.engine import HeadsEngine
from stealguard.serving.keys import Restriction
from stealguard.serving.limits import Limits
from stealguard.serving.protocol import Query, Spec


class Answered(NamedTuple):
    """The answers (N, K) to a request, and the suspicion of its account after its batch, where the guard has one."""

    answers: NDArray[np.float32]
    suspicion: float | None = None


class _Question(NamedTuple):
    """What one request asks: inputs (N, *shape) as users have them, for an account; and what its answers may tell."""

    account: str
    x: NDArray[np.float32]
    restriction: Restriction


class Service:
    """A release that answers requests: heads on the merged inputs, the guard by account, then the restriction.

    The answers to a request do not depend on the others that share its batch, up to the last bits of a float, which
    vary with the size of a batch. With `merge` off, each request is a batch of its own, and its answers are those of
    `release.connect(account)` to the last bit where the engine is torch.

    Args:
        release: what is served.
        engine: computes the release's heads.
        states: where the guard's memory is kept.
        name: of the model in addresses; the release's own if empty.
        version: of the model in addresses.
        restriction: what all answers may tell at most, whatever the key is.
        limits: of rows a request, a batch and the queue.
        merge: whether requests share batches.
    """

    def __init__(
        self,
        release: Release,
        engine: HeadsEngine,
        states: States | None = None,
        *,
        name: str = "",
        version: str = "1",
        restriction: Restriction | None = None,
        limits: Limits | None = None,
        merge: bool = True,
    ):
        limits = limits or Limits()
        self.restriction = restriction or Restriction()
        self.spec = Spec(
            name or release.name, version, release.shape, release.output.classes, release.output.names, limits.rows,
            release.identity, "" if self.restriction.labels else release.defense.confidence,
        )  # fmt: skip
        self.release, self.engine = release, engine
        self.weights: str = release.recipe["weights_sha256"]
        self._scaling = release.scaling
        self._accounts = Accounts({}, release.model.guard, release.shape, states)
        self._batcher = Batcher[_Question, Answered](
            self._compute, limits.batch_rows, limits.queue_rows, merge=merge,
            begin=_begin,
        )  # fmt: skip

    @property
    def waiting(self) -> int:
        """How many inputs wait for their answers."""
        return self._batcher.waiting

    async def answer(self, account: str, query: Query, restriction: Restriction) -> Answered:
        """The account's answers to a query.

        Raises:
            Invalid: a value is outside of [0, 1], where the release has no units of its own.
            Refused: the guard answers fewer inputs; none is answered.
            Overloaded: too many inputs wait.
        """
        x = query.x
        if self._scaling is None and not query.unit:
            check_range(float(x.min()), float(x.max()), "input", unit=True)
        question = _Question(account, x, restriction.stricter(self.restriction))
        return await self._batcher(question, len(x), account)

    @property
    def suspicion_limit(self) -> float | None:
        """The suspicion above which an account is refused; None for guards without suspicion."""
        guard = self.release.model.guard
        return guard.limit if isinstance(guard, Suspicion) else None

    def card(self) -> dict[str, str]:
        """The facts of the release, in words, for a reader."""
        recipe = self.release.recipe
        right = validated(recipe)
        return {
            "Task": recipe["data"]["name"], "Net": recipe["net"], "Defense": recipe["defense"]["name"],
            "Classes": f"{recipe['classes']:,}",
            "Validation accuracy": "unknown" if right is None else f"{100 * right:.1f} %",
            "Computed by": f"{self.engine.backend}, {self.engine.device}", "Weights": self.weights[:16],
            "Identity": self.release.identity[:16],
        }  # fmt: skip

    def close(self) -> None:
        """Take no further requests; those that wait are still answered."""
        self._batcher.close()

    def _compute(self, questions: Sequence[_Question]) -> list[Answered | Exception]:
        groups: dict[str, list[int]] = {}  # the places of questions that count in one memory
        for place, question in enumerate(questions):
            groups.setdefault(self._accounts.memory_of(question.account), []).append(place)
        order = [place for group in groups.values() for place in group]
        x = np.concatenate([questions[place].x for place in order])
        if self._scaling is not None:
            x = self._scaling.to01(torch.from_numpy(x)).numpy()
        outputs, inputs, end = self.engine(x), torch.from_numpy(x), 0
        found: dict[int, Answered | Exception] = {}
        for name, group in groups.items():
            sizes = [len(questions[place].x) for place in group]
            start, end = end, end + sum(sizes)
            if len(groups) == 1:
                judged = self._judged(name, outputs, inputs, sizes)
            else:
                part = {head: output[start:end] for head, output in outputs.items()}
                judged = self._judged(name, part, inputs[start:end], sizes)
            for place, answered in zip(group, judged, strict=True):
                found[place] = _told(answered, questions[place].restriction)
        return [found[place] for place in range(len(questions))]

    def _judged(
        self, account: str, outputs: Mapping[str, Tensor], x: Tensor, sizes: Sequence[int]
    ) -> Sequence[Judged | Exception]:
        try:
            return self._accounts.judged_each(account, outputs, x, sizes)
        except Exception as e:  # that request's alone, as one is that the guard cannot judge
            if len(sizes) == 1:
                return [e]
        parts = zip(*(output.split(list(sizes)) for output in outputs.values()), strict=True)
        each = zip(parts, x.split(list(sizes)), sizes, strict=True)
        return [self._judged(account, dict(zip(outputs, part, strict=True)), rows, [n])[0] for part, rows, n in each]


def _begin() -> None:
    """What holds for the thread that computes."""
    torch.set_flush_denormal(True)  # numbers next to 0 slow a net down by far
    torch.set_grad_enabled(False)


def _told(judged: Judged | Exception, restriction: Restriction) -> Answered | Exception:
    if isinstance(judged, Exception):
        return judged
    answers, state = judged
    rows = restriction(answers).numpy().astype(np.float32, copy=False)
    return Answered(rows, float(state[ACCOUNT][0]) if ACCOUNT in state else None)
