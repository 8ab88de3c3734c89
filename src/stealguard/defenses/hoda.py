"""HODA (Sadeghzadeh, Sobhanian, Dehghan & Jalili, 2021, arXiv 2106.11424): thieves ask harder things than users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stealguard.boxes.accounts import Watch
from stealguard.defenses.base import Cost, Defense
from stealguard.errors import require
from stealguard.training.losses import task_loss
from stealguard.types import Batch, BlackBox, Objective

EVERY = 20  # steps of training from one look at the histogram of task inputs to the next


class Staged(nn.Module):
    """A net that remembers what it was on the way to what it is; forward is its logits.

    The past weights, at most `stages` of them, are evenly spaced over all steps so far: when every place is taken,
    each second one is given up and the spacing is doubled. So between half and all of the places are in use, whatever
    the length of the training, which nobody needs to know beforehand.
    """

    weights: Tensor
    taken: Tensor
    step: Tensor
    spacing: Tensor
    normal: Tensor

    def __init__(self, net: nn.Module, stages: int):
        super().__init__()
        self.net = net
        self.register_buffer("weights", torch.zeros(stages, len(self._now())))
        self.register_buffer("taken", torch.zeros(stages, dtype=torch.long))  # at which step; 0 for a free place
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("spacing", torch.tensor(1))
        self.register_buffer("normal", torch.zeros(stages + 1))  # how many task inputs have each hardness

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    @property
    def past(self) -> Tensor:
        """The weights of the past nets that are kept, oldest first, (stages so far, weights)."""
        return self.weights[: int((self.taken > 0).sum())]

    @property
    def histogram(self) -> Tensor:
        """How many task inputs have each hardness that there is so far, (stages so far + 1,)."""
        return self.normal[: len(self.past) + 1]

    @torch.no_grad()
    def look(self, x: Tensor) -> None:
        """One more step of training is about to be made, on task inputs x."""
        self.step += 1
        changed = int(self.step) % int(self.spacing) == 0 and self._take()
        if changed:
            self.normal.zero_()
        if changed or int(self.step) % EVERY == 0:
            training = self.net.training
            self.net.eval()
            self.normal += self.hardness(x, self.net(x).argmax(dim=1)).bincount(minlength=len(self.normal))
            self.net.train(training)

    @torch.no_grad()
    def hardness(self, x: Tensor, labels: Tensor) -> Tensor:
        """For each of x, (N,): how many of the past nets there were before its label became what it is now, (N,)."""
        lasting, since = torch.zeros_like(labels), torch.ones_like(labels, dtype=torch.bool)
        for weights in self.past.flip(0):
            since &= functional_call(self.net, self._named(weights), (x,)).argmax(dim=1) == labels
            lasting += since
        return len(self.past) - lasting

    def _take(self) -> bool:
        if (self.taken > 0).all():
            kept = self.taken % (2 * self.spacing) == 0
            n = int(kept.sum())
            self.weights[:n], self.taken[:n] = self.weights[kept], self.taken[kept]
            self.taken[n:] = 0
            self.spacing *= 2
            if int(self.step) % int(self.spacing):
                return True
        place = len(self.past)
        self.weights[place], self.taken[place] = self._now(), self.step
        return True

    def _state(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.net.state_dict().items() if value.is_floating_point()}

    def _now(self) -> Tensor:
        return torch.cat([value.reshape(-1).float() for value in self._state().values()])

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        state = self._state()
        parts = weights.split([value.numel() for value in state.values()])
        return {name: part.view_as(value).to(value) for (name, value), part in zip(state.items(), parts, strict=True)}


def pearson_distance(histogram: Tensor, other: Tensor) -> float:
    """1 - correlation of two vectors (n,), in [0, 2]; 0 where one of them is constant."""
    a, b = (h.double() - h.double().mean() for h in (histogram, other))
    norms = a.norm() * b.norm()
    return float(1 - a @ b / norms) if norms > 0 else 0.0


@dataclass(frozen=True)
class HODA(Defense):
    """Refuses a client whose histogram of hardness is unlike that of the task's own inputs.

    An input is as hard as the training was long before its label settled: the first of a sequence of past nets from
    which on all give the label that the last one gives. Of every `queries` queries of a client the histogram's Pearson
    distance to that of task inputs is taken; more than delta gives a thief away.

    In the paper past nets are those at the ends of epochs; here they are evenly spaced over the training's steps, and
    the normal histogram is counted along on task batches, so that one run makes everything and none of the task's
    inputs is kept.

    Args:
        delta: the strength, in [0, 2]: the greatest distance of an honest client. The defender sets it by honest
            clients' distances.
        queries: in a histogram; the paper has 100.
        stages: places for past nets, of which half to all are in use.
    """

    answering = ("delta", "queries")

    delta: float = 0.01
    queries: int = 100
    stages: int = 10

    def __post_init__(self) -> None:
        require(0 <= self.delta <= 2, "delta", "in [0, 2]", self.delta)
        require(self.queries >= 1, "queries", "at least 1", self.queries)
        require(self.stages >= 2, "stages", "at least 2", self.stages)

    @property
    def cost(self) -> Cost:
        state = f"a histogram of {self.stages + 1} numbers a client"
        return Cost(forwards=float(self.stages), state=state, trained=f"{self.stages} past states of the net")

    def build(self, net: nn.Module, like: Tensor) -> nn.Module:
        return Staged(net, self.stages)

    def plain(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, Staged)
        return model.net

    def objective(self, model: nn.Module, like: Tensor, *, seed: int) -> Objective:
        return self._losses

    def _losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        assert isinstance(model, Staged)
        model.look(batch.x)
        return task_loss(model, batch)

    def guard(self, box: BlackBox, model: nn.Module) -> BlackBox:
        assert isinstance(model, Staged)
        return Hardness(box, model, self)


class Hardness(Watch):
    """HODA's memory of one client: the histogram that is being filled."""

    def __init__(self, box: BlackBox, model: Staged, settings: HODA):
        super().__init__(box)
        self._model, self._settings = model, settings
        self._counts = torch.zeros(settings.stages + 1, dtype=torch.long)

    def found_out(self, x: Tensor, answers: Tensor) -> int | None:
        device = self._model.weights.device
        degrees = self._model.hardness(x.to(device), answers.argmax(dim=1).to(device)).cpu()
        start, normal = 0, self._model.histogram.cpu()
        while start < len(x):
            part = degrees[start : start + self._settings.queries - int(self._counts.sum())]
            self._counts += part.bincount(minlength=len(self._counts))
            start += len(part)
            if int(self._counts.sum()) == self._settings.queries:
                distance = pearson_distance(self._counts[: len(normal)], normal)
                if distance > self._settings.delta:
                    return start - 1
                self._counts.zero_()
        return None

    def memory(self) -> dict[str, Tensor]:
        return {"counts": self._counts.clone()}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        self._counts = memory["counts"].clone()
