"""What answering costs under every defense, and what the published ways of computing two of them cost."""

from __future__ import annotations

import time
from itertools import count

import numpy as np
import torch
from benchmarks import mad_jacobian, modelguard_lp
from benchmarks.measure import Contender, interleaved, ratio
from torch import Tensor

from stealguard.boxes import Accounts, Boxed
from stealguard.defenses import DEFENSES, MAD, InI
from stealguard.defenses.base import Defended, Defense, surrogate_of
from stealguard.defenses.modelguard import SMALLEST, least_likely
from stealguard.nets import build
from stealguard.seeds import derive

SHAPE, CLASSES, EPS = (1, 28, 28), 10, 1.0
MADS = {
    "argmax": MAD(keep_top=True, objmax=False),
    "argmax, objmax": MAD(keep_top=True, objmax=True),
    "extreme, objmax": MAD(keep_top=False, objmax=True),
}


def defenses(rounds: int) -> None:
    """Every defense against a plain net in one run; then MAD and ModelGuard-W against the published ways."""
    for size in (1, 32, 64):
        known = {name: kind() for name, kind in DEFENSES.items()}
        known |= {f"mad, {name}": defense for name, defense in MADS.items() if defense != known["mad"]}
        calls = {name: _answers(defense, size) for name, defense in known.items()}
        repeats = {name: _repeats(call) for name, call in calls.items()}
        seconds = interleaved({name: _repeated(call, repeats[name]) for name, call in calls.items()}, 3 * rounds)
        for name in known:
            seconds[name] = [s / repeats[name] for s in seconds[name]]
        for name in known:
            print(f"{f'lenet5, batch {size}':30}  {f'{name} / plain':30} {ratio(seconds, name, 'none')}")
    for name, defense in MADS.items():
        _published_mad(name, defense, rounds)
    _published_modelguard(rounds)


def _published_mad(name: str, defense: MAD, rounds: int) -> None:
    """A Jacobian a sample, a backward pass a class, every vertex in turn: against InI, and against the closed form."""
    x, model = _inputs(32), _model(Defense())
    plain = Boxed(model, SHAPE)
    surrogate = surrogate_of(model.net, derive(defense.seed, "mad", "surrogate"))

    def published() -> Tensor:
        return mad_jacobian.perturbed(surrogate, x, plain(x), defense.eps, defense.keep_top, defense.objmax)

    fast = {"exact": _repeated(_answers(defense, 32), 40), "ini": _repeated(_answers(InI(), 32), 40)}
    seconds = interleaved({"published": published, **fast}, rounds)
    for contender in fast:
        seconds[contender] = [s / 40 for s in seconds[contender]]
    for above, below in (("published", "ini"), ("exact", "ini"), ("published", "exact")):
        print(f"{f'MAD, {name}, batch 32':30}  {f'{above} / {below}':30} {ratio(seconds, above, below)}")
    differ = (_answers(defense, 32)() - published()).abs().amax(dim=1)
    print(f"{'':30}  {'rows more than 1e-5 apart':30} {int((differ > 1e-5).sum()):3} of {len(x)}")


def _published_modelguard(rounds: int) -> None:
    """One linear program an answer against the closed form on the batch, both on the same answers."""
    y = (3 * torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).softmax(dim=1)
    contenders: dict[str, Contender] = {
        "published": lambda: [modelguard_lp.solved(row, EPS) for row in y.numpy()],
        "exact": lambda: [least_likely(y, EPS) for _ in range(10)],
    }
    seconds = interleaved(contenders, rounds)
    seconds["exact"] = [s / 10 for s in seconds["exact"]]
    solved = torch.from_numpy(np.stack([modelguard_lp.solved(row, EPS) for row in y.numpy()]))
    gap = ((solved - least_likely(y, EPS)) * (y + SMALLEST).log()).sum(dim=1).abs().max().item()
    print(f"{'ModelGuard-W, 64 answers':30}  {'solver / exact':30} {ratio(seconds, 'published', 'exact')}")
    print(f"{'':30}  {'objectives differ by':30}  {gap:.0e}")


def _inputs(size: int) -> Tensor:
    return torch.rand(size, *SHAPE, generator=torch.Generator().manual_seed(0))


def _model(defense: Defense) -> Defended:
    return defense.build(build("lenet5", _inputs(9), CLASSES, seed=0), _inputs(2))


def _answers(defense: Defense, size: int) -> Contender:
    """One request, as the first of an account: each call has an account of its own."""
    x, model, numbers = _inputs(size), _model(defense), count()
    accounts = Accounts(model.heads(), model.guard, SHAPE)
    return lambda: accounts.connect(f"account {next(numbers)}")(x)


def _repeats(call: Contender, seconds: float = 0.05) -> int:
    """How often the call fits into so many seconds, and at least once."""
    call()
    start = time.perf_counter()
    call()
    return max(1, round(seconds / (time.perf_counter() - start)))


def _repeated(call: Contender, times: int) -> Contender:
    return lambda: [call() for _ in range(times)]
