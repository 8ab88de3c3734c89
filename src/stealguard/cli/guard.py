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
        Settings of the defense, KEY=VALUE ... Where the defense stays the same, the others stay as they are.
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
    from stealguard.results.honest import PoorAnswers, sentence
    from stealguard.settings import changed

    given, kind = settings(set_, "set"), DEFENSES.find(defense, "defense")
    kept = load(release, net=net, defense=trained)
    chosen = changed(kept.defense if type(kept.defense) is kind else kind(), given, f"defense {defense}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PoorAnswers)  # they are told below, in the same words
        made = guarded(kept, chosen, out, data=data, overwrite=overwrite)
    found = made.recipe["honest"]
    if json_:
        print(json.dumps(dict(made.recipe)))
    else:
        print(f"{made.folder}: {sentence(found, made.output.names)}" if found else f"{made.folder}")
    if found is None:
        print("what honest users get was not measured: name the task's data with --data", file=sys.stderr)
    for complaint in made.complaints:
        print(f"warning: {complaint}", file=sys.stderr)
