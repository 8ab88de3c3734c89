"""What is remembered of a client: by a guard that watches its queries, and from one visit to the next."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stealguard.errors import Refused, StealguardError, require
from stealguard.files import replacing
from stealguard.types import BlackBox


@runtime_checkable
class Remembering(Protocol):
    """A guard whose answers depend on what its client asked before; one object for each client."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None: ...


def forgetful(box: BlackBox) -> BlackBox:
    """The box as a client finds it that has asked nothing yet, each time: what it remembers is blank before a question.

    A guard is built once, for that may take longer than an answer.
    """
    if not isinstance(box, Remembering):
        return box
    blank = box.state_dict()

    def asked(x: Tensor, /) -> Tensor:
        box.load_state_dict(blank)
        return box(x)

    return asked


class Watch:
    """A box that answers a client until its queries give it away as a thief, and then no more.

    Queries count one by one, in their order, however they are batched. A question that has the query in it which
    gives its client away is refused as a whole; the client may have as many answers as there are queries before that
    one. It cannot try out other queries instead: from then on nothing else is looked at.
    """

    def __init__(self, box: BlackBox):
        self._box = box
        self._left: int | None = None  # of answers, once the client is found out

    def __call__(self, x: Tensor, /) -> Tensor:
        """
        Raises:
            Refused: the client has been found out, and has fewer answers left than `x` has rows.
        """
        if self._left is None:
            answers = self._box(x)
            self._left = self.found_out(x, answers)
            if self._left is None:
                return answers
        if len(x) > self._left:
            raise Refused(f"The queries look like theft: {self._left} of {len(x)} inputs are answered.", self._left)
        self._left -= len(x)
        return self._box(x)

    @abstractmethod
    def found_out(self, x: Tensor, answers: Tensor) -> int | None:
        """Remember queries (N, ...), answered (N, K); how many there are before the one that gives the client away."""

    @abstractmethod
    def memory(self) -> dict[str, Tensor]:
        """What is remembered."""

    @abstractmethod
    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Take what `memory` gave in the place of what is remembered."""

    def state_dict(self) -> dict[str, Tensor]:
        return {"left": torch.tensor(-1 if self._left is None else self._left), **self.memory()}

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        left = int(state["left"])
        self._left = None if left < 0 else left
        self.remember(state)


class Clients:
    """Each client behind a guard of its own, by name. What guards remember outlives the process.

    Args:
        new: makes the guarded box of a client that has never asked: a release's `box`.
        folder: where the memory of those who have not asked for the longest time is put, and all of it by `save`.
        limit: as many clients are kept in memory, at least 1.
    """

    def __init__(self, new: Callable[[], BlackBox], folder: Path, limit: int = 1000):
        require(limit >= 1, "limit", "at least 1", limit)
        self._new, self._folder, self._limit = new, folder, limit
        self._boxes: OrderedDict[str, BlackBox] = OrderedDict()
        self._lock = Lock()

    def __call__(self, client: str, x: Tensor) -> Tensor:
        """The client's answers to x."""
        with self._lock:
            return self._box(client)(x)

    def save(self) -> None:
        """Write what is remembered of all clients in memory."""
        with self._lock:
            for client, box in self._boxes.items():
                self._write(client, box)

    def _box(self, client: str) -> BlackBox:
        if client not in self._boxes:
            self._boxes[client] = self._read(client)
            if len(self._boxes) > self._limit:
                self._write(*self._boxes.popitem(last=False))
        self._boxes.move_to_end(client)
        return self._boxes[client]

    def _path(self, client: str) -> Path:
        return self._folder / f"{hashlib.sha256(client.encode()).hexdigest()}.safetensors"

    def _write(self, client: str, box: BlackBox) -> None:
        if isinstance(box, Remembering):
            with replacing(self._path(client)) as temporary:
                save_file({name: value.contiguous() for name, value in box.state_dict().items()}, temporary)

    def _read(self, client: str) -> BlackBox:
        box, path = self._new(), self._path(client)
        if isinstance(box, Remembering) and path.exists():
            try:
                box.load_state_dict(load_file(path))
            except SafetensorError as e:
                raise StealguardError(f"`{path}` is no safetensors file ({e}).") from e
        return box
