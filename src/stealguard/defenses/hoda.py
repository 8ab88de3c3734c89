"""HODA (Sadeghzadeh, Sobhanian, Dehghan & Jalili, 2021, arXiv 2106.11424): attackers' queries are hard ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stealguard.defenses.base import Cost, Defended, Defense, evaluating
from stealguard.defenses.detection import Detector
from stealguard.errors import require
from stealguard.nets import copied
from stealguard.types import Batch, State

EVERY = 20  # training steps from one count of task inputs' hardness to the next


class PastLabels(nn.Module):
    """The labels that past nets give, as a head: from inputs (N, *shape) to (N, number of nets), oldest net first."""

    def __init__(self, nets: list[nn.Module]):
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        labels = [net(x).argmax(dim=1) for net in self.nets]
        return torch.stack(labels, dim=1) if labels else torch.zeros(x.shape[0], 0, dtype=torch.long, device=x.device)


def hardness(past: Tensor, labels: Tensor) -> Tensor:
    """For each input, (N,): how many past nets there were before its label became what it is now and stayed so.

    Args:
        past: the labels that past nets gave, oldest first, (N, number of nets).
        labels: the present ones, (N,).
    """
    lasting = (past == labels[:, None]).flip(1).long().cumprod(dim=1).sum(dim=1)
    return past.shape[1] - lasting


def pearson_distance(histogram: Tensor, other: Tensor) -> float:
    """1 - correlation of two vectors (n,), in [0, 2]; 0 where one of them is constant."""
    a, b = (h.double() - h.double().mean() for h in (histogram, other))
    norms = a.norm() * b.norm()
    return float(1 - a @ b / norms) if norms > 0 else 0.0


class Stages(nn.Module):
    """What a net was at earlier steps of its training, and how hard task inputs were for it.

    The past weights, at most `places` of them, are evenly spaced over all steps so far: when every place is taken, each
    second one is given up and the spacing is doubled. So between half and all of the places are in use, whatever the
    length of the training, which need not be known beforehand.

    Args:
        net: whose weights are kept.
        places: how many at most, at least 2.
    """

    weights: Tensor
    taken: Tensor
    step: Tensor
    spacing: Tensor
    counts: Tensor

    def __init__(self, net: nn.Module, places: int):
        super().__init__()
        self.register_buffer("weights", torch.zeros(places, len(_flat(net))))
        self.register_buffer("taken", torch.zeros(places, dtype=torch.long))  # at which step; 0 for a free place
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("spacing", torch.tensor(1))
        self.register_buffer("counts", torch.zeros(places + 1))  # how many task inputs have each hardness

    @property
    def past(self) -> Tensor:
        """The weights of the past nets that are kept, oldest first, (stages so far, weights)."""
        return self.weights[: int((self.taken > 0).sum())]

    @property
    def histogram(self) -> Tensor:
        """How many task inputs have each hardness that there is so far, (stages so far + 1,)."""
        return self.counts[: len(self.past) + 1]

    def labels(self, net: nn.Module) -> PastLabels:
        """The labels that `net` gave at the stages, as a head that shares the stages' weights."""
        return PastLabels([_with(net, weights) for weights in self.past]).eval()

    @torch.no_grad()
    def observe(self, net: nn.Module, x: Tensor) -> None:
        """Called before each training step of `net`, with its task inputs."""
        self.step += 1
        changed = int(self.step) % int(self.spacing) == 0 and self._take(net)
        if changed:
            self.counts.zero_()
        if changed or int(self.step) % EVERY == 0:
            with evaluating(net):
                degrees = hardness(self.labels(net)(x), net(x).argmax(dim=1))
            self.counts += degrees.bincount(minlength=len(self.counts))

    def _take(self, net: nn.Module) -> bool:
        """Keep the net's weights; whether the stages have changed."""
        if (self.taken > 0).all():
            kept = self.taken % (2 * self.spacing) == 0
            n = int(kept.sum())
            self.weights[:n], self.taken[:n] = self.weights[kept], self.taken[kept]
            self.taken[n:] = 0
            self.spacing *= 2
            if int(self.step) % int(self.spacing):
                return True
        place = len(self.past)
        self.weights[place], self.taken[place] = _flat(net), self.step
        return True


def _floating(net: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in net.state_dict().items() if value.is_floating_point()}


def _flat(net: nn.Module) -> Tensor:
    """All floating tensors of a net's state in one, (weights,)."""
    return torch.cat([value.reshape(-1).float() for value in _floating(net).values()])


def _with(net: nn.Module, weights: Tensor) -> nn.Module:
    """A frozen copy of the net with the weights that `_flat` gave; it shares their memory where it can."""
    state, past = _floating(net), copied(net).requires_grad_(False)
    parts = weights.split([value.numel() for value in state.values()])
    named = {name: part.view_as(value).to(value) for (name, value), part in zip(state.items(), parts, strict=True)}
    past.load_state_dict(named, strict=False, assign=True)
    return past


class Hardness(Detector):
    """Refuses by the histogram of queries' hardness, which it fills from the head `past`."""

    def __init__(self, stages: Stages, settings: HODA):
        self._stages, self._settings = stages, settings

    def blank(self) -> State:
        return {"counts": torch.zeros(self._settings.stages + 1, dtype=torch.long)}

    def examine(
        self, answers: Tensor, outputs: Mapping[str, Tensor], x: Tensor, state: State
    ) -> tuple[State, int | None]:
        degrees = hardness(outputs["past"], answers.argmax(dim=1)).cpu()
        counts, normal, start = state["counts"], self._stages.histogram.cpu(), 0
        while start < len(x):
            part = degrees[start : start + self._settings.queries - int(counts.sum())]
            counts = counts + part.bincount(minlength=len(counts))
            start += len(part)
            if int(counts.sum()) == self._settings.queries:
                if pearson_distance(counts[: len(normal)], normal) > self._settings.delta:
                    return {"counts": counts}, start - 1
                counts = torch.zeros_like(counts)
        return {"counts": counts}, None


class Staged(Defended):
    """The user's net and the `stages` of its training; forward is the net's logits."""

    def __init__(self, net: nn.Module, settings: HODA):
        stages = Stages(net, settings.stages)
        super().__init__(net, Hardness(stages, settings))
        self.stages = stages

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        self.stages.observe(self.net, batch.x)
        return super().losses(batch)

    def heads(self) -> Mapping[str, nn.Module]:
        return {**super().heads(), "past": self.stages.labels(self.net)}


@dataclass(frozen=True)
class HODA(Defense):
    """Refuses an account whose histogram of hardness is unlike that of the task's own inputs.

    An input is as hard as the training was long before its label settled: the first of a sequence of past nets from
    which on all give the label that the last one gives. Of every `queries` queries of an account the histogram's
    Pearson distance to that of task inputs is taken; a distance of more than delta reveals an attacker.

    In the paper past nets are those at the ends of epochs; here they are evenly spaced over the training's steps, and
    the histogram of task inputs is counted on training batches, so that one run makes everything and none of the
    task's inputs is kept.

    Args:
        delta: the strength, in [0, 2]: the greatest distance of an honest account. The defender sets it by the
            distances of honest accounts.
        queries: in a histogram; the paper has 100.
        stages: places for past nets, of which half to all are in use.
    """

    # A verdict needs `queries` queries of one account: fewer from each of many are never judged. A histogram that is
    # filled with repeats of easy queries is close to the task's.
    countered_by = ("knockoff", "cover", "accounts")

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
        state = f"a histogram of {self.stages + 1} numbers an account"
        return Cost(forwards=float(self.stages), state=state, trained=f"{self.stages} past states of the net")

    def build(self, net: nn.Module, like: Tensor) -> Defended:
        return Staged(net, self)
