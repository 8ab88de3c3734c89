"""Exports: a release as ONNX files or torch programs, kept only if they answer as the release does.

Two files are made. `heads` has inputs in [0, 1] and one output for each head of the release: the server runs it, and
the guard's answers are made from its outputs. `model` is the whole box, from inputs as users have them to answers, for
releases whose guard remembers nothing and can be written as a graph. A release is of tier A if it has both files, of
tier B if it has `heads` alone, and of tier C if it has neither.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stealguard.boxes.base import CHUNK, at_least_float32, outputs_of
from stealguard.data.scaling import Scaling
from stealguard.devices import device_of
from stealguard.errors import ReleaseError, StealguardError, counted, interrupt, pick, require
from stealguard.files import opened, read_text, replacing, sha256, write_text
from stealguard.identity import fingerprint
from stealguard.releases.recipes import check_exports
from stealguard.releases.release import REPORT, Release
from stealguard.releases.samples import Compared, samples
from stealguard.types import Guard

FORMAT = 1
INPUT, OUTPUT = "input", "probabilities"
LARGEST, USUAL, SHARE = 1e-4, 1e-5, 0.999  # differences: of any row at most, and of that share of the rows at most
ROWS = 1000  # of task inputs and of outliers, at least, that an export is compared on
PART = 64  # rows that a thread of the processor computes at once: the numbers between layers of more leave its cache

To = Literal["onnx", "torch"]
TOS: tuple[To, ...] = get_args(To)
SUFFIX: Mapping[str, str] = {"onnx": "onnx", "torch": "pt2"}


class Parity(NamedTuple):
    """How far an export's outputs are from the release's, on inputs of one kind.

    Differences of answers are absolute. Those of other outputs are relative to the greatest number of their row, if it
    is greater than 1.

    Attributes:
        inputs: which inputs these are.
        rows: how many.
        largest: difference.
        usual: the share of the rows that differ by `USUAL` at most.
        top_1: the share of the rows with the same greatest entry, of those where it is greater than the second by more
            than `LARGEST`.
    """

    inputs: str
    rows: int
    largest: float
    usual: float
    top_1: float

    @property
    def passed(self) -> bool:
        """A difference that is no number does not pass."""
        return self.largest <= LARGEST and self.usual >= SHARE and self.top_1 == 1

    def __str__(self) -> str:
        return (
            f"{counted(self.rows, 'input')} ({self.inputs}): largest difference {self.largest:.1e}, "
            f"{100 * self.usual:.2f} % of rows within {USUAL:.0e}, same top class in {100 * self.top_1:.2f} %"
        )


@dataclass(frozen=True)
class Part:
    """What became of one file: its name, hash, outputs and parity, or the reason why there is none.

    `read` names those outputs that the guard reads.
    """

    file: str = ""
    sha256: str = ""
    outputs: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    parity: tuple[Parity, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        folder: where.
        to: `onnx` or `torch`.
        identity: of the release.
        heads: the outputs that the guard reads.
        model: the whole box.
        opset: of the ONNX files; None for torch.
        packages: versions of what made and compared the files.
    """

    folder: Path
    to: To
    identity: str
    heads: Part
    model: Part
    opset: int | None
    packages: Mapping[str, str]

    @property
    def tier(self) -> str:
        """A for the whole box, B for the heads alone, C for none of them."""
        return "A" if self.model.file else "B" if self.heads.file else "C"

    def record(self) -> dict[str, Any]:
        """As JSON data."""
        parts = {name: _record(part) for name, part in (("heads", self.heads), ("model", self.model))}
        facts = {"tier": self.tier, "opset": self.opset, "packages": dict(self.packages)}
        return {"identity": self.identity, **facts, **parts}


def _record(part: Part) -> dict[str, Any]:
    return {
        **asdict(part),
        "outputs": list(part.outputs),
        "read": list(part.read),
        "parity": [one._asdict() for one in part.parity],
    }


def export(
    release: Release, to: str = "onnx", out: str | Path | None = None, *, overwrite: bool = False, rows: int = ROWS
) -> Exported:
    """Write a release as ONNX files or as torch programs, compare them with it, and keep those that are equal to it.

    Both are compared on task inputs and on outliers (see `samples`): no row may differ by more than 1e-4, 99.9 % of
    the rows by no more than 1e-5, and the top class is the same wherever it leads by more than 1e-4. The numbers are
    written beside the files, to `export.json`.

    Args:
        release: read with `device="cpu"`.
        to: `onnx` (`torch.onnx.export`) or `torch` (`torch.export`).
        out: the folder to write to; the release's own if None.
        overwrite: replace an earlier export.
        rows: how many inputs of each kind are compared, at least 2.

    Raises:
        Invalid: a parameter breaks its rule.
        ReleaseError: not even the heads can be exported; says why, with the numbers if they differ.
        StealguardError: a package is missing.

    Example:
        >>> export(sg.load("runs/mine")).tier  # doctest: +SKIP
        'B'
    """
    chosen: To = pick(dict(zip(TOS, TOS, strict=True)), to, "to")
    require(rows >= 2, "rows", "at least 2", rows)
    require(device_of(release.model).type == "cpu", "release", "on the processor", f"on {device_of(release.model)}")
    folder = release.folder if out is None else Path(out)
    files = {part: folder / f"{part}.{SUFFIX[chosen]}" for part in ("heads", "model")}
    taken = [path.name for path in files.values() if path.exists()]
    rule = "without an earlier export (or pass `overwrite`, `--overwrite` on the command line)"
    require(overwrite or not taken, "out", f"a folder {rule}", f"{', '.join(taken)} in `{folder}`")
    tool = _Onnx() if chosen == "onnx" else _Torch()
    others = {name: record for name, record in _earlier(folder, release.identity).items() if name != chosen}

    compared = samples(release, rows)
    heads = _Heads(release.model.heads(), release.model.guard, release.shape)
    made = _kept(tool, release, heads, compared, files["heads"])
    if not made.file:
        whole = Part(reason=made.reason)
    elif release.model.guard.scope != "none":
        whole = Part(reason="the guard remembers queries: only the server can answer as audited")
    else:
        box = _Box(heads, release.scaling)
        whole = _kept(tool, release, box, _raw(compared, release.scaling), files["model"])
    for part, path in zip((made, whole), files.values(), strict=True):
        if not part.file:
            path.unlink(missing_ok=True)  # an earlier export's
    exported = Exported(folder, chosen, release.identity, made, whole, tool.opset, tool.packages())
    _write(folder, {**others, chosen: exported.record()})
    if exported.tier == "C":
        raise ReleaseError(f"Release `{release.folder}` cannot be exported to {chosen}: {made.reason}.")
    return exported


# What is exported ---------------------------------------------------------------------------------------------


class _Heads(nn.Module):
    """All heads as one module, from inputs (N, *shape) in [0, 1] to a tuple of outputs by `names`.

    The outputs are the heads', each as `outputs_of` has it, and then what the guard's digest adds to them. The guard
    reads those that are in `read`.
    """

    def __init__(self, heads: Mapping[str, nn.Module], guard: Guard, shape: tuple[int, ...]):
        super().__init__()
        self._heads, self.parts, self.guard = heads, nn.ModuleList(heads.values()), guard
        self._dtypes = [_dtype_of(part) for part in self.parts]
        self.eval()
        self.names = tuple(heads)
        like = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            self.read = tuple(guard.digest(outputs_of(heads, like)))
        self.names = (*heads, *(name for name in self.read if name not in heads))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        asked = zip(self._heads, self.parts, self._dtypes, strict=True)
        return self._all({name: at_least_float32(part(x.to(dtype))) for name, part, dtype in asked})

    def reference(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the release itself computes."""
        return self._all(outputs_of(self._heads, x))

    def _all(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        known = {**outputs, **self.guard.digest(outputs)}
        return tuple(known[name] for name in self.names)


class _Box(nn.Module):
    """The whole box, from inputs (N, *shape) as users have them to answers (N, K)."""

    names = (OUTPUT,)
    read = ()

    def __init__(self, heads: _Heads, scaling: Scaling | None):
        super().__init__()
        self.heads, self._scaling = heads, scaling
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x if self._scaling is None else self._scaling.to01(x)
        return (self._answers(self.heads(x), x),)

    def reference(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the release itself answers."""
        x = x if self._scaling is None else self._scaling.to01(x)
        return (torch.cat([self._answers(self.heads.reference(part), part) for part in x.split(CHUNK)]),)

    def _answers(self, outputs: Sequence[Tensor], x: Tensor) -> Tensor:
        known = dict(zip(self.heads.names, outputs, strict=True))
        answers, _ = self.heads.guard({name: known[name] for name in self.heads.read}, x, {})
        return answers


def _dtype_of(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def _raw(compared: Sequence[Compared], scaling: Scaling | None) -> list[Compared]:
    """The same inputs in the users' units."""
    return [sample if scaling is None else Compared(sample.name, scaling.raw(sample.x)) for sample in compared]


# How it is exported -------------------------------------------------------------------------------------------


class Run(Protocol):
    """An export that was read back: from inputs (N, *shape) to its outputs in order."""

    def __call__(self, x: Tensor, /) -> Sequence[Tensor]: ...


class _Tool(Protocol):
    opset: int | None

    def packages(self) -> dict[str, str]: ...

    def write(self, module: nn.Module, like: Tensor, outputs: Sequence[str], notes: dict[str, str], path: Path) -> None:
        """Trace a module with inputs (2, *shape) like these, and write it with any number of rows."""
        ...

    def read(self, path: Path) -> Run: ...


def _any_number_of_rows() -> tuple[dict[int, Any]]:
    """The first dimension varies. It has a bound, without which torch 2.6 fixes the rows where a slice has no end."""
    return ({0: torch.export.Dim("batch", max=2**31 - 1)},)


class _Onnx:
    opset: int | None = None

    def __init__(self) -> None:
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
        if missing:
            found = f"{', '.join(missing)} not found"
            raise StealguardError(f"An export to ONNX needs more packages: pip install 'stealguard[export]' ({found}).")
        import onnx

        self._set_notes = onnx.helper.set_model_props

    def packages(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")}

    def write(self, module: nn.Module, like: Tensor, outputs: Sequence[str], notes: dict[str, str], path: Path) -> None:
        program = torch.onnx.export(
            module, (like,), dynamo=True, verbose=False, input_names=[INPUT], output_names=list(outputs),
            dynamic_shapes=_any_number_of_rows(),
        )  # fmt: skip
        model = program.model_proto  # type: ignore[union-attr]
        self._set_notes(model, notes)
        self.opset = next(entry.version for entry in model.opset_import if not entry.domain)
        path.write_bytes(model.SerializeToString())

    def read(self, path: Path) -> Run:
        ask = Session(path.read_bytes())
        return lambda x: list(ask(x.contiguous().numpy()).values())


class _Torch:
    opset: int | None = None

    def packages(self) -> dict[str, str]:
        return {"torch": version("torch")}

    def write(self, module: nn.Module, like: Tensor, outputs: Sequence[str], notes: dict[str, str], path: Path) -> None:
        program = torch.export.export(module, (like,), dynamic_shapes=_any_number_of_rows(), strict=False)
        with path.open("wb") as f:
            torch.export.save(program, f, extra_files={"outputs": json.dumps(list(outputs)), **notes})

    def read(self, path: Path) -> Run:
        with path.open("rb") as f:
            module = torch.export.load(f).module()
        return torch.no_grad()(module)


def onnx_runtime() -> Any:
    """The package onnxruntime, whose telemetry is off unless the user has set `ORT_DISABLE_TELEMETRY`.

    By default, version 1.32 reports to its makers which models it loads and on what machine, and keeps an identifier
    of the machine in the user's cache. It reads the variable when it is imported: the package imports it here alone.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class Session:
    """An ONNX graph as ONNX Runtime computes it, from inputs (N, *shape) to its outputs by name.

    On its own threads, which wait without spinning, numbers below the least normal one count as 0: they slow a
    processor down by far. More rows than `PART` for each thread, or `CHUNK` on a GPU, are computed in parts.

    Args:
        graph: the content of an ONNX file.
        outputs: the names of those that are given; all if there are none.
        threads: that compute one request.
        cuda: whether a GPU computes.
    """

    def __init__(self, graph: bytes, outputs: Sequence[str] = (), threads: int = 1, *, cuda: bool = False):
        onnxruntime = onnx_runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        options.log_severity_level = 3
        providers = ["CUDAExecutionProvider"] if cuda else []
        flushed = float(np.float32(1e-40) * np.float32(1)) == 0
        self._session = onnxruntime.InferenceSession(graph, options, providers=[*providers, "CPUExecutionProvider"])
        torch.set_flush_denormal(flushed)  # the session changes this thread as well, for good
        self.names = list(outputs) or [output.name for output in self._session.get_outputs()]
        self._run = self._session.run
        self._rows = CHUNK if cuda else min(CHUNK, PART * threads)

    @property
    def notes(self) -> dict[str, str]:
        """What the file says of itself."""
        return self._session.get_modelmeta().custom_metadata_map

    def __call__(self, x: NDArray[np.float32]) -> dict[str, Tensor]:
        """The outputs, in memory that they share with ONNX Runtime's arrays."""
        rows = self._rows
        if len(x) <= rows:
            found = self._run(self.names, {INPUT: x})
        else:
            parts = [self._run(self.names, {INPUT: x[i : i + rows]}) for i in range(0, len(x), rows)]
            found = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        return {name: torch.from_numpy(array) for name, array in zip(self.names, found, strict=True)}


# What is kept of it -------------------------------------------------------------------------------------------


class _NotKept(Exception):
    """Why a file is not kept."""

    def __init__(self, reason: str, found: tuple[Parity, ...] = ()):
        super().__init__(reason)
        self.parity = found


def _kept(tool: _Tool, release: Release, module: _Heads | _Box, compared: Sequence[Compared], path: Path) -> Part:
    """The file at `path` if it could be written and answers as `module` does; else the reason why it is not there."""
    try:
        with torch.no_grad(), replacing(path) as temporary:
            run = _written(tool, module, compared[0].x[:2].clone(), notes_of(release), temporary)
            found = tuple(parity(module, run, sample) for sample in compared)
            if not all(one.passed for one in found):
                differ = "; ".join(str(one) for one in found if not one.passed)
                raise _NotKept(f"it does not answer as the release does: {differ}", found)
    except _NotKept as e:
        return Part(parity=e.parity, reason=str(e))
    return Part(path.name, sha256(path), module.names, module.read, found)


def _written(tool: _Tool, module: _Heads | _Box, like: Tensor, notes: dict[str, str], path: Path) -> Run:
    """The module, written and read back.

    Raises:
        _NotKept: it cannot be written as a graph.
    """
    module.reference(like)  # what a guard computes once and keeps must not be computed while it is traced
    import_module("torch._dynamo")  # torch's exporters do so while they trace, and take an interrupt then for a failure
    try:
        with _quiet():
            tool.write(module, like, module.names, notes, path)
        run = tool.read(path)
        run(torch.cat([like, like[:1]]))  # as many rows as it was not traced with
        return run
    except Exception as e:  # tracing runs anybody's code, and raises anything
        if (stopped := interrupt(e)) is not None:
            raise stopped from None
        raise _NotKept(f"it cannot be written as a graph ({_cause(e)})") from e


def parity(module: _Heads | _Box, run: Run, sample: Compared) -> Parity:
    """How an export answers, beside the module that it was made from.

    Args:
        module: what the release computes.
        run: the export.
        sample: what both are asked.
    """
    absolute = isinstance(module, _Box)
    rows = [
        _differences(ours.flatten(1).double(), torch.as_tensor(theirs).flatten(1).double(), absolute)
        for ours, theirs in zip(module.reference(sample.x), run(sample.x), strict=True)
        if ours.numel()
    ]
    largest = torch.stack([difference for difference, _ in rows]).amax(dim=0)
    same = torch.stack([top for _, top in rows]).all(dim=0).double()
    usual = (largest <= USUAL).double()
    return Parity(sample.name, len(sample.x), largest.max().item(), usual.mean().item(), same.mean().item())


def _differences(ours: Tensor, theirs: Tensor, absolute: bool) -> tuple[Tensor, Tensor]:
    """Of each row of (N, D): the largest difference, and whether the greatest entry is the same or hardly leads."""
    if ours.shape != theirs.shape:
        return torch.full((len(ours),), torch.nan), torch.zeros(len(ours), dtype=torch.bool)
    scale = torch.ones(len(ours)) if absolute else ours.abs().amax(dim=1).clamp_min(1)
    difference = ((ours - theirs) / scale[:, None]).abs().amax(dim=1)
    if ours.shape[1] < 2:
        return difference, torch.ones(len(ours), dtype=torch.bool)
    lead = -ours.topk(2, dim=1).values.diff(dim=1).squeeze(1) / scale
    return difference, (ours.argmax(dim=1) == theirs.argmax(dim=1)) | (lead <= LARGEST)


def notes_of(release: Release) -> dict[str, str]:
    """What an exported file says of itself: names of classes and scaling as JSON, and which release it came from."""
    recipe = release.recipe
    return {
        "class_names": json.dumps(recipe["names"] or [str(k) for k in range(recipe["classes"])]),
        "scaling": json.dumps(recipe["scaling"]),
        "shape": json.dumps(recipe["shape"]),
        "identity": release.identity,
        "weights_sha256": recipe["weights_sha256"],
    }


def _cause(error: BaseException) -> str:
    """What went wrong at first, in one line: exporters wrap errors in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own notes, of which there are pages."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# The report ---------------------------------------------------------------------------------------------------


def read_report(folder: Path) -> dict[str, Any]:
    """What was exported from the release in `folder`: for `onnx` and for `torch` what `Exported.record` gives.

    Raises:
        ReleaseError: there is none, or it was changed after it was written.
    """
    path = folder / REPORT
    try:
        report = json.loads(read_text(path))
        format_, expected, exports = report["format"], report["sha256"], report["exports"]
    except FileNotFoundError as e:
        raise ReleaseError(f"Nothing was exported from release `{folder}`.") from e
    except OSError as e:
        raise ReleaseError(f"`{path}` cannot be read ({e.strerror}).") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ReleaseError(f"`{path}` should be a report in JSON. Found a truncated or foreign file.") from e
    if format_ != FORMAT or expected != fingerprint({"format": format_, "exports": exports}):
        raise ReleaseError(f"`{path}` should have SHA-256 {expected}: it was changed after it was written.")
    check_exports(exports, path)
    return exports  # type: ignore[no-any-return]


def _earlier(folder: Path, identity: str) -> dict[str, Any]:
    """What the report says of other exports of the same release."""
    try:
        found = read_report(folder)
    except ReleaseError:
        return {}
    return {to: record for to, record in found.items() if record["identity"] == identity}


def _write(folder: Path, exports: Mapping[str, Any]) -> None:
    sealed = {"format": FORMAT, "exports": dict(exports)}
    write_text(folder / REPORT, json.dumps({**sealed, "sha256": fingerprint(sealed)}, indent=2) + "\n")


def checked(folder: Path, record: Mapping[str, Any], part: str, identity: str) -> bytes:
    """The content of an exported file that belongs to the release of that identity.

    Args:
        folder: that holds the file.
        record: of the export, from `read_report`.
        part: `heads` or `model`.
        identity: of the release.

    Raises:
        ReleaseError: there is no such file, it was changed, or it belongs to another release.
    """
    found = record[part]
    if not found["file"]:
        raise ReleaseError(f"There is no export of the {part}: {found['reason']}.")
    path = folder / found["file"]
    if record["identity"] != identity:
        raise ReleaseError(f"`{path}` belongs to another release, {record['identity'][:12]}: export it again.")
    if not found["parity"] or not all(Parity(**one).passed for one in found["parity"]):
        raise ReleaseError(f"`{path}` does not answer as the release does.")
    try:
        with opened(path) as file:
            content = file.read()
    except OSError as e:
        raise ReleaseError(f"`{path}` cannot be read ({e.strerror}).") from e
    if hashlib.sha256(content).hexdigest() != found["sha256"]:
        raise ReleaseError(f"`{path}` should have SHA-256 {found['sha256']}: it is truncated or was tampered with.")
    return content
