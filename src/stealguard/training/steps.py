"""One step of training: as it is written, or, on a GPU, recorded once as a CUDA graph and replayed.

A step of a small net is hundreds of operations that each take a GPU less time than it takes to start them. A graph
starts them all at once. It repeats what was recorded, so only steps are recorded that do the same operations each time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from stealguard.devices import PINNING, device_of
from stealguard.training.combine import COMBINES
from stealguard.training.descent import Descent
from stealguard.training.ranks import ALONE, present
from stealguard.types import Batch, Combine, Objective

Told = Callable[[Mapping[str, Tensor]], None]
"""What is told the losses of a step."""

FIRST = 3  # steps as written before one is recorded: what is made once, at the first use, is then there
KNOWN = ("torch.nn.", "stealguard.")  # whose modules draw no random numbers in Python and branch on no tensor
RECORDED = COMBINES["total"], COMBINES["pcgrad"]  # which wait for no result


@dataclass(frozen=True)
class Step:
    """Forward, backward and update.

    Args:
        model: what is trained, in place.
        descent: of the parameters that are trained.
        objective, combine: as `fit` takes them.
        bf16: whether the forward passes run under autocast to bfloat16.
    """

    model: nn.Module
    descent: Descent
    objective: Objective
    combine: Combine
    bf16: bool = False

    def __call__(self, batch: Batch, rate: float | Tensor, told: Told) -> None:
        """Train on the batch with the learning rate `rate`. What `told` raises stops the step before the update."""
        with torch.autocast(device_of(self.model).type, dtype=torch.bfloat16, enabled=self.bf16):
            losses = self.objective(self.model, batch)
        told({name: loss.detach() for name, loss in losses.items()})
        self.combine(list(losses.values()), [p for p in self.descent.parameters if p.requires_grad])
        self.descent.step(rate)


class Recorded:
    """A step as a CUDA graph, for batches of the same shapes as the one that it is recorded with.

    Recording trains nothing.
    """

    def __init__(self, step: Step, batch: Batch):
        self._batch = Batch(*(None if part is None else part.clone() for part in batch))  # type: ignore[arg-type]
        self._rate = torch.zeros((), device=batch.x.device)
        self._losses: dict[str, Tensor] = {}
        self._graph = torch.cuda.CUDAGraph()
        stream = _stream(batch.x.device)
        recording = torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local")
        with PINNING, torch.cuda.stream(stream), recording:  # after a failure, `graph` alone leaves its stream current
            step(self._batch, self._rate, self._losses.update)

    def __call__(self, batch: Batch, rate: float, told: Told) -> None:
        for held, given in zip(self._batch, batch, strict=True):
            if held is not None and given is not None:
                held.copy_(given)
        self._rate.fill_(rate)
        self._graph.replay()
        told({name: loss.clone() for name, loss in self._losses.items()})


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """What a GPU, perhaps not the current one, records on: one stream only, since cuBLAS keeps memory for each."""
    return torch.cuda.Stream(device)


class Steps:
    """The steps of one training: the first ones as written, the others replayed where that does the same.

    Args:
        step: one of them.
        steady: whether the objective does the same operations at every step.
        expected: how many steps there will be.
    """

    def __init__(self, step: Step, *, steady: bool, expected: int):
        self._step, self._done = step, 0
        self._recorded: Recorded | None = None
        self._record = steady and expected > 2 * FIRST and recordable(step)

    def __call__(self, batch: Batch, rate: float, told: Told) -> None:
        """As `Step` does; a step that is replayed is told of when it is done."""
        self._done += 1
        if self._record and self._done > FIRST and self._recorded is None:
            self._recorded = self._recording(batch)
        (self._recorded or self._step)(batch, rate, told)

    def _recording(self, batch: Batch) -> Recorded | None:
        try:
            return Recorded(self._step, batch)
        except RuntimeError as e:  # torch cannot record everything that it can do
            self._record = False
            reason = str(e).strip().splitlines()[0]
            warnings.warn(f"Steps are not recorded as a CUDA graph, and train more slowly: {reason}", stacklevel=4)
            return None


def recordable(step: Step) -> bool:
    """Whether a recorded step does what the step as written does, as far as the kind of its parts tells.

    >>> from stealguard.training import combine, descent, losses, steps
    >>> net = nn.Linear(2, 2)  # not on a GPU
    >>> step = steps.Step(net, descent.Descent(net.parameters(), 0.9, 0.0), losses.task_loss, combine.total)
    >>> steps.recordable(step)
    False
    """
    known = all(map(_known, step.model.modules()))
    whole = all(p.dtype == torch.float32 for p in step.model.parameters())
    gpu = device_of(step.model).type == "cuda"
    return gpu and known and whole and step.combine in RECORDED and present() is ALONE


def _known(part: nn.Module) -> bool:
    """Whether a module is of a kind in `KNOWN`, and calls nothing of somebody else's."""
    hooked = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    return not (hooked or "forward" in vars(part)) and f"{type(part).__module__}.".startswith(KNOWN)
