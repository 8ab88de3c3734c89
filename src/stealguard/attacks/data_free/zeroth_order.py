"""Gradients from values alone, and the attack that follows them: DFME and MAZE are one algorithm in two settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stealguard.attacks.base import QueryPool, check_budget
from stealguard.attacks.data_free.alternating import GAPS, Alternating, Alternation, Gap, alternation
from stealguard.attacks.data_free.generators import squash
from stealguard.errors import pick, require
from stealguard.types import Asked


@torch.no_grad()
def forward_differences(
    values: Callable[[Tensor], Tensor], x: Tensor, *, directions: int = 1, step: float = 1e-3
) -> Tensor:
    """d/m sum_i (f(x + e u_i) - f(x)) / e u_i, the u_i uniform on the sphere: an estimate of f's gradient, (N, *shape).

    d is the size of one input. Its mean over the directions is the gradient, as e goes to 0. DFME (Truong et al.) and
    MAZE (Kariyappa, Prakash & Qureshi), both CVPR 2021.

    Args:
        values: f, from points (M, *shape) to a number for each, (M,). It is called once, with the N points of `x`
            and the m N others; if f asks a box, that is (m + 1) N queries.
        x: points (N, *shape).
        directions: m, at least 1, drawn anew for each point from torch's global generator.
        step: e, above 0.
    """
    require(directions >= 1, "directions", "at least 1", directions)
    require(step > 0, "step", "above 0", step)
    drawn = torch.randn(directions, *x.shape, dtype=x.dtype).to(x.device).flatten(2)
    u = torch.nn.functional.normalize(drawn, dim=2).view(directions, *x.shape)
    points = torch.cat([x[None], x + step * u]).flatten(0, 1)
    here, *there = values(points).view(directions + 1, len(x))
    slopes = (torch.stack(there) - here) / step
    return x[0].numel() * torch.einsum("mn,mn...->n...", slopes, u) / directions


@dataclass(frozen=True)
class ZerothOrder:
    """A generator that increases the gap between box and clone, and a clone that decreases it.

    The box is never differentiated. In rounds: `generator_steps` up the gap of new images, along forward differences
    of box and clone with respect to the generator's output before it is squashed; `clone_steps` down the gap of new
    images; `replay_steps` down that of images asked before. A round asks (generator_steps (directions + 1) +
    clone_steps) batches.

    Args:
        budget: queries, at least 1.
        generator_steps, clone_steps, replay_steps: in a round; at least 0, 1, 0.
        directions: of the forward differences, at least 1.
        step: of the forward differences, above 0.
        loss: the gap. `l1`: between logits, those of the box recovered from its answers; `kl`.
        replay: the number of latest images that are kept for replay, at least 1.
        training: how generator and clone train.

    Raises:
        NotApplicable: all of the first answers are labels alone, so that every difference would be 0. That batch is
            spent: only answers tell what a box answers.
    """

    data_free: ClassVar[bool] = True

    budget: int = 500_000
    generator_steps: int = 1
    clone_steps: int = 5
    replay_steps: int = 0
    directions: int = 1
    step: float = 1e-3
    loss: Literal["l1", "kl"] = "l1"
    replay: int = 100_000
    training: Alternating = field(default_factory=Alternating)

    def __post_init__(self) -> None:
        check_budget(self.budget)
        for name, least in (("generator_steps", 0), ("clone_steps", 1), ("replay_steps", 0)):
            require(getattr(self, name) >= least, name, f"at least {least}", getattr(self, name))
        require(self.directions >= 1, "directions", "at least 1", self.directions)
        require(self.step > 0, "step", "above 0", self.step)
        require(self.replay >= 1, "replay", "at least 1", self.replay)
        pick(GAPS, self.loss, "loss")

    @property
    def needed(self) -> int:
        return 1

    def __call__(self, box: Asked, pool: QueryPool, clone: nn.Module, *, seed: int) -> nn.Module:
        gap, cost = GAPS[self.loss], self.generator_steps * (self.directions + 1) + self.clone_steps
        kept, labels = self.replay if self.replay_steps else 0, self.generator_steps == 0
        with alternation(
            box, self.budget, pool, [clone], self.training, seed=seed, replay=kept, labels=labels
        ) as turns:  # fmt: skip
            for n, whole in turns.rounds(cost):
                for _ in range(self.generator_steps * whole):
                    self._climb(turns, clone, gap, n)
                turns.train_clones(n, self.clone_steps, gap)
                turns.replay(self.replay_steps, gap)
        return clone

    def _climb(self, turns: Alternation, clone: nn.Module, gap: Gap, n: int) -> None:
        """A step of the generator along the estimated gradient of -gap, chained through its own graph."""

        def likeness(unsquashed: Tensor) -> Tensor:
            x = squash(unsquashed)
            return -gap(clone(x), turns.ask(x))

        clone.eval()
        made = turns.unsquashed(n)
        slope = forward_differences(likeness, made.detach(), directions=self.directions, step=self.step)
        turns.train_generator((made * slope).sum() / n)
