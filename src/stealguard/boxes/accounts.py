"""Accounts: one defended model, queried from many accounts, and what is remembered of each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import NamedTuple, Protocol, TypeVar

from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load
from torch import Tensor, nn

from stealguard.boxes.base import outputs_of
from stealguard.checks import check_inputs
from stealguard.errors import Refused, StealguardError, counted, require
from stealguard.types import Guard, State

T = TypeVar("T")
Step = Callable[[State | None], tuple[T, State | None]]
"""From what is remembered under a name, None at first, to a result and to what is remembered from now on."""

SHARED = ""  # the name of the memory that all accounts share


class States(Protocol):
    """What is remembered under each name, for as long as the implementation says."""

    def update(self, name: str, step: Step[T]) -> T:
        """The result of `step`, which no other step under that name overlaps.

        The step may run several times, of which one counts: it has no effect but what it returns. Where it raises, or
        returns the very object that it was given, what is remembered stays as it is.
        """
        ...


class StateStore(Protocol):
    """Where states are written as bytes; a dict is one."""

    def get(self, name: str, /) -> bytes | None:
        """What was written under that name last, or None."""
        ...

    def update(self, written: Mapping[str, bytes], /) -> None:
        """Write all of these, or raise."""
        ...


class _Memory:
    """What is remembered under one name; `users` is the number of requests that hold it or wait for it."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.written: State | None = None  # the state that the store has
        self.read = False
        self.lock, self.users = Lock(), 0


class LocalStates:
    """States that this process holds, the latest used of them in memory where there is a store for all.

    What was not flushed is lost with the process. Only one process may use a store at a time.

    Args:
        store: where states are written and read again; None to hold all of them, for as long as this object lasts.
        limit: how many states stay in memory where there is a store, at least 1. Beyond, all that changed are written
            together, and the eighth that was not used for longest is dropped.
    """

    def __init__(self, store: StateStore | None = None, limit: int = 1000):
        require(limit >= 1, "limit", "at least 1", limit)
        self._store, self._limit = store, limit
        self._known: OrderedDict[str, _Memory] = OrderedDict()
        self._lock = Lock()  # of `_known`, held for moments only
        self._flushing = Lock()  # so that no older state is written after a newer one

    def update(self, name: str, step: Step[T]) -> T:
        """See `States.update`.

        Raises:
            StealguardError: what the store has is damaged, or there is no room and the store cannot be written.
        """
        memory = self._taken(name)
        try:
            with memory.lock:
                if not memory.read:
                    memory.state = memory.written = self._from_store(name)
                    memory.read = True
                result, memory.state = step(memory.state)
        finally:
            with self._lock:
                memory.users -= 1
        return result

    def flush(self) -> None:
        """Write the states that have changed since they were written."""
        if self._store is None:
            return
        with self._flushing:
            with self._lock:
                memories = list(self._known.items())
            changed = {n: (m, m.state) for n, m in memories if m.state is not None and m.state is not m.written}
            if changed:
                self._store.update({name: packed(state) for name, (_, state) in changed.items()})
            for memory, state in changed.values():
                memory.written = state

    def _taken(self, name: str) -> _Memory:
        """The memory of that name, counted as used by one request more."""
        if self._store is not None and len(self._known) >= self._limit and name not in self._known:
            self._make_room()
        with self._lock:
            memory = self._known.get(name)
            if memory is None:
                memory = self._known[name] = _Memory()
            self._known.move_to_end(name)
            memory.users += 1
        return memory

    def _make_room(self) -> None:
        self.flush()
        with self._lock:
            idle = [name for name, m in self._known.items() if not m.users and m.state is m.written]
            for name in idle[: len(self._known) - self._limit + max(1, self._limit // 8)]:
                del self._known[name]

    def _from_store(self, name: str) -> State | None:
        data = None if self._store is None else self._store.get(name)
        return None if data is None else unpacked(data, name)


def packed(state: State) -> bytes:
    """A state, whose tensors have dtypes that NumPy has, as the bytes of a safetensors file.

    The writer for torch's tensors takes four times as long, and refuses those that share memory.

    >>> import torch
    >>> unpacked(packed({"asked": torch.tensor(3)}), "ann")
    {'asked': tensor(3)}
    """
    return save({key: value.detach().cpu().contiguous().numpy() for key, value in state.items()})


def unpacked(data: bytes, name: str) -> State:
    """The state that `packed` made these bytes from.

    Raises:
        StealguardError: they are damaged; tells the name.
    """
    try:
        return load(data)
    except SafetensorError as e:
        raise StealguardError(f"What is remembered of account `{name}` is damaged ({e}).") from e


class Judged(NamedTuple):
    """What a guard makes of a request: the answers, (N, K), and what is remembered after it."""

    answers: Tensor
    state: State


class Accounts:
    """The accounts of one defended model. A guard's memory belongs to an account, or to all of them together.

    The heads run outside of every lock; only the guard, which is quick, is run as a step of the memory that it reads.
    Many threads may send requests at once.

    Args:
        heads: modules from inputs (N, *shape) to outputs, each row by itself.
        guard: makes answers from these.
        shape: of one input.
        states: where memory is kept; if None, in this object.
    """

    def __init__(
        self, heads: Mapping[str, nn.Module], guard: Guard, shape: tuple[int, ...], states: States | None = None
    ):
        self._heads, self._guard, self.shape = heads, guard, tuple(shape)
        self._states = LocalStates() if states is None else states

    def connect(self, account: str = SHARED) -> Account:
        """The black box of the account of that name; an account needs no registration."""
        return Account(self, account)

    def answer(self, account: str, x: Tensor) -> Tensor:
        """The account's answers to `x`, (N, *shape) in [0, 1]: (N, K), rows on the simplex.

        Raises:
            Invalid: `x` has another shape or dtype, a NaN, or a value outside [0, 1].
            Refused: the guard answers fewer inputs than `x` has; none of them is answered.
        """
        x = check_inputs(x, "x", self.shape)
        return self.judged(account, outputs_of(self._heads, x), x).answers

    def judged(self, account: str, outputs: Mapping[str, Tensor], x: Tensor) -> Judged:
        """What the guard makes of `x`, (N, *shape) in [0, 1], of which the heads' outputs are known.

        Raises:
            Refused: the guard answers fewer inputs than `x` has; none of them is answered.
        """
        (found,) = self.judged_each(account, outputs, x, [len(x)])
        if isinstance(found, Refused):
            raise found
        return found

    def judged_each(
        self, account: str, outputs: Mapping[str, Tensor], x: Tensor, sizes: Sequence[int]
    ) -> list[Judged | Refused]:
        """What the guard makes of requests that follow on each other; the rows of `x` are those of all of them.

        Rows count one by one, however they are batched, so that the guard is asked once. Only where it does not answer
        all is each request judged by itself. What is remembered after an answered request is then also what the others
        have added.

        Args:
            account: that asks them.
            outputs: of the heads, for `x`.
            x: (N, *shape) in [0, 1].
            sizes: how many rows each request has, N in all.
        """
        step = partial(self._step, outputs, x, sizes)
        if self._guard.scope == "none":
            return step(None)[0]
        return self._states.update(self.memory_of(account), step)

    def _step(
        self, outputs: Mapping[str, Tensor], x: Tensor, sizes: Sequence[int], known: State | None
    ) -> tuple[list[Judged | Refused], State]:
        before = self._guard.start() if known is None else known
        answers, state = self._guard(outputs, x, before)
        if answers.size(0) == x.size(0):  # which `len` takes several times as long to find
            return [Judged(rows, state) for rows in answers.split_with_sizes(list(sizes))], state
        if len(sizes) == 1:
            return [_refused(answers, x)], state
        found, start, state = list[Judged | Refused](), 0, before
        for size in sizes:
            rows = slice(start, start + size)
            part = {name: output[rows] for name, output in outputs.items()}
            answers, state = self._guard(part, x[rows], state)
            found.append(Judged(answers, state) if len(answers) == size else _refused(answers, x[rows]))
            start += size
        return found, state

    def state(self, account: str = SHARED) -> State:
        """What is remembered of the account; of all accounts where the guard's memory is shared."""
        known = self._states.update(self.memory_of(account), lambda known: (known, known))
        return self._guard.start() if known is None else known

    def memory_of(self, account: str) -> str:
        """Under which name the account's memory is kept: its own, or one for all that the guard does not tell apart."""
        return account if self._guard.scope == "account" else SHARED


def _refused(answers: Tensor, x: Tensor) -> Refused:
    can = f"{len(answers)} of {counted(len(x), 'input')} can be answered"
    return Refused(f"The queries look like theft: {can}.", len(answers))


class Account:
    """The black box of one account."""

    def __init__(self, accounts: Accounts, name: str):
        self._accounts, self.name = accounts, name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return self._accounts.shape

    def __call__(self, x: Tensor, /) -> Tensor:
        """See `Accounts.answer`."""
        return self._accounts.answer(self.name, x)
