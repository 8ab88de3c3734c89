"""What a server serves and how: settings, and the YAML file that holds them.

```yaml
releases:
  - {path: runs/digits, name: digits, version: "1"}
  - {path: runs/letters, labels: true}     # what its answers tell, whatever a key says: labels, top_k, digits
  - {path: runs/mine, net: my_model:net, defense: my_defense:Tempered}   # where these are your own
ledger: stealguard-ledger.sqlite           # or redis://127.0.0.1:6379/0
host: 127.0.0.1
port: 8000
metrics_port: 9100                         # Prometheus; on the loopback address alone
backend: auto                              # onnx where an export with parity is there; or onnx, or torch
limits: {rows: 1024}                       # see `stealguard.serving.Limits`
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stealguard.errors import StealguardError, require
from stealguard.serving.engine import BACKENDS, Backend
from stealguard.serving.keys import Restriction
from stealguard.serving.limits import Limits
from stealguard.settings import changed, from_yaml


@dataclass(frozen=True)
class ServedRelease:
    """One release to serve.

    Attributes:
        path: of the release folder.
        name: of the model in addresses; the folder's if empty.
        version: of the model in addresses.
        labels: whether answers are labels alone, whatever a key says.
        top_k: how many classes an answer tells at most, less than the release has; 0 for all.
        digits: how many decimal digits of a probability an answer tells at most; 0 for all.
        net: the `module:callable` of the network that was protected, where it is the user's own; see `stealguard.load`.
        defense: the `module:Class` of the defense, where it is the user's own.
    """

    path: str = ""
    name: str = ""
    version: str = "1"
    labels: bool = False
    top_k: int = 0
    digits: int = 0
    net: str = ""
    defense: str = ""

    def __post_init__(self) -> None:
        require(bool(self.path), "path", "the folder of a release", "nothing")
        for name in (self.name, self.version):
            require(not set(name) & set("/?#% \t\r\n"), "name", "free of spaces and of / ? # %", repr(name))

    @property
    def restriction(self) -> Restriction:
        """What its answers may tell."""
        return Restriction(self.labels, self.top_k or None, self.digits or None)


@dataclass(frozen=True)
class Config:
    """A server's settings.

    Attributes:
        releases: what is served.
        ledger: where keys, budgets, history and memory are: the path of an SQLite file, or redis://...
        open: whether requests need no key, and nothing is counted; for trials.
        host: the address to listen on.
        port: to listen on; 0 for any that is free.
        metrics_port: for Prometheus, on the loopback address; 0 for none.
        page: whether a page to try the models is at `/`.
        backend: what computes the nets: onnx, torch, or auto for ONNX Runtime where an export with parity is there.
        device: a torch device; the processor if empty.
        threads: of the processor, for each model.
        merge: whether requests share batches. Without, answers of the backend torch are those of the release in the
            process to the last bit.
        allow_same_weights: whether releases of the same weights may be served together, although an attacker can then
            compare their answers.
        keep_hashes: whether the history keeps the SHA-256 of each input.
        limits: of what a client may send, and how long it may take.
    """

    releases: tuple[ServedRelease, ...] = ()
    ledger: str = "stealguard-ledger.sqlite"
    open: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    metrics_port: int = 0
    page: bool = False
    backend: Backend = "auto"
    device: str = ""
    threads: int = 1
    merge: bool = True
    allow_same_weights: bool = False
    keep_hashes: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        require(self.backend in BACKENDS, "backend", f"one of {', '.join(BACKENDS)}", f"`{self.backend}`")
        for name in ("port", "metrics_port"):
            require(0 <= getattr(self, name) < 65_536, name, "from 0 to 65535", getattr(self, name))
        require(1 <= self.threads <= 1_024, "threads", "from 1 to 1024", self.threads)
        known = set[tuple[str, str]]()
        for served in self.releases:
            address = served.name or Path(served.path).resolve().name, served.version
            require(address not in known, "releases", "of different names or versions", f"`{address[0]}` twice")
            known.add(address)


def read_config(path: Path) -> Config:
    """The settings in a YAML file; paths of releases and of a ledger file are relative to the file's folder.

    Raises:
        StealguardError: the file cannot be read; names it and the reason.
        Invalid: a setting is unknown or breaks its rule.
    """
    try:
        given = from_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, StealguardError) as e:
        raise StealguardError(f"`{path}` should be a YAML file of server settings ({e}).") from e
    require(isinstance(given, Mapping), "config", "settings, a name and a value each", type(given).__name__)
    releases = _releases(given.get("releases") or [])
    config = changed(Config(), {k: v for k, v in given.items() if k != "releases"}, "server")
    home = path.parent
    ledger = config.ledger if "://" in config.ledger else str(home / config.ledger)
    return replace(config, ledger=ledger, releases=tuple(replace(r, path=str(home / r.path)) for r in releases))


def _releases(given: Any) -> Sequence[ServedRelease]:
    """Each entry is a path, or settings of a `ServedRelease`."""
    require(isinstance(given, list), "releases", "a list", type(given).__name__)
    return [changed(ServedRelease("-"), e if isinstance(e, Mapping) else {"path": e}, "release") for e in given]
