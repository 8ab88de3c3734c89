"""Victims: whatever can be asked. A release is one kind; a model that stealguard did not make is another."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stealguard.auditing.remote import Remote
from stealguard.boxes.base import as_answers, dtype_of, in_chunks, looks_like_logits, on_simplex
from stealguard.defenses.base import Defense
from stealguard.devices import choose, device_of
from stealguard.errors import BoxFault, Invalid, StealguardError, one_line, require
from stealguard.files import check_regular, sha256
from stealguard.identity import fingerprint
from stealguard.nets import structure
from stealguard.nets.probing import first_tensor
from stealguard.registry import imported
from stealguard.releases import Release, load
from stealguard.releases.export import onnx_runtime
from stealguard.releases.release import RECIPE, hash_of
from stealguard.results import VictimFacts
from stealguard.types import BlackBox, Probabilities

ROUNDED = 0.02  # how far from 1 the sum of probabilities in 16 bits may be
FATAL = 4  # what ONNX Runtime logs to stderr: errors are told by its exceptions


@runtime_checkable
class Victim(Protocol):
    """What is attacked.

    `shape` is that of one input, and `output` says how many classes an answer has; both are empty (`()`, 0 classes)
    where only the data of an audit tell. `identity` is the SHA-256 of all that the answers follow from, or "" where
    nobody knows. `connect` gives the black box of one account: what the victim remembers of an account is that
    account's. `facts` is what a report may say.
    """

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def output(self) -> Probabilities: ...

    @property
    def identity(self) -> str: ...

    def connect(self, account: str = "") -> BlackBox: ...

    def facts(self) -> VictimFacts: ...


class Given:
    """A model that stealguard did not make, as a victim: anything that answers inputs.

    Args:
        model: a torch module; a scikit-learn classifier; a function of inputs (N, *shape), as a NumPy array or a
            tensor, to answers; `module:callable` for one of these; or the path of an `.onnx` file. Answers may be rows
            on the simplex (N, K), labels (N,), or, for two classes, the probability of the second, (N,) or (N, 1).
            A module and an ONNX file may give logits (N, K), and their log-probabilities are understood as well.
        shape: of one input; the audit's data tell if None.
        classes: how many there are; the audit's data tell if None.
        names: of the classes, in the order of the answers' columns.
        name: what reports call the victim.
        device: where a torch module runs; where it is if None. Other models run where they please, and ONNX files on
            the processor.

    Raises:
        Invalid: `model` is none of these, or there are more `classes` or fewer than `names`.

    Example:
        >>> victim = Given(lambda x: np.full((len(x), 2), 0.5), shape=(30,), classes=2)
        >>> victim.connect()(torch.zeros(1, 30))
        tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self,
        model: Any,
        shape: Sequence[int] | None = None,
        classes: int | None = None,
        *,
        names: Sequence[str] = (),
        name: str = "",
        device: str | torch.device | None = None,
    ):
        word = str(model) if isinstance(model, str | os.PathLike) else type(model).__name__
        self.name = name or getattr(model, "__name__", word).rsplit("/", 1)[-1]
        self.shape = tuple(shape or ())
        self.output = Probabilities(classes or len(names), tuple(names))
        require(len(names) in (0, self.output.classes), "names", f"of all {self.output.classes} classes", len(names))
        self._word = word
        self._model, self._device = model, device
        self.identity, self.module, self._ask = _opened(model, device)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process the model is opened again: imported, or read from its file."""
        classes, names = self.output
        again = partial(Given, names=names, name=self.name, device=self._device)
        return again, (self._model, self.shape, classes)

    @property
    def fitted_here(self) -> bool:
        """Whether this is a scikit-learn classifier: only its answers, which cost nothing, tell it from another one."""
        return isinstance(self._ask, _OfFunction) and self._ask.of_estimator

    def connect(self, account: str = "") -> BlackBox:
        """The box; nobody knows whether such a victim tells accounts apart."""
        return self._answer

    def facts(self) -> VictimFacts:
        return VictimFacts(
            key=self.identity, name=self.name, net=self._word, shape=self.shape, classes=self.output.classes or None
        )

    def fitted(self, shape: tuple[int, ...], classes: int, names: Sequence[str]) -> Given:
        """This victim, with the shape and the classes of an audit's data where it has none of its own."""
        other = object.__new__(type(self))
        known = self.output
        other.__dict__.update(self.__dict__)
        other.shape = self.shape or shape
        other.output = Probabilities(known.classes or classes, known.names or tuple(names))
        return other

    def _answer(self, x: Tensor, /) -> Tensor:
        try:
            parts = [self._ask(part) for part in in_chunks(x)]
        except (StealguardError, MemoryError):
            raise
        except (Exception, SystemExit) as e:  # whatever a stranger's model raises
            raise BoxFault(f"`{self.name}` should answer. Found {type(e).__name__}: {one_line(e)}") from e
        return torch.cat([_rows(part, self.output.classes, self.name).to(x.device) for part in parts])


Ask = Callable[[Tensor], Tensor]


def _opened(model: Any, device: str | torch.device | None) -> tuple[str, nn.Module | None, Ask]:
    """The identity of a model, the module that it is if it is one, and how it is asked."""
    if isinstance(model, str | os.PathLike):
        if str(model).endswith(".onnx"):
            return _onnx(Path(model))
        model = _imported(str(model))
    if isinstance(model, nn.Module):
        module: nn.Module = model if device is None else model.to(choose(device))
        return fingerprint([structure(module), hash_of(module)]), module, _of_module(module)
    estimator = hasattr(model, "predict_proba") or (hasattr(model, "predict") and not callable(model))
    if estimator:
        model = getattr(model, "predict_proba", None) or model.predict
    require(callable(model), "victim", "a release, a model or a function of inputs", type(model).__name__)
    return "", None, _OfFunction(model, estimator or hasattr(getattr(model, "__self__", None), "predict"))


def _imported(path: str) -> Any:
    """What `module:callable` names; a function without parameters is called, and gives the model."""
    rule = "a release folder, `module:callable` or an .onnx file"
    require(":" in path, "victim", rule, f"`{path}`")
    found = imported(path, "victim")
    try:
        makes = inspect.isclass(found) or (inspect.isroutine(found) and not inspect.signature(found).parameters)
        return found() if makes else found
    except (Exception, SystemExit) as e:  # whatever the user's own code raises
        found_text = f"`{path}` ({type(e).__name__}: {(str(e).splitlines() or [''])[0]})"
        raise Invalid("victim", f"{rule} that can be imported", found_text) from e


def _of_module(module: nn.Module) -> Ask:
    told = _Outputs()

    @torch.no_grad()
    def ask(x: Tensor) -> Tensor:
        module.eval()
        return told.answers(_in_float32(first_tensor(module(x.to(device_of(module), dtype_of(module), copy=True)))))

    return ask


def _in_float32(found: Tensor) -> Tensor:
    """What a net gives; probabilities that were rounded to fewer bits sum to 1 again."""
    rows = found.to(torch.float32)
    if rows.dim() == 2 and rows.shape[1] > 1 and found.dtype in (torch.float16, torch.bfloat16):
        sums = rows.sum(dim=1, keepdim=True)
        if (rows >= 0).all() and ((sums - 1).abs() <= ROUNDED).all():
            return rows / sums
    return rows


class _Outputs:
    """What a net gives, as answers: logits, log-probabilities or probabilities (N, K), or the logit or the probability,
    (N, 1) or (N,), of the second of two classes.

    The first outputs tell whether all are logits: of a few inputs, logits between 0 and 1 look like probabilities.
    """

    def __init__(self) -> None:
        self._logits: bool | None = None

    def answers(self, found: Tensor) -> Tensor:
        if found.dim() == 2 and found.shape[1] == 1:
            found = found.squeeze(1)
        look = looks_like_logits(found)
        if self._logits is None:
            self._logits = look
        if look and not self._logits:
            raise BoxFault("A net should give logits, or probabilities. Found logits after what were probabilities.")
        return as_answers(found, logits=self._logits)


class _OfFunction:
    """How a function is asked: with NumPy arrays, or with tensors if it does not take arrays."""

    def __init__(self, function: Callable[[Any], Any], of_estimator: bool = False):
        self._function, self._tensors, self.of_estimator = function, False, of_estimator

    def __call__(self, x: Tensor) -> Tensor:
        if not self._tensors:
            try:
                return self._tensor(self._function(x.detach().cpu().numpy()))
            except (TypeError, AttributeError):
                self._tensors = True
        return self._tensor(self._function(x))

    @staticmethod
    def _tensor(found: Any) -> Tensor:
        return found.detach() if isinstance(found, Tensor) else torch.from_numpy(np.asarray(found))


def _parts(path: Path) -> list[Path]:
    """The files of an ONNX model: large weights lie beside it, in files whose names begin with its own."""
    return sorted(part for part in path.parent.iterdir() if part.name.startswith(path.name) and part.is_file())


def _onnx(path: Path) -> tuple[str, None, Ask]:
    try:
        onnxruntime = onnx_runtime()
    except ImportError as e:
        raise StealguardError(f"`{path}` needs ONNX Runtime: pip install 'stealguard[onnx]' ({e}).") from e
    try:
        check_regular(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        entry, identity = session.get_inputs()[0], fingerprint([sha256(part) for part in _parts(path)])
    except Exception as e:  # onnxruntime has no common base of its errors
        raise Invalid("victim", "an .onnx file that can be read", f"`{path}` ({str(e).splitlines()[0]})") from e
    told = _Outputs()
    kind = {"tensor(double)": np.float64, "tensor(float16)": np.float16}.get(entry.type, np.float32)

    def ask(x: Tensor) -> Tensor:
        found = session.run(None, {entry.name: x.detach().cpu().numpy().astype(kind)})
        rows = next((np.asarray(part) for part in found if np.ndim(part) == 2), found[0])
        return told.answers(torch.from_numpy(np.asarray(rows, np.float32)))

    return identity, None, ask


def _rows(found: Tensor, classes: int, name: str) -> Tensor:
    """Answers (N, K) from what a stranger's model gives."""
    if found.dim() == 2 and found.shape[1] == 1:
        found = found.squeeze(1)
    if found.dim() == 1 and found.is_floating_point() and classes == 2:
        found = torch.stack([1 - found, found], dim=1)
    elif found.dim() == 1 and classes and bool(((found >= 0) & (found < classes) & (found == found.floor())).all()):
        found = F.one_hot(found.long(), classes)
    found = found.to(torch.float32)
    if found.dim() != 2 or not on_simplex(found):
        raise BoxFault(
            f"`{name}` should answer rows on the simplex (N, K), or labels in 0 .. {max(0, classes - 1)}. "
            f"Found {tuple(found.shape)}{'' if found.dim() != 2 else ' off the simplex'}."
        )
    return found


def victim_of(
    given: Any,
    *,
    net: str | nn.Module | None = None,
    defense: str | type[Defense] | None = None,
    device: str | torch.device | None = None,
) -> Victim:
    """The victim that `given` stands for: a victim, a release folder, or what `Given` takes.

    Raises:
        Invalid: it stands for none, or `net` or `defense` is given and it is not the folder of a release.
    """
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        if path.is_dir() or (":" not in str(given) and path.suffix != ".onnx") or (path / RECIPE).exists():
            return load(path, net=net, defense=defense, device="cpu" if device is None else device)
    for name, part in ("net", net), ("defense", defense):
        rule = "left out where the victim is not the folder of a release"
        require(part is None, name, rule, f"`{part if isinstance(part, str) else type(part).__name__}`")
    if isinstance(given, Victim):
        return given
    if str(given).startswith(("http://", "https://")):
        raise Invalid("victim", "`stealguard.Remote(url, key)` for a model behind a server that is yours", f"`{given}`")
    return Given(given, device=device)


def renewed(victim: Victim, first: int = 0) -> Victim:
    """The victim as if nobody had asked it yet, where that can be had: a release with its memory blank.

    A remote victim gives its keys to accounts anew, from number `first` on, and its server remembers what it remembers.
    """
    if isinstance(victim, Remote):
        return victim.renewed(first)
    return replace(victim) if isinstance(victim, Release) else victim


def remembers(victim: Victim) -> bool:
    """Whether the victim is known to remember queries, and can be made to forget them."""
    return isinstance(victim, Release) and victim.model.guard.scope != "none"


def by_account(victim: Victim) -> bool:
    """Whether answers may depend on the account that asks: not those of a given model, which is not told accounts, and
    not those of a remote one with a single account."""
    if isinstance(victim, Release):
        return victim.model.guard.scope == "account"
    return victim.accounts > 1 if isinstance(victim, Remote) else not isinstance(victim, Given)
