"""Accounts: one defended model, queried from many accounts, and what is remembered of each."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stealguard.boxes.base import outputs_of
from stealguard.checks import check_inputs
from stealguard.errors import Refused, StealguardError, require
from stealguard.files import check_regular, replacing
from stealguard.types import Guard, State

SHARED = ""  # the name of the memory that all accounts share


class _Memory:
    """What is remembered under one name; `users` is the number of requests that hold it or wait for it."""

    def __init__(self, state: State):
        self.state, self.lock, self.users = state, Lock(), 0


class Accounts:
    """The accounts of one defended model. A guard's memory belongs to an account, or to all of them together.

    The heads run outside of every lock; only the guard, which is quick, runs under the lock of the memory that it
    reads. Many threads may send requests at once. Memory stays in the process unless there is a folder for it.

    Args:
        heads: modules from inputs (N, *shape) to outputs, each row by itself.
        guard: makes answers from these.
        shape: of one input.
        folder: where memory is written, by `save` or for lack of room, and read from; None for no folder.
        limit: how many memories stay in the process where there is a folder, at least 1; beyond, the least recently
            used are written and dropped.
    """

    def __init__(
        self, heads: Mapping[str, nn.Module], guard: Guard, shape: tuple[int, ...],
        folder: Path | None = None, limit: int = 1000,
    ):  # fmt: skip
        require(limit >= 1, "limit", "at least 1", limit)
        self._heads, self._guard, self.shape = heads, guard, tuple(shape)
        self._folder, self._limit = folder, limit
        self._known: OrderedDict[str, _Memory] = OrderedDict()
        self._lock = Lock()

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
        outputs = outputs_of(self._heads, x)
        if self._guard.scope == "none":
            answers, _ = self._guard(outputs, x, {})
        else:
            with self._held(self._name(account)) as memory:
                answers, memory.state = self._guard(outputs, x, memory.state)
        if len(answers) < len(x):
            message = f"The queries look like theft: {len(answers)} of {len(x)} inputs are answered."
            raise Refused(message, len(answers))
        return answers

    def state(self, account: str = SHARED) -> State:
        """What is remembered of the account; of all accounts where the guard's memory is shared."""
        with self._held(self._name(account)) as memory:
            return memory.state

    def save(self) -> None:
        """Write all memory that the process holds."""
        with self._lock:
            names = list(self._known)
        for name in names:
            with self._held(name) as memory:  # held, so that nothing newer can be written meanwhile
                self._write(name, memory.state)

    def _name(self, account: str) -> str:
        """Under which name the account's memory is kept."""
        return account if self._guard.scope == "account" else SHARED

    @contextmanager
    def _held(self, name: str) -> Iterator[_Memory]:
        """The memory of that name, for one request at a time."""
        with self._lock:
            if name not in self._known:
                self._make_room()
                self._known[name] = _Memory(self._read(name))
            memory = self._known[name]
            self._known.move_to_end(name)
            memory.users += 1
        try:
            with memory.lock:
                yield memory
        finally:
            with self._lock:
                memory.users -= 1

    def _make_room(self) -> None:
        """Write and drop the memories that have not been used for longest, until there is room for one more."""
        idle = [name for name, memory in self._known.items() if not memory.users] if self._folder else []
        for name in idle[: max(0, len(self._known) + 1 - self._limit)]:
            self._write(name, self._known[name].state)
            del self._known[name]  # only now: a full disk must not make it forgotten

    def _path(self, name: str) -> Path | None:
        return self._folder and self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.safetensors"

    def _write(self, name: str, state: State) -> None:
        path = self._path(name)
        if path is not None and state:
            with replacing(path) as temporary:
                save_file({key: value.contiguous() for key, value in state.items()}, temporary)

    def _read(self, name: str) -> State:
        path = self._path(name)
        if path is None or not path.exists():
            return self._guard.start()
        try:
            check_regular(path)
            return load_file(path)
        except SafetensorError as e:
            raise StealguardError(f"`{path}` is not a safetensors file ({e}).") from e


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
