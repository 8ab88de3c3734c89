"""`stealguard card`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stealguard.cli.options import Json


def card(
    release: Path,
    *,
    store: Path | None = None,
    out: Path | None = None,
    bom: Path | None = None,
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Write a model card: what a release is, what its audit says, and what has not been audited.

    Parameters
    ----------
    release
        The release folder.
    store
        The rows of its audit: an SQLite store or a JSON-lines file; audit.sqlite in the release folder unless told
        otherwise, if there is one.
    out
        The Markdown file to write, with front matter that model hubs read; printed if none is named.
    bom
        The bill of materials to write: CycloneDX 1.6 in JSON.
    overwrite
        Replace files that are already there.
    json_
        Print an object with the card, the release's identity and the number of its audit's rows as JSON.
    """
    from stealguard.errors import require
    from stealguard.files import write_text
    from stealguard.identity import identity_of
    from stealguard.releases.bom import bom as bill
    from stealguard.releases.release import read_recipe
    from stealguard.report.card import card as made
    from stealguard.results import read
    from stealguard.results.store import STORE

    for name, path in (("out", out), ("bom", bom)):
        free = path is None or overwrite or not path.exists()
        require(free, name, "a file that does not exist yet (or pass `--overwrite`)", f"`{path}`")
    known = store is not None or (release / STORE).exists()
    rows = read(release / STORE if store is None else store) if known else []
    identity = identity_of(read_recipe(release))
    its_own = sum(row.victim.key == identity for row in rows)
    if store is not None:
        require(its_own > 0, "store", f"one with rows of `{release}`, by its identity", f"none in `{store}`")
    text = made(release, rows)
    if json_:
        print(json.dumps({"identity": identity, "rows": its_own, "card": text}))
    elif out is None:
        print(text, end="")
    if out is not None:
        write_text(out, text)
        print(f"wrote {out}", file=sys.stderr)
    if bom is not None:
        write_text(bom, json.dumps(bill(release), indent=2) + "\n")
        print(f"wrote {bom}", file=sys.stderr)
