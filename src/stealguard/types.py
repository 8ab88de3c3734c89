"""The vocabulary: what goes in, what comes out, and what every package may rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

Scope = Literal["none", "account", "shared"]
"""Whose memory a guard keeps: nobody's, each account's own, or one that all accounts share."""

State = Mapping[str, Tensor]
"""What a guard remembers: a few tensors by name, so that they can be kept, written and locked."""

Combine = Callable[[Sequence[Tensor], Sequence[nn.Parameter]], None]
"""How several losses become one gradient: writes `.grad` of the parameters."""


class Batch(NamedTuple):
    """The inputs of one training step: task inputs (B, ...), their labels (B,) or label rows (B, K), and outliers."""

    x: Tensor
    y: Tensor
    outliers: Tensor | None = None

    @property
    def z(self) -> Tensor:
        """The outliers, (B', ...), for a loss that needs some.

        Raises:
            ValueError: training was started without outliers.
        """
        if self.outliers is None:
            raise ValueError("This loss reads outliers: pass `outliers` to the training.")
        return self.outliers


Objective = Callable[[nn.Module, Batch], Mapping[str, Tensor]]
"""What training minimizes: the model and a batch -> named scalar losses, each with its weight already in it."""


class BlackBox(Protocol):
    """What one account of an API sees: inputs (N, *shape) -> answers (N, K), rows on the simplex."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


class Asked(BlackBox, Protocol):
    """A box as an attack sees it: it answers, and says how many more inputs it will answer."""

    @property
    def left(self) -> int: ...


@runtime_checkable
class Opening(Asked, Protocol):
    """A box of several accounts, of which an attack opens one after the other, when it likes.

    The account that was opened last is asked, and `left` is how many more inputs that one will answer. An account that
    refuses raises `Refused`, whose `left` is the account's as well. The first question opens the first account.
    """

    @property
    def spent(self) -> int:
        """How many inputs were answered, by all accounts.

        A long request may take several calls: where a later one is refused, what the earlier ones answered is counted.
        """
        ...

    @property
    def accounts_left(self) -> int:
        """How many further accounts can be opened: none once the budget is spent."""
        ...

    def open(self) -> None:
        """Open the next account; those before it are asked no more."""
        ...


class Guard(Protocol):
    """What is answered: a function of the heads' outputs and of what is remembered.

    A guard calls no model. It returns fewer answers than there are inputs to refuse the request: the answers that it
    returns are then those that the account can still have, if it asks for no more inputs than that. The
    account gets none of them now, so that the state that comes with them must not count them as answered.
    """

    scope: ClassVar[Scope]

    def heads(self) -> Mapping[str, nn.Module]:
        """Modules that the guard needs outputs of, beside the defended module's own heads."""
        ...

    def start(self) -> State:
        """What is remembered before the first query."""
        ...

    def digest(self, outputs: Mapping[str, Tensor], /) -> Mapping[str, Tensor]:
        """What the guard reads of the heads' outputs, or of what this gave: in torch, and each row by itself.

        It is exported with the heads, and a server computes it once for the merged inputs of many accounts. The guard
        takes what it gives in place of the outputs.
        """
        ...

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        """Answers (at most N, K) to inputs `x` (N, *shape) in [0, 1], and what is remembered from now on."""
        ...

    def passed(self, outputs: Mapping[str, Tensor], state: State, /) -> Tensor | None:
        """Which of the next inputs, (at most N,), the net itself answers; None where it answers all."""
        ...

    def at(self, strictness: float, /) -> Guard | None:
        """The guard without memory at another strictness, in log odds; None where it has none."""
        ...


class Probabilities(NamedTuple):
    """Answers that are rows on the simplex over `classes` classes, with the classes' names where they are known."""

    classes: int
    names: tuple[str, ...] = ()
