"""What a thief has paid for is never lost: a journal of answers that a second run of the same attack reads back.

Attacks are deterministic, so a run that was killed asks the same questions again; those that the journal has are
answered from it, and the box is asked only what is new. The file is a sequence of records: SHA-256 of the inputs,
rows and columns as two little-endian 32-bit integers, SHA-256 of the answers, the answers as little-endian float32.
A record that a crash has torn is dropped.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stealguard.identity import tensor_hash
from stealguard.types import BlackBox

_HEAD = struct.Struct("<32sII32s")


class Journal:
    """A box that writes down its answers at `path`, and gives those it finds there without asking.

    Only the sequence counts: the n-th question is answered from the n-th record if the inputs are the same; from the
    first that differ on, the rest of an old journal is dropped.
    """

    def __init__(self, box: BlackBox, path: Path):
        self._box, self._path = box, path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)

    def __call__(self, x: Tensor, /) -> Tensor:
        asked = bytes.fromhex(tensor_hash(x))
        start = self._file.tell()
        known = self._read(asked)
        if known is not None:
            return known.to(x.device)
        self._file.truncate(start)
        answers = self._box(x)
        rows = answers.detach().cpu().to(torch.float32).contiguous().numpy().astype("<f4")
        self._file.write(_HEAD.pack(asked, *rows.shape, hashlib.sha256(rows.data).digest()) + rows.tobytes())
        self._file.flush()
        return torch.from_numpy(rows).to(x.device)

    def close(self, *, discard: bool = False) -> None:
        """Stop writing; with `discard`, remove what was written: the row it was for is safe."""
        self._file.close()
        if discard:
            self._path.unlink(missing_ok=True)

    def _read(self, asked: bytes) -> Tensor | None:
        """The next record's answers, if it is whole and answers this question."""
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        digest, n, k, checksum = _HEAD.unpack(head)
        data = self._file.read(4 * n * k)
        if digest != asked or len(data) < 4 * n * k or hashlib.sha256(data).digest() != checksum:
            return None
        return torch.from_numpy(np.frombuffer(data, "<f4").reshape(n, k).copy())
