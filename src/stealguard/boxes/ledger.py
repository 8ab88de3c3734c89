"""A ledger of answers: an attack that was stopped pays for no answer twice.

A ledger keeps each answer under the SHA-256 of its input, so it does not matter in which order, or in which groups, a
second run asks. Nothing that was written is ever removed because a later question differs.

**The file**, version 1: the line `stealguard ledger 1`, then one record for each answered input, appended in the order
of the answers. A record is

| bytes | content |
| --- | --- |
| 4 | the mark `\\xffSGR` |
| 4 | K, the number of classes, as a little-endian integer |
| 32 | SHA-256 of the input: its shape and dtype as text, then its bytes |
| 4 K | the answer, as little-endian float32 |
| 8 | the first bytes of the SHA-256 of all of the record before them |

A reader that meets a damaged or incomplete record goes on at the next mark, so damage to one record loses no other, and
records can be appended after an incomplete one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealguard.boxes.metered import check_answers
from stealguard.errors import Refused, StealguardError
from stealguard.files import appending, opened
from stealguard.types import BlackBox

Answer = NDArray[np.float32]  # (K,)

MAGIC = b"stealguard ledger 1\n"
_MARK = b"\xffSGR"
_HEAD = struct.Struct("<4sI32s")
_CHECKSUM = 8  # bytes


class LedgerError(StealguardError):
    """A ledger cannot be read or written; names the file and the reason, which is not the box's fault."""


class Record(NamedTuple):
    """One answered input: SHA-256 of the input, and the answer, (K,) float32."""

    digest: bytes
    answer: Answer


class AnswerLedger:
    """A box that writes its answers to a file, and asks only for what the file does not have.

    The file's records are answers that were paid for earlier. The n-th time that an input is asked, it is answered with
    its n-th record, so that a box whose answers vary is repeated in order. The inputs that have no record left are
    asked in their order, and their answers are on the disk before more is asked or they are returned.

    Args:
        box: asked for what the file does not have.
        path: the file; it and its folder are created where they are missing.
        name: of the box, for error messages.
        rows: that the box is asked in one call, at most, so that no more is lost where a call fails; all if None.
        classes: K, where it is known. Records of another number of classes are of another box, and are not taken.

    Raises:
        LedgerError: `path` is not a ledger, or cannot be read or written.
    """

    def __init__(
        self, box: BlackBox, path: Path, name: str = "box", rows: int | None = None, classes: int | None = None
    ):
        self._box, self._path, self._name, self._rows = box, path, name, rows
        self._paid = defaultdict[bytes, deque[Answer]](deque)  # answers in the file that have not been returned yet
        self._classes = classes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            known = read_records(path) if path.exists() else []
            self._file = appending(path)
            _sync(path.parent)
        except OSError as e:
            raise _fault(path, e) from e
        self._append(MAGIC[path.stat().st_size :])
        for digest, answer in known:
            self._classes = self._classes or len(answer)
            if len(answer) == self._classes:
                self._paid[digest].append(answer)

    def __call__(self, x: Tensor, /) -> Tensor:
        """Answers (N, K), float32, to inputs (N, ...).

        Raises:
            Refused: the box refuses; `left` counts the first rows of `x` that can still be answered.
            BoxFault: the box's answers are not one row on the simplex for each input; none of them is written.
            LedgerError: the answers cannot be written.
        """
        digests = list(digests_of(x))
        unknown = self._unknown(digests)
        for start in range(0, len(unknown), self._rows or len(x)):
            places = unknown[start : start + (self._rows or len(x))]
            answers = self._ask(x[places], places)
            self._append(b"".join(_packed(digests[i], answer) for i, answer in zip(places, answers, strict=True)))
            for i, answer in zip(places, answers, strict=True):
                self._paid[digests[i]].append(answer)
        return torch.from_numpy(np.stack([self._taken(digest) for digest in digests])).to(x.device)

    def close(self, *, discard: bool = False) -> None:
        """Close the file; with `discard`, delete it: the result that the answers were for is safe."""
        self._file.close()
        if discard:
            self._path.unlink(missing_ok=True)

    def _unknown(self, digests: list[bytes]) -> list[int]:
        """The places of the rows that the file has no answer to."""
        asked, places = Counter[bytes](), list[int]()
        for i, digest in enumerate(digests):
            asked[digest] += 1
            if asked[digest] > len(self._paid.get(digest, ())):
                places.append(i)
        return places

    def _taken(self, digest: bytes) -> Answer:
        """The next answer in the file to the input of that digest, which is returned now."""
        answers = self._paid[digest]
        answer = answers.popleft()
        if not answers:
            del self._paid[digest]
        return answer

    def _ask(self, x: Tensor, places: list[int]) -> Answer:
        """The box's answers (N, K) to `x`, whose rows have these places in the whole question."""
        try:
            answers = self._box(x)
        except Refused as refusal:
            raise Refused(str(refusal), places[refusal.left]) from refusal
        answers = check_answers(answers, len(x), self._name, self._classes)
        self._classes = answers.shape[1]
        return answers.detach().cpu().to(torch.float32).numpy()

    def _append(self, data: bytes) -> None:
        """Returns when the data are on the disk."""
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as e:
            raise _fault(self._path, e) from e


def read_records(path: Path) -> list[Record]:
    """The whole records of a ledger, in the order in which they were written.

    Raises:
        LedgerError: the file is not a ledger of version 1.

    Example:
        >>> box = sg.boxes.AnswerLedger(lambda x: x.softmax(dim=1), Path("answers"))
        >>> answers = box(torch.rand(2, 3))
        >>> box.close()
        >>> len(sg.boxes.read_records(Path("answers")))
        2
    """
    with opened(path) as file:
        data = file.read()
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise LedgerError(f"`{path}` is not a ledger of answers that this version reads: move it away and start again.")
    return list(_records(data))


def _records(data: bytes) -> Iterator[Record]:
    place = data.find(_MARK)
    while place >= 0:
        record = _record(data, place)
        if record:
            yield record
            place += _size(len(record.answer))
        else:
            place += 1
        place = data.find(_MARK, place)


def _record(data: bytes, place: int) -> Record | None:
    """The record at that place, if it is whole."""
    if len(data) - place < _HEAD.size:
        return None
    _, classes, digest = _HEAD.unpack_from(data, place)
    end = place + _size(classes)
    if end > len(data) or _checksum(data[place : end - _CHECKSUM]) != data[end - _CHECKSUM : end]:
        return None
    return Record(digest, np.frombuffer(data, "<f4", classes, place + _HEAD.size).astype(np.float32))


def _packed(digest: bytes, answer: Answer) -> bytes:
    body = _HEAD.pack(_MARK, len(answer), digest) + answer.astype("<f4").tobytes()
    return body + _checksum(body)


def _size(classes: int) -> int:
    return _HEAD.size + 4 * classes + _CHECKSUM


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECKSUM]


def digests_of(x: Tensor) -> Iterator[bytes]:
    """SHA-256 of each row's shape, dtype and bytes."""
    kind = hashlib.sha256(f"{tuple(x.shape[1:])} {x.dtype}".encode())
    for row in x.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy():
        digest = kind.copy()
        digest.update(row)
        yield digest.digest()


def _sync(folder: Path) -> None:
    """Make the names in a folder as durable as the files' content."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fault(path: Path, error: OSError) -> LedgerError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "the disk is full" if full else f"{error.strerror}".lower()
    return LedgerError(f"The answers cannot be written to `{path}`: {reason}.")
