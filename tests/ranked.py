"""A program of which tests start several processes that train together, as `torchrun` does."""

from __future__ import annotations

import copy
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from grids import environment
from samples import blobs, noise
from stealguard.defenses import DEFENSES, Defense, InI
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


def started(code: str, number: int, size: int = 2, port: int = 0, **more: object) -> subprocess.Popen[str]:
    """Process `number` of `size` that runs `code`, with what it prints in pipes."""
    several = {
        "RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**environment(), "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in {**several, **more}.items()}},
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


def small(normalized: bool) -> nn.Module:
    """A net of images of `SHAPE`, in float64; with batch normalization where that is wanted."""
    torch.manual_seed(0)
    norms: Sequence[nn.Module] = (nn.BatchNorm2d(6), nn.BatchNorm1d(16)) if normalized else (nn.Tanh(), nn.Tanh())
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), norms[0], nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 16), norms[1], nn.ReLU(),
        nn.Linear(16, CLASSES),
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


def tell(found: object) -> None:
    print(json.dumps(found))
