"""`stealguard verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from stealguard.cli.options import Json


def verify(release: Path, *, expect: str | None = None, json_: Json = False) -> None:
    """Check by their hashes that a release's files are those that were written; exit status 2 if they are not.

    Parameters
    ----------
    release
        The release folder.
    expect
        What its identity, or the SHA-256 of its weights, should be.
    json_
        Print what was found as JSON.
    """
    from stealguard.releases.verifying import verified

    found = verified(release, expect)
    if json_:
        print(json.dumps(asdict(found)))
    else:
        print(f"identity  {found.identity}\nweights   {found.weights_sha256}\nwhole     {', '.join(found.files)}")
