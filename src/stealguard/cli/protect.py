"""`stealguard protect`."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

from stealguard.cli.options import Json, Many, Settings, numbers, settings, use_threads
from stealguard.cli.printing import one_line_warning


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
    weights: Path | None = None,
    partial: bool = False,
    mean: str | None = None,
    std: str | None = None,
    size: int | None = None,
    fit: str | None = None,
    resize: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    deterministic: bool = False,
    threads: int | None = None,
    json_: Json = False,
) -> None:
    """Train a defended classifier and write its release folder.

    Parameters
    ----------
    net
        A network's name (lenet5, mlp, resnet18, resnet20, resnet34, resnet50, vgg16, wrn16_4 or wrn28_10), timm:NAME,
        torchvision:NAME, or module:callable of your own.
    data
        The task: a set's name, folder:PATH, csv:PATH, parquet:PATH or npz:PATH. csv:PATH:COLUMN names the column that
        holds the classes; it is the last one else.
    out
        The release folder to write.
    outliers
        Sets that stand for stealing queries while the defense is trained; those of the task's shape if none are named.
        A defense that needs none is trained without them, and audited as those are that it is compared with.
    defense
        A defense's name (none, ini, ini-robust, top-k, rounding, reverse-sigmoid, dcp, mad, grad2, modelguard-w,
        modelguard-s, adaptive-misinformation, edm, nasty-teacher, misleader, cip, memguard, prada, hoda or d-add),
        InI in fewer passes (ini-fast) or with its authors' settings (ini-official-mnist, ini-official-fashion-mnist,
        ini-official-cifar10 or ini-official-cifar100), or module:Class of your own.
    set_
        Settings of the defense, KEY=VALUE ...
    train
        Settings of the training, KEY=VALUE ... (lr, batch, momentum, weight_decay, schedule, augment, keep, ...).
    epochs
        Passes over the task data: short for --train epochs=N. With 0, the weights of --weights or --start are released
        as they are, for a defense that trains nothing of its own.
    classes
        The names of the classes, in the order of their labels; those that the data have if none are given.
    seed
        What the whole run follows from.
    start
        A release to start from: protects a model that is already trained.
    weights
        A file of already trained weights to start from: a state_dict in .pt, or safetensors.
    partial
        Take of --weights what fits the net.
    mean
        What is subtracted from the net's inputs, which are in [0, 1]: one number, or one a channel (0.485,0.456,0.406).
    std
        What they are divided by then.
    size
        The pixels of a side that pictures of all sizes are brought to.
    fit
        How: crop (the center, as usual), pad or stretch.
    resize
        Fit outliers of another shape to the task's.
    resume
        Continue where an interrupted run stopped.
    overwrite
        Replace a release that is already there, and drop what an interrupted run left.
    device
        A torch device; a GPU if there is one.
    deterministic
        On a GPU, give the same bits in every run; this is slower.
    threads
        Processor threads.
    json_
        Print the recipe as JSON.
    """
    from stealguard.devices import repeatable
    from stealguard.errors import require
    from stealguard.releases.frozen import FrozenNet
    from stealguard.releases.presets import preset_of
    from stealguard.releases.protection import protect as run
    from stealguard.releases.recipes import was_trained
    from stealguard.results.honest import PoorAnswers, sentence
    from stealguard.settings import changed
    from stealguard.training.ranks import joined

    preset, trained = preset_of(defense, "defense"), settings(train, "train")
    require(epochs is None or "epochs" not in trained, "epochs", "given once: by itself or with `--train`", epochs)
    if "epochs" in trained:
        epochs = trained.pop("epochs")
    require(
        not trained or epochs != 0, "train", "left out where nothing is trained (`epochs` is 0)", " ".join(train or [])
    )
    use_threads(threads)
    with joined() as ranks, repeatable(deterministic), warnings.catch_warnings():
        warnings.simplefilter("ignore", PoorAnswers)  # they are told below, in the same words
        warnings.simplefilter("always", FrozenNet)
        warnings.showwarning = one_line_warning
        release = run(
            net, data, out=out, outliers=outliers,
            defense=changed(preset.defense, settings(set_, "set"), f"defense {defense}"),
            training=None if epochs == 0 else changed(preset.training, trained, "training"),
            epochs=epochs, classes=classes, seed=seed, start=start, weights=weights, partial=partial,
            mean=numbers(mean, "mean"), std=numbers(std, "std"), size=size, fit=fit, resize=resize, resume=resume,
            overwrite=overwrite, device=device,
        )  # fmt: skip
    if not ranks.first:
        return
    found = release.recipe["honest"]
    if json_:
        print(json.dumps(dict(release.recipe)))
    else:
        told = "" if was_trained(release.recipe) else "; nothing was trained"
        print(f"{out}: {sentence(found, release.output.names)}{told}; {release.recipe['seconds']:.0f} s")
    for complaint in release.complaints:
        print(f"warning: {complaint}", file=sys.stderr)
