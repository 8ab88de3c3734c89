"""`stealguard serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stealguard.cli.options import Many, check_labels_alone


def serve(
    releases: Many = None,
    /,
    *,
    config: Path | None = None,
    ledger: str | None = None,
    open_: bool | None = None,
    host: str | None = None,
    port: int | None = None,
    metrics_port: int | None = None,
    name: str | None = None,
    labels: bool | None = None,
    top_k: int | None = None,
    digits: int | None = None,
    page: bool | None = None,
    backend: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    merge: bool | None = None,
    allow_same_weights: bool | None = None,
    keep_hashes: bool | None = None,
    net: str | None = None,
    defense: str | None = None,
    check: bool = False,
) -> None:
    """Answer requests over HTTP (Open Inference Protocol, version 2) with exactly what was audited.

    Parameters
    ----------
    releases
        The release folders to serve, in place of those of the file if there is one.
    config
        A YAML file of settings; options of the command line come before it.
    ledger
        Where keys, budgets and history are: the path of an SQLite file (stealguard-ledger.sqlite), or redis://...; not
        with --open.
    open_
        Ask for no key and count nothing, for trials.
    host
        The address to listen on (127.0.0.1).
    port
        The port to listen on (8000); 0 for any that is free.
    metrics_port
        The port for Prometheus, on the loopback address; none unless told.
    name
        The model's name in addresses, for a single release; the folder's unless told otherwise.
    labels
        Answer with labels alone, whatever a key says.
    top_k
        Tell so many classes at most, whatever a key says, less than each release has; 0 for all.
    digits
        Tell so many decimal digits at most, whatever a key says; 0 for all.
    page
        Show a page at / to try the models.
    backend
        What computes the nets: onnx, torch, or auto (ONNX Runtime where an export with parity is there).
    device
        A torch device; the processor unless told otherwise.
    threads
        Processor threads for each model (1).
    merge
        Let requests share batches (as by default). Without, and with --backend torch, answers are those of the release
        to the last bit.
    allow_same_weights
        Serve releases of the same weights together, although their answers can then be compared.
    keep_hashes
        Keep the SHA-256 of each input in the history; not with --open, which keeps none.
    net
        The module:callable of the protected network, where it is your own; for all releases. A configuration can name
        one for each.
    defense
        The module:Class of the release's defense, where it is your own.
    check
        Read all settings and releases, print what would be served, and end.
    """
    from dataclasses import replace

    from stealguard.errors import StealguardError, require

    try:
        from stealguard.serving import run
        from stealguard.serving.config import Config, ServedRelease, read_config
    except ImportError as e:
        raise StealguardError(f"The server needs further packages: pip install 'stealguard[serve]' ({e}).") from e
    check_labels_alone(bool(labels), top_k, digits)
    for option, value in ("ledger", ledger), ("keep-hashes", keep_hashes):
        require(not (open_ and value), option, "left out with `--open`, which keeps neither counts nor history", value)
    chosen = Config() if config is None else read_config(config)
    served = tuple(map(ServedRelease, releases)) if releases else chosen.releases
    require(bool(served), "releases", "one release folder at least", "none")
    require(name is None or len(served) == 1, "name", "given for a single release", f"{len(served)} releases")
    told: dict[str, Any] = {
        "name": name, "labels": labels, "top_k": top_k, "digits": digits, "net": net, "defense": defense,
    }  # fmt: skip
    given: dict[str, Any] = {
        "releases": tuple(replace(one, **_of_those_given(told)) for one in served),
        "ledger": ledger, "open": open_, "host": host, "port": port, "metrics_port": metrics_port, "page": page,
        "backend": backend, "device": device, "threads": threads, "merge": merge,
        "allow_same_weights": allow_same_weights, "keep_hashes": keep_hashes,
    }  # fmt: skip
    chosen = replace(chosen, **_of_those_given(given))
    if check:
        print(run.check(chosen))
    else:
        run.serve(chosen)


def _of_those_given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
