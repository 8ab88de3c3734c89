"""Seeds derived from names, so that adding a method never shifts another's numbers. Importing this loads no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for what `names` names, independent for every different sequence of names."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block torch's global generators start from `seed`; after it they are as they were."""
    import torch

    # torch.manual_seed also records the stack for each kind of accelerator, which costs up to a millisecond.
    start = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        start(seed)
        yield
