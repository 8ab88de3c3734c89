"""What a defense is: settings, the module that is trained with them, and the guard that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from stealguard.nets import reinitialized
from stealguard.training.losses import task_loss
from stealguard.types import Batch, Guard, Scope, State


class Plain:
    """The guard that changes nothing: an answer is the softmax of the logits.

    Guards of a defense are subclasses: they override `answer`, or `__call__` where they remember something.
    """

    scope: ClassVar[Scope] = "none"

    def heads(self) -> Mapping[str, nn.Module]:
        """Modules that the guard needs outputs of, beside the defended module's own heads: none."""
        return {}

    def start(self) -> State:
        """What is remembered before the first query: nothing."""
        return {}

    def digest(self, outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What is read of the heads' outputs, where some of it can be computed for many accounts at once: all."""
        return outputs

    def answer(self, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Answers (N, K) to inputs `x`, (N, *shape), that follow from these outputs alone."""
        return outputs["logits"].softmax(dim=1)

    def __call__(self, outputs: Mapping[str, Tensor], x: Tensor, state: State, /) -> tuple[Tensor, State]:
        return self.answer(outputs, x), state

    def passed(self, outputs: Mapping[str, Tensor], state: State, /) -> Tensor | None:
        """Which of the next inputs, (at most N,), the net itself answers; None where it answers all."""
        return None

    def at(self, strictness: float, /) -> Guard | None:
        """The guard without memory at another strictness, in log odds; None where it has none."""
        return None


class Rule(Plain):
    """A guard that changes each answer by a rule.

    Args:
        rule: from rows on the simplex, (N, K), to such rows; each row by itself.
    """

    def __init__(self, rule: Callable[[Tensor], Tensor]):
        self.rule = rule

    def answer(self, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return self.rule(super().answer(outputs, x))


class Defended(nn.Module):
    """A user's net, what a defense trains beside it, and the guard that answers.

    Args:
        net: the user's own, from inputs (N, *shape) in [0, 1] to logits (N, K).
        guard: what is answered.
    """

    steady: ClassVar[bool] = False
    """Whether losses of its own are the same operations at every step, so that a GPU may replay a recorded one."""

    def __init__(self, net: nn.Module, guard: Guard | None = None):
        super().__init__()
        self.net = net
        self.guard: Guard = Plain() if guard is None else guard

    def forward(self, x: Tensor) -> Tensor:
        """The logits, (N, K), that are answered where the guard changes nothing."""
        return self.net(x)  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """What training minimizes: named scalars, each with its weight already in it."""
        return task_loss(self, batch)

    @property
    def trains_net_alone(self) -> bool:
        """Whether training is that of an undefended net: the losses are the task's, and all weights are the net's.

        A trained net needs no further training then.
        """
        own = {id(weight) for weight in self.net.parameters()}
        return type(self).losses is Defended.losses and all(id(weight) in own for weight in self.parameters())

    def calibrate(self, held_out: Batch) -> None:
        """Measure on inputs that nothing was trained on what the guard has to know, after training: nothing here.

        What is measured belongs in buffers, so that it is released. It does not depend on settings of the answers.

        Args:
            held_out: task inputs and labels, and outliers where the losses read some.
        """

    def heads(self) -> Mapping[str, nn.Module]:
        """What the guard reads: modules from inputs (N, *shape) to outputs (N, ...), each row by itself.

        Heads are pure functions of a batch, so that a server can run them once for the inputs of many accounts. They
        belong to the module as it is now: ask for them again after its weights were changed or moved.
        """
        return {"logits": self, **self.guard.heads()}


class Cost(NamedTuple):
    """What a defense takes beyond a plain net, as it declares itself; an audit measures the time.

    `forwards` is the number of forward passes that an answer takes beyond the one of a plain net. `state` says in a few
    words what is remembered of an account's queries, and `trained` what is trained beside the net; "" for nothing.
    Both are prose for tables.
    """

    forwards: float = 0.0
    state: str = ""
    trained: str = ""


@dataclass(frozen=True)
class Defense:
    """No defense: the undefended baseline, and the base class of every defense.

    A defense that only changes answers overrides `guard`. One that is trained overrides `build`, and returns a
    `Defended` of its own with `losses` and, where the guard reads more than the logits, `heads`.
    """

    combine: ClassVar[str] = "total"
    """The name in `COMBINES` of how the losses become one gradient."""

    answering: ClassVar[tuple[str, ...]] = ()
    """The settings that training does not read: other values of these change the answers of the same weights."""

    measured: ClassVar[Mapping[str, str]] = {}
    """The settings that are measured where they are None, and the tensor of the weights that holds the number."""

    countered_by: ClassVar[tuple[str, ...]] = ()
    """What an attacker does who knows the defense: names in `ATTACKS`, `treatment:NAME`, `labels` (train on the most
    probable class alone) or `accounts` (divide the queries over many)."""

    confidence: ClassVar[str] = ""
    """What the probability of the class that an answer names says, in sentences for readers; "" where it is, or comes
    from, the net's own."""

    @property
    def needs_outliers(self) -> bool:
        """Whether the losses read `Batch.z`."""
        return False

    @property
    def basis(self) -> Defense:
        """The defense whose training gives the same weights: one for all that differ in their answers alone."""
        if type(self).build is Defense.build:
            return Defense()
        usual = type(self)()
        return replace(self, **{name: getattr(usual, name) for name in self.answering})

    @property
    def distortion_limit(self) -> float:
        """The most that the guard changes of an answer, in L1 distance between rows on the simplex, in [0, 2]."""
        return 0.0

    @property
    def cost(self) -> Cost:
        """What it takes beyond a plain net."""
        return Cost()

    def check_classes(self, classes: int) -> None:
        """Raise `Invalid` if a setting has no effect where there are so many classes: none of those here."""

    def build(self, net: nn.Module, like: Tensor) -> Defended:
        """The module that is trained and released, made from the user's `net`.

        Args:
            net: from inputs (N, *shape) in [0, 1] to logits (N, K); its weights are drawn or already trained.
            like: some of the task's inputs, (n, *shape), n at least 2.
        """
        return Defended(net, self.guard(net, like))

    def guard(self, net: nn.Module, like: Tensor) -> Guard:
        """What is answered, for defenses that need no training of their own. Arguments as for `build`."""
        return Plain()


def surrogate_of(net: nn.Module, seed: int) -> nn.Module:
    """A net of the same architecture with weights drawn from `seed`, in evaluation mode, on the net's device.

    It stays frozen as long as it is not registered in a module that is trained.

    Raises:
        Invalid: the net cannot be initialized anew.
    """
    return reinitialized(net, seed=seed).eval()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside the block the module is in evaluation mode; after it, each of its parts is in its own mode again."""
    training = [part for part in module.modules() if part.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
