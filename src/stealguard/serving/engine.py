"""Engines: what computes the outputs of a release's heads, ONNX Runtime or torch."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealguard.boxes.base import outputs_of
from stealguard.devices import choose, device_of
from stealguard.errors import ReleaseError, StealguardError, one_line, pick
from stealguard.releases.export import Session, checked, onnx_runtime, read_report
from stealguard.releases.release import Release

Backend = Literal["auto", "onnx", "torch"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
FAR = 0.01  # a difference that no rounding explains, also on a GPU


class HeadsEngine(Protocol):
    """From contiguous float32 inputs (N, *shape) in [0, 1] to what the guard reads: the heads' outputs, digested.

    `backend` is `onnx` or `torch`, `device` where it computes, and `why` says in one sentence why it is this one.
    """

    @property
    def backend(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def why(self) -> str: ...

    def __call__(self, x: NDArray[np.float32], /) -> dict[str, Tensor]: ...


class TorchEngine:
    """The heads in torch, as audits ask them.

    Args:
        release: whose heads they are; its model is moved to `device`.
        device: a torch device.
        why: this engine was chosen.
    """

    backend = "torch"

    def __init__(self, release: Release, device: torch.device | str = "cpu", why: str = "torch was asked for"):
        self.device, self.why = str(device), why
        self._heads, self._digest = release.model.to(device).heads(), release.model.guard.digest

    def __call__(self, x: NDArray[np.float32], /) -> dict[str, Tensor]:
        with torch.inference_mode():
            return dict(self._digest(outputs_of(self._heads, torch.from_numpy(x))))


class OnnxEngine:
    """The heads in ONNX Runtime, from the release's export.

    Args:
        release: that was exported to its own folder.
        threads: that compute one batch.
        cuda: whether a GPU computes.

    Raises:
        ReleaseError: there is no export, it was changed, it belongs to another release, or did not pass its comparison.
        StealguardError: ONNX Runtime is missing.
    """

    backend = "onnx"

    def __init__(self, release: Release, threads: int = 1, *, cuda: bool = False):
        record = read_report(release.folder).get("onnx")
        if record is None:
            raise ReleaseError(f"Release `{release.folder}` was not exported to ONNX.")
        content = checked(release.folder, record, "heads", release.identity)
        self.device = "cuda" if cuda else "cpu"
        self.why = "the export answers as the release does"
        try:
            self._session = Session(content, record["heads"]["read"], threads, cuda=cuda)
            answers = _agree(release, self._session)
        except ImportError as e:
            raise StealguardError(f"ONNX Runtime is missing: pip install 'stealguard[onnx]' ({e}).") from e
        except Exception as e:  # the file may hold anything
            raise ReleaseError(f"The export of release `{release.folder}` cannot be run: {one_line(e, 300)}") from e
        if not answers:
            raise ReleaseError(f"The export of release `{release.folder}` does not compute what the release does.")

    def __call__(self, x: NDArray[np.float32], /) -> dict[str, Tensor]:
        return self._session(x)


def _agree(release: Release, session: Session) -> bool:
    """Whether both have the same outputs for two inputs: anybody may have written the file and its report."""
    x = torch.rand(2, *release.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = release.model.guard.digest(outputs_of(release.model.heads(), x.to(device_of(release.model))))
    theirs = session(x.numpy())
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape and torch.allclose(ours[name].cpu(), theirs[name], rtol=FAR, atol=FAR)
        for name in ours
    )


def engine_of(
    release: Release, backend: Backend = "auto", device: torch.device | str | None = None, *, threads: int = 1
) -> HeadsEngine:
    """The engine of a release: ONNX Runtime where its export is whole and passed its comparison, else torch.

    Args:
        release: what is served.
        backend: `onnx` or `torch` for this one or an error; `auto` to choose.
        device: a torch device; if it is not given, a GPU if there is one that the backend can use.
        threads: of the processor, that ONNX Runtime computes one batch with.

    Raises:
        Invalid: there is no such backend or device.
        ReleaseError: `onnx` was asked for, and there is no export that can be used.
        StealguardError: `onnx` was asked for on a GPU that ONNX Runtime cannot use.
    """
    pick(dict.fromkeys(BACKENDS), backend, "backend")
    place = choose("cpu" if device is None and backend == "onnx" and not _has_cuda() else device)
    if backend == "torch":
        return TorchEngine(release, place)
    cuda = place.type == "cuda"
    try:
        if cuda and not _has_cuda():
            raise StealguardError("ONNX Runtime has no GPU here: install onnxruntime-gpu, or serve with torch.")
        return OnnxEngine(release, threads, cuda=cuda)
    except StealguardError as e:
        if backend == "onnx":
            raise
        return TorchEngine(release, place, why=one_line(e))


def _has_cuda() -> bool:
    try:
        return "CUDAExecutionProvider" in onnx_runtime().get_available_providers()
    except ImportError:
        return False
