"""Guards that watch an account's queries, and stop answering once they look like theft."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from stealguard.defenses.base import Plain
from stealguard.types import Scope, State

NOT_DETECTED = -1  # in place of the number of answers that are left


class Detector(Plain, ABC):
    """A guard that answers an account until a query reveals it as an attacker's.

    Queries count one by one in their order, however they are batched. A request that contains the revealing query is
    refused as a whole. The account may still have as many answers as there are queries before that one in the request.
    It cannot try other queries in their place: from then on nothing is examined, and the memory does not change.

    The state is `left`, a whole number (`NOT_DETECTED`, or how many answers the account can still have), and what
    `blank` gives.
    """

    scope: ClassVar[Scope] = "account"

    @abstractmethod
    def blank(self) -> State:
        """What is remembered of the queries of an account that has made none."""

    @abstractmethod
    def examine(
        self, answers: Tensor, outputs: Mapping[str, Tensor], x: Tensor, state: State
    ) -> tuple[State, int | None]:
        """Look at queries that nothing was found in yet.

        Args:
            answers: what the account would be told, (N, K).
            outputs: of the heads, on the queries.
            x: the queries, (N, *shape).
            state: what is remembered; it must not be changed.

        Returns:
            What is remembered from now on, and how many of the queries come before the one that reveals an attacker;
            None if none does.
        """

    def start(self) -> State:
        return {"left": torch.tensor(NOT_DETECTED), **self.blank()}

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        answers, left = self.answer(outputs, x), int(state["left"])
        if left == NOT_DETECTED:
            memory, found = self.examine(answers, outputs, x, state)
            state = {**state, **memory}
            if found is None:
                return answers, state
            left = found
        granted = len(x) if len(x) <= left else 0  # a refused request takes none of the answers that are left
        return answers[:left], {**state, "left": torch.tensor(left - granted)}
