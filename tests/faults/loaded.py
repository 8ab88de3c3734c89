"""What the processes that fork share: all modules, loaded once, and an engine that needs no processes of its own."""

from __future__ import annotations

import ctypes
import gc
import importlib
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

LAZY = (
    "torch._dynamo", "torch.onnx", "onnxruntime", "matplotlib.backends.backend_svg", "PIL.Image", "scipy.stats",
    "rich.progress",
)  # fmt: skip


def everything() -> None:
    """Import all of stealguard, and what it imports later: a forked process then begins at once."""
    import torch

    import stealguard

    for module in pkgutil.walk_packages(stealguard.__path__, "stealguard."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in LAZY:
        importlib.import_module(name)
    stealguard.auditing.utility.ROUNDS = 1  # how long answers take is measured once
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # what a collection would touch, a forked process would have to copy


def without_privileges() -> None:
    """The superuser becomes a user whom permissions bind; nothing happens to others, or where there is no Linux."""
    with suppress(AttributeError):
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).capset(header, none)


class Here:
    """An engine that does the work in this process."""

    def __init__(self, work: Callable[..., str], home: Path, wanted: Any):
        from stealguard.comparing.engines.local import Local

        Local(work, home, wanted).close()  # its rules, and no process: these begin with the first work
        self.workers, self.threads, self._work = 1, 1, work
        self._ended: list[Any] = []

    def start(self, key: str, /, *arguments: Any) -> None:
        from stealguard.comparing.engines.base import Ended

        self._ended.append(Ended(key, self._work(*arguments)))

    def ended(self) -> Iterator[Any]:
        ended, self._ended = self._ended, []
        yield from ended

    def close(self) -> None:
        pass


def status_of(main: Callable[[], object]) -> int:
    """The exit status of the command line; 1, and a traceback on stderr, for an error that it does not catch."""
    try:
        main()
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
