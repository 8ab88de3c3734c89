"""Several processes train one model: each computes its share of every batch's rows, and all hold the same weights.

Every process runs the same program on the same rows. Where a net is called, each process runs it on its share of the
rows only, and gathers what the others found. So every process computes the losses of the whole batch, in the words in
which one process does, whatever they are: a cosine of summed gradients, a histogram, a mean over some of the rows. The
products with a surrogate's Jacobian are shared in the same way: J^T c is summed over the processes before any norm.

Gradients: gathering multiplies what flows back by the number of processes, and taking a share averages what flows back
over them. Then the mean of the processes' gradients is that of the whole batch, whether a loss goes through shared
rows, through what each process computes for all rows, or through both.

Started by `torchrun`: gloo carries tensors of the processor, and NCCL those of GPUs.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from types import MethodType
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
import torch.distributed.nn  # now, since its functions keep the group that is there when it is imported, until the end
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from stealguard.devices import choose
from stealguard.errors import StealguardError, counted, require
from stealguard.seeds import derive, seeded

T = TypeVar("T")
Facts = Mapping[str, Any]

JOINING = 600.0  # seconds in which all processes must have started
BEAT, SILENT = 1.0, 20.0  # seconds between two signs of life, and without one until a process counts as lost
CLOSING = 5.0  # seconds in which a group closes, after an error: it may wait for a process that does not answer
FOREVER = timedelta(days=7)  # of a collective: one process may write while the others wait, and signs of life tell
LOST = "the last checkpoint stays, and the same command with `--resume` goes on, with fewer processes too"


class Share:
    """The rows of a batch that a process computes: all of them where it is alone, or where there are too few."""

    def take(self, x: Tensor) -> Tensor:
        """This process's rows of `x`, (N, ...)."""
        return x

    def join(self, mine: Tensor) -> Tensor:
        """All N rows, of which `mine` are this process's."""
        return mine

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums over all rows, of which `tensors` are those over this process's."""
        return list(tensors)


class Ranks:
    """The processes that train one model together; of this class itself, one process alone.

    Attributes:
        number: of this process, from 0.
        size: how many there are.
    """

    number, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.number == 0

    def share(self, rows: int) -> Share:
        """How the rows of a batch are divided."""
        return Share()

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums over the processes."""
        return list(tensors)

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The means over the processes."""
        return list(tensors)

    def told(self, value: T) -> T:
        """The first process's `value`."""
        return value

    def agree(self, facts: Facts, differences: Callable[[Facts, Facts], list[str]]) -> None:
        """Compare what the result follows from.

        Raises:
            Invalid: this process's `facts` are not the first one's; `differences(first, mine)` says in what.
        """

    def device(self, named: torch.device) -> torch.device:
        """The device of this process: of several GPUs of a machine, each process has its own."""
        return named

    @contextmanager
    def sharing(self, model: nn.Module, *, synchronized: bool) -> Iterator[None]:
        """Inside the block, each call of `model` or of one of its nets divides its rows over the processes.

        Args:
            model: what is trained.
            synchronized: whether batch normalization normalizes by all rows, rather than by those of each process.
        """
        yield

    def settle(self, model: nn.Module) -> None:
        """Give all processes the same buffers: means of running statistics, and the first process's others."""


ALONE = Ranks()
_present: Ranks = ALONE
_entered = 0


def present() -> Ranks:
    """The processes inside a block of `joined`; elsewhere this one alone."""
    return _present


@contextmanager
def joined() -> Iterator[Ranks]:
    """Inside the block, this process trains together with the others that `torchrun` started, if it did.

    They wait for each other at the beginning and at the end. A process that is lost ends the others: by an error where
    its connections close, and else, when it has given no sign of life for `SILENT` seconds, by a line on stderr and
    exit status 2, since nothing else ends a process that waits for another.

    Raises:
        Invalid: `WORLD_SIZE` is set, but not by `torchrun`.
        StealguardError: the processes did not all start, or one of them ended.
    """
    global _present, _entered
    number, size = (0, 1) if _present is not ALONE else _place()
    if size == 1:
        yield _present
        return
    _entered += 1
    store = _store()
    here = PrefixStore(f"stealguard/{_entered}", store)
    _wait_for_all(here, size)
    with ExitStack() as group:
        with _watching(here, number, size):
            group.enter_context(_group(here, number, size))
            _present = several = _Several()
            try:
                yield several
                several.wait()
            finally:
                _present = ALONE
        several.wait()  # so that none, with the store, is gone while another still watches


def _place() -> tuple[int, int]:
    """This process's number and how many there are, by the environment that `torchrun` sets."""
    found = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")}
    if found["WORLD_SIZE"] in ("", "1"):
        return 0, 1
    numbers = [found.pop(name) for name in ("WORLD_SIZE", "RANK")]
    known = all(number.isdecimal() for number in numbers) and all(found.values())
    rule = "set by `torchrun`, with RANK below it, MASTER_ADDR and MASTER_PORT, or not set"
    told = f"`{numbers[0]}`, RANK `{numbers[1]}`, {', '.join(f'{name} `{value}`' for name, value in found.items())}"
    require(known and int(numbers[1]) < int(numbers[0]), "WORLD_SIZE", rule, told)
    return int(numbers[1]), int(numbers[0])


def _store() -> Store:
    """The store that torchrun's environment names."""
    global _known_store
    if _known_store is None:
        _known_store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=JOINING))))
    return _known_store


_known_store: Store | None = None


def _wait_for_all(store: Store, size: int) -> None:
    store.add("here", 1)
    end = time.monotonic() + JOINING
    while (here := store.add("here", 0)) < size:
        if time.monotonic() > end:
            raise StealguardError(f"Only {here} of {size} processes started in {JOINING:g} seconds.")
        time.sleep(0.05)


@contextmanager
def _group(store: Store, number: int, size: int) -> Iterator[None]:
    """Inside the block there is torch's default group, and after it none of its threads, which an exit could meet."""
    if dist.is_initialized():
        yield
        return
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=FOREVER)
    try:
        yield
    except BaseException:
        closing = threading.Thread(target=dist.destroy_process_group, name="closing", daemon=True)
        closing.start()
        closing.join(CLOSING)
        raise
    dist.destroy_process_group()


@contextmanager
def _watching(store: Store, number: int, size: int) -> Iterator[None]:
    """Inside the block a thread gives signs of life, and ends this process when another gives none."""
    over = threading.Event()

    def watch() -> None:
        heard = {other: (0, time.monotonic()) for other in range(size) if other != number}
        while not over.wait(BEAT):
            try:
                store.add(f"beats/{number}", 1)
                for other, (beats, since) in heard.items():
                    now = store.add(f"beats/{other}", 0), time.monotonic()
                    if now[0] != beats:
                        heard[other] = now
                    elif now[1] - since > SILENT:
                        _end(f"Process {other} of the training gives no sign of life since {SILENT:g} seconds; {LOST}.")
            except RuntimeError:
                if not over.is_set():
                    _end(f"The process that started the training, or its first one, has ended; {LOST}.")

    watcher = threading.Thread(target=watch, name="signs of life", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _end(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(2)


@contextmanager
def _heard() -> Iterator[None]:
    """
    Raises:
        StealguardError: another process closed its connection.
    """
    try:
        yield
    except RuntimeError as e:
        raise StealguardError(f"Another process of the training has ended; {LOST}.") from e


class _Several(Ranks):
    """The processes of torch's default process group."""

    def __init__(self) -> None:
        self.number, self.size = dist.get_rank(), dist.get_world_size()

    def wait(self) -> None:
        """Until all are here."""
        with _heard():
            dist.all_reduce(torch.zeros(1))

    def share(self, rows: int) -> Share:
        return Share() if rows < 2 * self.size else _Part(self, rows)  # batch normalization needs two rows

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return _summed(tensors)

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [total / self.size for total in _summed(tensors)]

    def told(self, value: T) -> T:
        box = [value]
        with _heard():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def agree(self, facts: Facts, differences: Callable[[Facts, Facts], list[str]]) -> None:
        found: list[list[str]] = [[] for _ in range(self.size)]
        with _heard():
            dist.all_gather_object(found, differences(self.told(facts), facts))
        for number, differing in enumerate(found):
            rule = "the same in all processes, with its settings, seed, data and first weights"
            require(not differing, "training", rule, f"{', '.join(differing)} from process 0 to process {number}")

    def device(self, named: torch.device) -> torch.device:
        if named.type != "cuda" or named.index is not None:
            return named
        own = choose(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(own)
        return own

    @contextmanager
    def sharing(self, model: nn.Module, *, synchronized: bool) -> Iterator[None]:
        nets = {model, *_nets(model)}
        calls, open_ = 0, _Open()

        def before(net: nn.Module, args: Any, kwargs: Any) -> Any:
            nonlocal calls
            fits = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
            share = self.share(len(args[0])) if fits and net in nets and open_.net is None else None
            if not isinstance(share, _Part):
                return None
            calls += 1
            open_.begin(net, share, derive(torch.initial_seed(), "rank", self.number, calls))
            return (share.take(args[0]),), kwargs

        def after(net: nn.Module, args: Any, output: Any) -> Any:
            return open_.end(output) if open_.net is net else None

        norms = _norms(model) if synchronized else []
        with ExitStack() as stack:
            for net in nets:
                stack.callback(net.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(net.register_forward_hook(after, always_call=True).remove)
            for norm in norms:
                norm.forward = MethodType(lambda norm, x: _normalized(norm, x, open_), norm)  # type: ignore[method-assign]
                stack.callback(delattr, norm, "forward")
            yield

    def settle(self, model: nn.Module) -> None:
        running = [
            t
            for part in model.modules()
            if isinstance(part, _NormBase)
            for t in (part.running_mean, part.running_var)
            if t is not None
        ]
        others = [t for t in model.buffers() if t.numel() and all(t is not r for r in running)]
        with torch.no_grad(), _heard():
            for t, mean in zip(running, self.mean(running) if running else (), strict=True):
                t.copy_(mean)
            for t in others:
                data = _bytes(t)
                dist.broadcast(data, src=0)
                t.copy_(data.view(t.dtype).view(t.shape))


def _nets(model: nn.Module) -> Iterator[nn.Module]:
    """The parts of a model that its losses may call by themselves: its children, and those in lists of modules."""
    for child in model.children():
        yield child
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _nets(child)


def _norms(model: nn.Module) -> list[_BatchNorm]:
    """The model's batch normalizations.

    Raises:
        Invalid: one does more than torch's, such as an activation, which normalizing for it would leave out.
    """
    found = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    for part in found:
        own = type(part).forward is _BatchNorm.forward
        rule = "`per-rank` for a net whose batch normalization is not torch's own"
        require(own, "batch_norm", rule, f"`synchronized` with `{type(part).__name__}`")
    return found


class _Open:
    """The call that computes a share of its rows now, if one does: calls within it are of that share."""

    def __init__(self) -> None:
        self.net: nn.Module | None = None
        self._share, self._drawing = Share(), ExitStack()

    def begin(self, net: nn.Module, share: Share, seed: int) -> None:
        """What the call draws, as dropout does, is this process's own and shifts nothing that all of them draw."""
        self.net, self._share = net, share
        self._drawing.enter_context(seeded(seed))

    def end(self, output: Any) -> Any:
        net, self.net = self.net, None
        self._drawing.close()
        if output is None:  # the call failed
            return None
        rule = "made of nets that give one tensor with a row for each input, to be trained by several processes"
        fits = isinstance(output, Tensor) and output.dim() > 0
        require(fits, "model", rule, f"{type(output).__name__} from `{type(net).__name__}`")
        return self._share.join(output)


class _Part(Share):
    """One of `size` contiguous parts of N rows, which differ by one row at most."""

    def __init__(self, ranks: Ranks, rows: int):
        self.rows, self.size = rows, ranks.size
        self.bounds = [rows * number // self.size for number in range(self.size + 1)]
        self.mine = slice(self.bounds[ranks.number], self.bounds[ranks.number + 1])

    def take(self, x: Tensor) -> Tensor:
        return cast(Tensor, _Take.apply(x, self))  # type: ignore[no-untyped-call]

    def join(self, mine: Tensor) -> Tensor:
        rule = "made of nets that give a row for each input, to be trained by several processes"
        require(len(mine) == self.mine.stop - self.mine.start, "model", rule, counted(len(mine), "row"))
        return cast(Tensor, _Join.apply(mine, self))  # type: ignore[no-untyped-call]

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return _summed(tensors)

    def gathered(self, mine: Tensor) -> Tensor:
        """All rows, of which `mine` are this process's."""
        data = _bytes(mine).view(len(mine), -1)
        padded = data.new_zeros(-(-self.rows // self.size), data.shape[1])
        padded[: len(data)] = data
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with _heard():
            dist.all_gather(parts, padded)
        sizes = [end - start for start, end in zip(self.bounds, self.bounds[1:], strict=False)]
        whole = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return whole.view(-1).view(mine.dtype).view(self.rows, *mine.shape[1:])


class _Take(torch.autograd.Function):
    """A part of the rows; what flows back is the mean over processes of each one's, which is 0 beyond its part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: _Part) -> Tensor:
        ctx.part = part
        return x[part.mine].clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.part.gathered(upstream[0]) / ctx.part.size, None


class _Join(torch.autograd.Function):
    """All rows; what flows back is this process's part of it, times the number of processes."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, part: _Part) -> Tensor:
        ctx.part = part
        return part.gathered(mine)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0][ctx.part.mine] * ctx.part.size, None


class _Sum(torch.autograd.Function):
    """The sum over processes; so is what flows back, since each process's rows depend on it."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        return _summed([mine])[0]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return _summed(upstream)[0]


def _bytes(t: Tensor) -> Tensor:
    """The values as bytes in a row, since not every dtype can be sent."""
    return t.detach().contiguous().view(-1).view(torch.uint8)


def _summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sums over processes, in one exchange."""
    flat = torch.cat([t.detach().reshape(-1) for t in tensors])
    with _heard():
        dist.all_reduce(flat)
    parts = flat.split([t.numel() for t in tensors])
    return [part.view(t.shape).to(t.dtype) for part, t in zip(parts, tensors, strict=True)]


def _normalized(norm: nn.Module, x: Tensor, open_: _Open) -> Tensor:
    """Batch normalization by the rows of all processes (N, C, ...), as one process does it for the joint batch."""
    own = cast(_BatchNorm, norm)
    by_batch = own.training or own.running_mean is None
    if not by_batch or open_.net is None:
        return type(own).forward(own, x)
    own._check_input_dim(x)
    axes = [axis for axis in range(x.dim()) if axis != 1]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))

    def total(values: Tensor) -> Tensor:
        return cast(Tensor, _Sum.apply(values))  # type: ignore[no-untyped-call]

    def by_channel(values: Tensor) -> Tensor:
        return values.view(1, -1, *[1] * (x.dim() - 2))

    n = total(wide.new_tensor([x.numel() / x.shape[1]]))
    mean = total(wide.sum(axes)) / n
    centered = wide - by_channel(mean)
    variance = total(centered.square().sum(axes)) / n
    if own.training and own.running_mean is not None:
        _update(own, mean.detach(), (variance * n / (n - 1)).detach())
    normal = centered * by_channel((variance + own.eps).rsqrt())
    if own.affine:
        normal = normal * by_channel(own.weight) + by_channel(own.bias)
    return normal.to(x.dtype)


@torch.no_grad()
def _update(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics as torch does."""
    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    factor = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum  # type: ignore[arg-type]
    norm.running_mean.lerp_(mean.to(norm.running_mean), factor)  # type: ignore[union-attr]
    norm.running_var.lerp_(variance.to(norm.running_var), factor)  # type: ignore[union-attr]
