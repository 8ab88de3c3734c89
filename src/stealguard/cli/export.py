"""`stealguard export`."""

from __future__ import annotations

import json
from pathlib import Path

from stealguard.cli.options import Json
from stealguard.cli.printing import print_table


def export(
    release: Path,
    *,
    to: str = "onnx",
    out: Path | None = None,
    overwrite: bool = False,
    net: str | None = None,
    defense: str | None = None,
    json_: Json = False,
) -> None:
    """Write a release as ONNX files or torch programs, and keep those that answer as the release does.

    `heads` is what the server computes. `model` is the whole box, for releases whose guard remembers nothing and can be
    written as a graph: it needs no stealguard to run.

    Parameters
    ----------
    release
        The release folder.
    to
        onnx or torch.
    out
        The folder to write to; the release's own unless told otherwise. The server reads only that.
    overwrite
        Replace an earlier export.
    net
        The module:callable of the protected network, where it is your own.
    defense
        The module:Class of the release's defense, where it is your own.
    json_
        Print the report as JSON.
    """
    from stealguard.releases.export import export as run
    from stealguard.releases.release import load

    exported = run(load(release, net=net, defense=defense, device="cpu"), to, out, overwrite=overwrite)
    if json_:
        print(json.dumps(exported.record()))
        return
    parts = {"heads": exported.heads, "model": exported.model}
    print_table(
        ["file", "compared on", "rows", "largest difference", "rows within 1e-5", "same top class"],
        [
            [part.file, one.inputs, f"{one.rows:,}", f"{one.largest:.1e}", f"{one.usual:.2%}", f"{one.top_1:.2%}"]
            for part in parts.values()
            for one in part.parity
        ],
    )
    for name, part in parts.items():
        if part.reason:
            print(f"no {name} file: {part.reason}")
    print(f"tier {exported.tier}; {exported.folder}")
