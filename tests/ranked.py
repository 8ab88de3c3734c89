"""A program of which tests start several processes that train together, as `torchrun` does."""

from __future__ import annotations

import copy
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count, product
from pathlib import Path

import torch
from torch import Tensor, nn

from grids import environment
from samples import blobs, noise
from stealguard.data.inputs import Stored
from stealguard.defenses import DEFENSES, Defense, InI
from stealguard.errors import Interrupted, StealguardError
from stealguard.training import Training, fit
from stealguard.training.combine import COMBINES
from stealguard.training.ranks import ALONE, Ranks, joined
from stealguard.types import Batch

SHAPE, CLASSES = (1, 8, 8), 4
TRAINED = {name: kind() for name, kind in DEFENSES.items() if kind.build is not Defense.build}
CASES: dict[str, Defense] = {
    "none": Defense(),
    **TRAINED,
    "ini, paper, two surrogates": InI(reading="paper", surrogates=2),
    "ini, another surrogate": InI(surrogate="mlp", gamma=0.0),
}


def started(code: str, number: int, size: int = 2, port: int = 0) -> subprocess.Popen[str]:
    """Process `number` of `size` that runs `code`, with what it prints in pipes."""
    several = {
        "RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**environment(), **{name: str(value) for name, value in several.items()}},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def together(code: str, size: int = 2) -> list[str]:
    """What each of `size` processes that run `code` printed; all must end well."""
    port = free_port()
    processes = [started(code, number, size, port) for number in range(size)]
    told = [process.communicate(timeout=600) for process in processes]
    for process, (_, errors) in zip(processes, told, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in told]


class Wide(nn.Module):
    """Inputs in float64."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def small(normalized: bool) -> nn.Module:
    """A net of images of `SHAPE`, in float64; with batch normalization where that is wanted."""
    torch.manual_seed(0)
    norms: Sequence[nn.Module] = (nn.BatchNorm2d(6), nn.BatchNorm1d(16)) if normalized else (nn.Tanh(), nn.Tanh())
    return nn.Sequential(
        Wide(), nn.Conv2d(1, 6, 3), norms[0], nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 16), norms[1],
        nn.ReLU(), nn.Linear(16, CLASSES),
    ).double()  # fmt: skip


def stepped(defense: Defense, combine: str, net: nn.Module, ranks: Ranks, rows: int = 13, steps: int = 2) -> Tensor:
    """The combined gradients of some steps on batches of `rows`, and the model's state after them, as one vector."""
    x, y = blobs(2 * rows, SHAPE, CLASSES)
    x, z = x.double(), noise(rows, SHAPE).double()
    torch.manual_seed(1)
    model = defense.build(copy.deepcopy(net), x).double().train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    with ranks.sharing(model, synchronized=True):
        for step in range(steps):
            mine = slice(step * rows, (step + 1) * rows)
            COMBINES[combine](list(model.losses(Batch(x[mine], y[mine], z)).values()), parameters)
            found += [p.grad.flatten() for p in parameters if p.grad is not None]
            with torch.no_grad():
                for p in parameters:
                    p -= 0.01 * p.grad
    ranks.settle(model)
    return torch.cat([*found, *(value.flatten().double() for value in model.state_dict().values())]).nan_to_num()


def differences() -> dict[str, float]:
    """For each defense, net and way to combine, how far two processes and one are apart at most."""
    cases = list(product(CASES, (False, True), COMBINES))
    alone = [stepped(CASES[name], combine, small(normalized), ALONE) for name, normalized, combine in cases]
    with joined() as ranks:
        return {
            f"{name}, {'batch norm' if normalized else 'no batch norm'}, {combine}":
            (stepped(CASES[name], combine, small(normalized), ranks) - one).abs().max().item()
            for (name, normalized, combine), one in zip(cases, alone, strict=True)
        }  # fmt: skip


class Lazy(Stored):
    """Inputs that count as not held in memory: each process reads its share of them."""

    held = False


def fitted(
    normalized: bool, training: Training, *, lazy: bool = False, net: nn.Module | None = None, seed: int = 0,
    checkpoint: Path | None = None, steps: int = 1000,
) -> nn.Module:  # fmt: skip
    """What InI's training makes of a net, in float64; goes on from a checkpoint, and is interrupted after `steps`."""
    (x, y), z = blobs(120, SHAPE, CLASSES), noise(50, SHAPE)
    kind, done = Lazy if lazy else Stored, count()
    model = InI().build(small(normalized) if net is None else net, x[:4].double())

    def objective(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        assert len(batch.x) == len(batch.z) == training.batch
        if next(done) == steps:
            raise KeyboardInterrupt
        return model.losses(Batch(batch.x.double(), batch.y, batch.z.double()))  # type: ignore[operator]

    with suppress(Interrupted):
        fit(
            model, kind(x), y, training, seed=seed, objective=objective, combine=COMBINES["pcgrad"], outliers=kind(z),
            validation=(kind(x[:30]), y[:30]), checkpoint=checkpoint, resume=checkpoint is not None, progress=False,
        )  # fmt: skip
    return model


def state(model: nn.Module) -> list[float]:
    return [value for tensor in model.state_dict().values() for value in tensor.double().flatten().tolist()]


USUAL = Training(epochs=2, momentum=0.5, batch=11, augment="crop-flip", batch_norm="synchronized", keep="best")


def trainings() -> dict[str, list[float]]:
    """The states after some trainings."""
    return {
        "held": state(fitted(True, USUAL)),
        "lazy": state(fitted(True, USUAL, lazy=True)),
        "few rows": state(fitted(True, replace(USUAL, batch=3))),
        "no batch norm": state(fitted(False, USUAL)),
    }


def chained(ranks: Ranks) -> list[float]:
    """The gradients of a loss that goes through shared nets one after the other, back to their input, and past them."""
    torch.manual_seed(3)
    first, second = nn.Linear(5, 4).double(), nn.Linear(4, 3).double()
    x = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    model = nn.ModuleList([first, second])
    with ranks.sharing(model, synchronized=False):
        middle = first(x).tanh()
        loss = second(middle).exp().mean().log() + middle.square().mean() + first.weight.square().sum() + x.norm()
    wanted = [x, *model.parameters()]
    return [value for g in ranks.mean(torch.autograd.grad(loss, wanted)) for value in g.flatten().tolist()]


def drawn(ranks: Ranks) -> tuple[list[list[float]], float]:
    """What dropout keeps of rows that are all alike, and what is drawn afterwards."""
    net = nn.Dropout(0.5).train()
    torch.manual_seed(4)
    with ranks.sharing(net, synchronized=False):
        return [net(torch.ones(8, 16)).tolist() for _ in range(2)][-1], torch.rand(()).item()


def refused(training: Callable[[], object]) -> str:
    try:
        training()
    except StealguardError as e:
        return str(e)
    return "nothing"


class Pair(nn.Module):
    """Gives two tensors, which cannot be gathered."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def everything(folder: Path) -> dict[str, object]:
    """All that one pair of processes is asked."""
    apart = differences()
    with joined() as ranks:
        fitted(True, USUAL, checkpoint=folder / "alone.pt", steps=15)  # 10 steps are an epoch
        fitted(True, USUAL, checkpoint=folder / "together.pt", steps=15)
        per_rank = fitted(True, replace(USUAL, batch_norm="per-rank"))
        with joined() as inner:
            assert inner is ranks
        with ranks.sharing(pair := Pair(), synchronized=False):
            two = refused(lambda: pair(torch.ones(8, 1)))
        return {
            "differences": apart,
            "trainings": trainings(),
            "per-rank": state(per_rank),
            "chained": chained(ranks),
            "drawn": drawn(ranks),
            "resumed": state(fitted(True, USUAL, checkpoint=folder / "together.pt")),
            "other seed": refused(lambda: fitted(False, USUAL, seed=ranks.number)),
            "other net": refused(lambda: fitted(False, USUAL, net=nn.Sequential(nn.Flatten(), own(ranks)))),
            "two tensors": two,
        }


def own(ranks: Ranks) -> nn.Module:
    """A net whose first weights are each process's own."""
    torch.manual_seed(ranks.number)
    return nn.Linear(64, CLASSES).double()
