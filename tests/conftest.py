"""What several tests share: one thread, hypothesis without deadlines, one release that is made once.

This file does not import torch before a test needs it: the process that hands out the tests does without.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from browsing import Browser, find_chromium

if TYPE_CHECKING:
    import stealguard as sg
    from endpoint import Model

# No test depends on time: a slow machine is not a failure.
settings.register_profile("stealguard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("stealguard"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") or os.environ.get("STEALGUARD_CI") else "stealguard")


os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import ONNX Runtime themselves
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under nohup: they would ignore Ctrl-C as well
    signal.signal(signal.SIGINT, signal.default_int_handler)


gc.disable()  # until all tests are collected: next to nothing of what that makes is garbage


def pytest_collection_finish() -> None:
    """What the collection made stays to the end: neither a garbage collection nor a log handler passes it again."""
    gc.freeze()
    gc.enable()
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.name.startswith("torch"):
            logger.propagate = True  # pytest adds a handler to each logger that does not, three times in each test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests begin before the others, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    from stealguard.devices import choose

    torch.set_num_threads(1)
    choose()  # begins a GPU's work in this process, if there is one


@pytest.fixture(scope="session", autouse=True)
def _short_audits() -> Iterator[None]:
    """Audits measure once, instead of seven times, how long answers take, and clones without any theft train briefly.

    Processes that a test starts do as they always do.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stealguard.auditing.utility.ROUNDS", 1)
        patch.setattr("stealguard.auditing.owned.SEEN", 1000)
        yield


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """What a test draws without a seed of its own is the same in every run, whatever ran before it."""
    import torch

    torch.default_generator.manual_seed(0)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)` is a folder that `make` wrote: one process of the test run makes it, and the others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, made = shared / "once" / name, shared / f"{name}.made"
        with FileLock(shared / f"{name}.lock"):
            if not made.exists():
                make(folder)
                made.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def ini_release(once: Callable[[str, Callable[[Path], object]], Path]) -> sg.Release:
    """A LeNet-5 under InI, on blobs, after one epoch. Tests that write must copy the folder first."""
    import stealguard as sg
    from samples import noise, task

    def make(out: Path) -> None:
        sg.protect("lenet5", task(), outliers=[noise(600)], defense=sg.InI(), epochs=1, out=out, progress=False)

    return sg.load(once("ini", make))


@pytest.fixture
def folder(tmp_path: Path, ini_release: sg.Release) -> Path:
    """A copy of the release's folder, for tests that write into it."""
    return Path(shutil.copytree(ini_release.folder, tmp_path / "ini"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(find_chromium(), tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[tuple[str, Model]]:
    """The address of a server of another make, and the model behind it."""
    from endpoint import Model, application, serving

    model = Model()
    with serving(application(model)) as url:
        yield url, model


@pytest.fixture
def model(endpoint: tuple[str, Model]) -> Model:
    """The model of the running server of another make, as new."""
    endpoint[1].__init__()  # type: ignore[misc]
    return endpoint[1]
