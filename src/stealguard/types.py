"""The vocabulary: what goes in, what comes out, and what every room may rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn import functional as F


class BlackBox(Protocol):
    """What a client of an API sees: inputs (N, ...) in [0, 1] -> answers (N, K), rows on the simplex."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


class Asked(BlackBox, Protocol):
    """A box as an attack sees it: it answers, and says how many more inputs it will answer."""

    @property
    def left(self) -> int: ...


class Batch(NamedTuple):
    """One step's inputs: task inputs (B, ...), their labels (B,) or label rows (B, K), and outliers (B', ...)."""

    x: Tensor
    y: Tensor
    outliers: Tensor | None = None


Objective = Callable[[nn.Module, Batch], Mapping[str, Tensor]]
"""What training minimizes: the model and a batch -> named scalar losses, each with its weight already in it."""

Combine = Callable[[Sequence[Tensor], Sequence[nn.Parameter]], None]
"""How several losses become one gradient: writes `.grad` of the parameters."""


class Cost(NamedTuple):
    """What a defense takes beyond a plain net, as it declares itself; an audit measures the time.

    `forwards` is the forward passes that an answer takes beyond the one of a plain net. `state` says in a few words
    what is remembered of a client's queries, and `trained` what had to be trained beside the net; "" for nothing.
    """

    forwards: float = 0.0
    state: str = ""
    trained: str = ""


@dataclass(frozen=True)
class Defense:
    """What is trained, what is minimized and what is answered; itself the undefended baseline."""

    combine: ClassVar[str] = "total"
    """The name in `COMBINES` of how the objective's losses become one gradient."""

    answering: ClassVar[tuple[str, ...]] = ()
    """The settings that training does not read: with others of these the same weights answer otherwise."""

    @property
    def needs_outliers(self) -> bool:
        """Whether the objective reads `Batch.outliers`."""
        return False

    @property
    def basis(self) -> Defense:
        """The defense whose training gives the same weights: one for all that differ in their answers alone."""
        if all(getattr(type(self), part) is getattr(Defense, part) for part in ("build", "objective")):
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

    def build(self, net: nn.Module, like: Tensor) -> nn.Module:
        """The module that is trained and released, made from the user's `net`, which takes inputs like `like`."""
        return net

    def plain(self, model: nn.Module) -> nn.Module:
        """The part of what `build` made that is the user's net: its architecture is an undefended net's."""
        return model

    def objective(self, model: nn.Module, like: Tensor, *, seed: int) -> Objective:
        """The losses to minimize on inputs like `like`; what they draw (a surrogate, say) comes from `seed`."""
        return task_loss

    def guard(self, box: BlackBox, model: nn.Module) -> BlackBox:
        """The box that is served and audited, made from the model's plain one."""
        return box


def task_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy alone, against labels (B,) or rows on the simplex (B, K)."""
    return {"task": F.cross_entropy(model(batch.x), batch.y)}


class Attack(Protocol):
    """A way to steal: asks the box, never more than `box.left` inputs, and trains `thief` on the answers.

    Attacks are frozen dataclasses. All an attack sees of the victim is `box`; never a gradient, a weight or the
    victim's training data. The same box, pool, thief and seed give the same questions and the same clone.

    Raises:
        NotApplicable: the attack has no meaning here; nothing was asked.
    """

    @property
    def budget(self) -> int:
        """How many inputs it may have answered."""
        ...

    @property
    def needed(self) -> int:
        """How many inputs the pool must hold, at least 1: data-free attacks need one, to see the shape."""
        ...

    def __call__(self, box: Asked, pool: Tensor, thief: nn.Module, *, seed: int) -> nn.Module: ...
