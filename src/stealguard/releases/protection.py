"""Protect: data, network and defense -> a release folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stealguard import data as sets
from stealguard.boxes.base import logits
from stealguard.data.inputs import Inputs, Joined, Subset
from stealguard.data.roles import divide, named, stand_ins
from stealguard.defenses import DEFENSES
from stealguard.defenses.base import Defended, Defense
from stealguard.devices import choose, device_of
from stealguard.errors import Invalid, ReleaseError, pick, require
from stealguard.nets import adapted, build, check, check_name, structure
from stealguard.releases import release as releases
from stealguard.releases.presets import PRESETS, Preset
from stealguard.releases.release import CHECKPOINT, Release
from stealguard.releases.workplace import free, working
from stealguard.results.provenance import provenance
from stealguard.seeds import derive
from stealguard.settings import create, describe
from stealguard.training import Training, fit
from stealguard.training.combine import COMBINES
from stealguard.types import Batch

STATISTICS = 2**25  # numbers, at most, of the inputs that a net's normalization is read from
MOST = 10_000  # of these inputs
CALIBRATION, MEMORY = 5000, 2**27  # held-out inputs of a kind at most, and numbers in these
COMPARED = 256  # validation inputs on which a release is compared with what was trained
TOLERANCE = 1e-5  # on the answers' probabilities: the same weights, in other batches


def protect(
    net: str | nn.Module,
    data: Any,
    *,
    out: str | Path,
    outliers: Any = None,
    defense: str | Defense = "ini-robust",
    training: Training | None = None,
    epochs: int | None = None,
    seed: int = 0,
    start: str | Path | nn.Module | None = None,
    classes: int | Sequence[str] | None = None,
    resize: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Release:
    """Train a defended classifier and write its release folder.

    Args:
        net: a name in `NETS`, `module:callable`, or a module from inputs (N, *shape) to logits (N, K).
        data: the task, as `stealguard.data.task` takes it: a set's name, `folder:PATH`, `npz:PATH`, arrays or tensors
            (x, y) or (train_x, train_y, test_x, test_y), or torch Datasets. A share of the training inputs is held out
            for validation; the test set is not read, but for its hash.
        out: the folder to write.
        outliers: what stands for stealing queries, one or several of what `stealguard.data.images` takes; for a
            defense that needs some, the sets of the task's shape if None. The last third of each is never trained on,
            so that an audit can query the family with unseen inputs.
        defense: a preset's name, `module:Class` or a defense.
        training: how to train; the way of the preset, or of the defense's kind, if None.
        epochs: overrides the training's.
        seed: the whole run follows from it.
        start: already trained weights to begin with: a release folder or a module, of the net's architecture or of
            all that the defense trains.
        classes: the classes' names, in the order of their labels, or how many there are; from the data if None.
        resize: fit outliers of another shape to the task's (bilinear; gray from color and back).
        resume: go on where an interrupted run of the same settings and data stopped.
        overwrite: replace a release that is already there; other files in its folder stay.
        device: a torch device; a GPU if there is one.
        progress: show a bar, and what was done to the data.

    Raises:
        Invalid: a parameter breaks its rule; nothing is written then.
        ReleaseError: the release does not answer as the trained net does; the checkpoint stays.

    Example:
        >>> release = sg.protect("lenet5", "mnist", out="runs/robust")  # doctest: +SKIP
    """
    folder, where = free(out, overwrite), choose(device)
    preset = _preset(defense, training, epochs)
    check_name(net)
    task = sets.task(data, classes=classes, seed=seed)
    shape = tuple(task.train.x.shape[1:])
    fitting, validation = validation_split(task.train, seed)
    like = fitting.x[: max(2, min(MOST, STATISTICS // max(1, torch.Size(shape).numel())))]
    own = adapted(build(net, like, task.classes, seed=derive(seed, "net")), like, task.classes)
    check(own, like)
    made_of = structure(own)
    model = preset.defense.build(own, like)
    if start is not None:
        _warm(model, start, net, like, task.classes)
    if outliers is None:
        outliers = stand_ins(shape) if preset.defense.needs_outliers else []
    families = _families(outliers, shape, resize, task.scaling)
    require(bool(families) or not preset.defense.needs_outliers, "outliers", "given: this defense needs some", "none")
    for note in task.notes if progress else ():
        print(f"data: {note}", file=sys.stderr)

    name, settings = describe(DEFENSES, preset.defense)
    made = {
        "net": _word(net), "structure": made_of, "shape": list(shape), "classes": task.classes,
        "names": list(task.names), "classes_given": _listed(classes),
        "scaling": None if task.scaling is None else task.scaling.state(),
        "data": {"name": task.name, "train_sha256": task.train.hash, "test_sha256": task.test.hash},
        "outliers": [
            {"name": label, "rows": len(known), "held_out": len(unseen), "sha256": known.hash}
            for label, (known, unseen) in families.items()
        ],
        "defense": {"name": name, "settings": settings}, "training": asdict(preset.training),
        "start": None if start is None else _word(start), "seed": seed,
    }  # fmt: skip
    started = time.perf_counter()
    with working(folder) as partial:
        releases.check_writable(partial, model)
        model = model.to(where)
        history = fit(
            model, fitting.x, fitting.y, preset.training,
            seed=derive(seed, "training"),
            objective=losses_of,
            combine=COMBINES[preset.defense.combine],
            outliers=Joined([known for known, _ in families.values()]) if families else None,
            validation=validation,
            checkpoint=partial / CHECKPOINT,
            resume=resume,
            identity={key: value for key, value in made.items() if key != "training"} | {"start": _hash(start, net)},
            title=f"protect {folder.name}",
            progress=progress,
        )  # fmt: skip
        model.calibrate(_held_out(validation, families, derive(seed, "calibration")))
        recipe = {
            **made,
            "history": history,
            "validation_rows": len(validation[0]),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": time.perf_counter() - started,
            "provenance": provenance(),
        }
        with releases.discarded(partial):
            releases.write_into(partial, model, recipe)
            kept = releases.load(partial, net=net, defense=type(preset.defense), device=where)
            _compare(kept.model, model, validation[0])
        releases.publish(partial, folder)
    return replace(kept, folder=Path(out))


def losses_of(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """What a defended module minimizes: an objective for `fit`."""
    return model.losses(batch)  # type: ignore[operator, no-any-return]


def guarded(release: Release, defense: Defense, out: str | Path, *, overwrite: bool = False) -> Release:
    """The same weights with other answers: the release that `protect` gives with `defense`, without training again.

    Args:
        release: whose weights they are.
        defense: one of the same `basis`: any that only changes answers for an undefended net, and for a net with a
            defense trained into it the same defense, with other values of the settings that training does not read.
        out: the folder to write.
        overwrite: replace a release that is already there.

    Raises:
        Invalid: `defense` would have trained other weights, or `out` is taken.
    """
    name, settings = describe(DEFENSES, defense)
    rule = f"of the release's training, {_trained(release.defense)}; for others there is `protect`"
    require(defense.basis == release.defense.basis, "defense", rule, f"`{name}`, of {_trained(defense)}")
    folder = free(out, overwrite)
    sealed = ("format", "weights_sha256", "sha256")
    recipe = {key: value for key, value in release.recipe.items() if key not in sealed}
    recipe["defense"] = {"name": name, "settings": settings}
    with working(folder) as partial:
        with releases.discarded(partial):
            releases.write_into(partial, release.model, recipe)
            net, device = release.model.net, device_of(release.model)
            kept = releases.load(partial, net=net, defense=type(defense), device=device)
        releases.publish(partial, folder)
    return replace(kept, folder=Path(out))


def _trained(defense: Defense) -> str:
    """Whose training a defense has, in words."""
    return "an undefended net's" if defense.basis == Defense() else f"{defense.basis}'s"


def _listed(classes: int | Sequence[str] | None) -> int | list[str] | None:
    return classes if classes is None or isinstance(classes, int) else list(classes)


def _word(given: str | Path | nn.Module) -> str:
    """What the recipe calls a network: its name or path, or the class of a module that was handed over."""
    return f"given:{type(given).__name__}" if isinstance(given, nn.Module) else str(given)


def _preset(defense: str | Defense, training: Training | None, epochs: int | None) -> Preset:
    """That of the name; for a defense, itself with the training of the preset of its kind."""
    if isinstance(defense, str) and defense not in PRESETS and ":" in defense:
        defense = create(DEFENSES, defense, {}, "defense")
    if isinstance(defense, str):
        known = pick(PRESETS, defense, "defense")
    else:
        name, _ = describe(DEFENSES, defense)
        known = Preset(defense, PRESETS[name].training if name in PRESETS else Training())
    training = training or known.training
    return Preset(known.defense, training if epochs is None else replace(training, epochs=epochs))


def _families(outliers: Any, shape: tuple[int, ...], resize: bool, scaling: Any) -> dict[str, tuple[Inputs, Inputs]]:
    """Each outlier set's part to train on and the part held out."""
    found = named(outliers, shape, "outliers", resize=resize, scaling=scaling)
    return {label: divide(x, label) for label, x in found.items()}


def validation_split(train: sets.Split, seed: int) -> tuple[sets.Split, sets.Split]:
    """What to fit and what to validate on: a tenth of the training inputs, 5,000 at the most."""
    order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(derive(seed, "validation")))
    size = min(5000, len(order) // 10)
    require(size >= 1, "data", "at least 10 training inputs", len(order))
    return _rows(train, order[size:]), _rows(train, order[:size])


def _held_out(validation: sets.Split, families: dict[str, tuple[Inputs, Inputs]], seed: int) -> Batch:
    """What nothing was trained on: validation inputs and the families' held-out parts, up to `CALIBRATION` of each."""
    most = max(2, min(CALIBRATION, MEMORY // torch.Size(validation.x.shape[1:]).numel()))
    x, y = validation.x[:most], validation.y[:most]
    if not families:
        return Batch(x, y)
    outliers = Joined([unseen for _, unseen in families.values()])
    order = torch.randperm(len(outliers), generator=torch.Generator().manual_seed(seed))
    return Batch(x, y, outliers.rows(order[:most]))


def _rows(split: sets.Split, rows: Tensor) -> sets.Split:
    return sets.Split(Subset(split.x, rows), split.y[rows])


def _warm(model: Defended, start: str | Path | nn.Module, net: str | nn.Module, like: Tensor, classes: int) -> None:
    """Copy the weights of an already trained model: of all that is trained, or of the user's net in it."""
    trained = start if isinstance(start, nn.Module) else releases.load(start, net=net).model
    rule = "of the architecture that is protected"
    try:
        if not isinstance(trained, Defended):
            trained = adapted(trained, like[:2], classes)
        elif trained.state_dict().keys() != model.state_dict().keys():
            trained = trained.net
        into = model if isinstance(trained, Defended) else model.net
        into.load_state_dict(trained.state_dict())
    except (Invalid, RuntimeError) as e:
        raise Invalid("start", rule, f"`{_word(start)}` ({str(e).splitlines()[-1].strip()})") from e


def _hash(start: str | Path | nn.Module | None, net: str | nn.Module) -> str | None:
    """SHA-256 of the weights that a training starts from."""
    if start is None:
        return None
    model = start if isinstance(start, nn.Module) else releases.load(start, net=net).model
    return releases.hash_of(model)


def _compare(kept: nn.Module, trained: nn.Module, x: Inputs) -> None:
    """
    Raises:
        ReleaseError: what was written answers validation inputs otherwise than what was trained.
    """
    some = x[:COMPARED]
    apart = (logits(kept, some).softmax(dim=1) - logits(trained, some).softmax(dim=1)).abs().max().item()
    if not apart <= TOLERANCE:
        raise ReleaseError(
            f"The written release answers otherwise than the trained net, by {apart:.2g}: the net keeps something that "
            "it learned outside of its parameters and buffers. Make it a buffer. The checkpoint stays."
        )
