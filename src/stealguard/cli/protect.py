"""`stealguard protect`."""

from __future__ import annotations

import json
from pathlib import Path

from stealguard.cli.options import Json, Many, Settings, settings, use_threads


def protect(
    net: str,
    data: str,
    *,
    out: Path,
    outliers: Many = None,
    defense: str = "ini-robust",
    set_: Settings = None,
    train: Many = None,
    epochs: int | None = None,
    classes: Many = None,
    seed: int = 0,
    start: str | None = None,
    resize: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    threads: int | None = None,
    json_: Json = False,
) -> None:
    """Train a defended classifier and write its release folder.

    Parameters
    ----------
    net
        A network's name (lenet5, resnet18, ...) or module:callable of your own.
    data
        The task: a set's name, folder:PATH or npz:PATH.
    out
        The release folder to write.
    outliers
        Sets that stand for stealing queries while the defense is trained; those of the task's shape if none are named.
    defense
        A preset (none, ini-robust, ini, ini-official-mnist, ...) or module:Class of your own.
    set_
        Settings of the defense, KEY=VALUE ...
    train
        Settings of the training, KEY=VALUE ... (lr, batch, momentum, weight_decay, schedule, augment, keep, ...).
    epochs
        Passes over the task data.
    classes
        The names of the classes, in the order of their labels; those that the data have if none are given.
    seed
        What the whole run follows from.
    start
        A release to start from: protects a model that is already trained.
    resize
        Fit outliers of another shape to the task's.
    resume
        Continue where an interrupted run stopped.
    overwrite
        Replace a release that is already there.
    device
        A torch device; a GPU if there is one.
    threads
        Processor threads.
    json_
        Print the recipe as JSON.
    """
    from stealguard.releases.presets import preset_of
    from stealguard.releases.protection import protect as run
    from stealguard.settings import changed

    preset = preset_of(defense, "defense")
    use_threads(threads)
    release = run(
        net, data, out=out, outliers=outliers,
        defense=changed(preset.defense, settings(set_, "set"), f"defense {defense}"),
        training=changed(preset.training, settings(train, "train"), "training"),
        epochs=epochs, classes=classes, seed=seed, start=start, resize=resize, resume=resume, overwrite=overwrite,
        device=device,
    )  # fmt: skip
    if json_:
        print(json.dumps(dict(release.recipe)))
    else:
        validation = release.recipe["history"][-1]["validation"]
        print(f"{out}: {100 * validation:.1f} % on the validation split, {release.recipe['seconds']:.0f} s")
