"""`stealguard guard`."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

from stealguard.cli.options import Json, Settings, settings


def guard(
    release: Path,
    defense: str,
    *,
    out: Path,
    set_: Settings = None,
    net: str | None = None,
    trained: str | None = None,
    data: str | None = None,
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Change what a release answers, without training it again: another guard, or other settings of its defense.

    Parameters
    ----------
    release
        The release folder.
    defense
        For an undefended net, the name of a defense that only changes answers, or module:Class of your own. For a net
        with a defense trained into it, that same defense, with other settings of those that training does not read.
    out
        The release folder to write.
    set_
        Settings of the defense, KEY=VALUE ...
    net
        The module:callable of the protected network, where it is your own.
    trained
        The module:Class of the defense that the release has now, where it is your own.
    data
        The task's data: tells what honest users get.
    overwrite
        Replace a release that is already there.
    json_
        Print the recipe as JSON.
    """
    from stealguard.defenses import DEFENSES
    from stealguard.releases.protection import guarded
    from stealguard.releases.release import load
    from stealguard.results.honest import PoorAnswers, complaints, sentence
    from stealguard.settings import create

    chosen = create(DEFENSES, defense, settings(set_, "set"), "defense")
    kept = load(release, net=net, defense=trained)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PoorAnswers)  # they are told below, in the same words
        changed = guarded(kept, chosen, out, data=data, overwrite=overwrite)
    found = changed.recipe["honest"]
    if json_:
        print(json.dumps(dict(changed.recipe)))
    else:
        print(f"{changed.folder}: {sentence(found)}" if found else f"{changed.folder}")
    if found is None:
        print("what honest users get was not measured: name the task's data with --data", file=sys.stderr)
    for complaint in complaints(found) if found else ():
        print(f"warning: {complaint}", file=sys.stderr)
