"""Protect: data, network and defense -> a release folder."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stealguard import data as sets
from stealguard.data.roles import divide, named, stand_ins
from stealguard.defenses import DEFENSES
from stealguard.defenses.base import Defense
from stealguard.errors import Invalid, pick, require
from stealguard.identity import tensor_hash
from stealguard.nets import build, check_name
from stealguard.releases import release as releases
from stealguard.releases.presets import PRESETS, Preset
from stealguard.releases.release import Release
from stealguard.results.provenance import provenance
from stealguard.seeds import derive
from stealguard.settings import describe
from stealguard.training.combine import COMBINES
from stealguard.training.loop import Training, fit


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
    resize: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    progress: bool = True,
) -> Release:
    """Train a defended classifier and write its release folder.

    Args:
        net: a name in `NETS`, `module:callable`, or a module.
        data: the task: a set's name, `folder:PATH`, `npz:PATH`, tensors (train_x, train_y, test_x, test_y), or a pair
            of torch Datasets. A share of the training inputs is held out for validation; the test set is not read.
        out: the folder to write.
        outliers: what stands in for stealing queries, one or several of what `stealguard.data.images` takes; for a
            defense that needs some, `stealguard.data.roles.STAND_INS` of the task's shape if None. The last third of
            each is never trained on, so that an audit can query the family with unseen inputs.
        defense: a preset's name or a defense.
        training: how to train; the way of the preset, or of the defense's kind, if None.
        epochs: overrides the training's.
        seed: the whole run follows from it.
        start: already trained weights to begin with: a release folder or a module, of the net's architecture or of
            all that the defense trains.
        resize: fit outliers of another shape to the task's (bilinear; gray from color and back).
        resume: go on where an interrupted run of the same settings stopped.
        overwrite: replace a release that is already there.
        device: a torch device; a GPU if there is one.
        progress: show a bar.

    Raises:
        Invalid: a parameter breaks its rule; nothing is written then.
    """
    folder = _free(out, overwrite)
    preset = _preset(defense, training, epochs)
    check_name(net)
    task = sets.task(data)
    shape = tuple(task.train.x.shape[1:])
    fitting, validation = validation_split(task.train, seed)
    model = preset.defense.build(build(net, fitting[0], task.classes, seed=derive(seed, "net")), fitting[0][:2])
    _check_logits(model, fitting[0][:2], task.classes)
    if start is not None:
        _warm(model, preset.defense.plain(model), start, net)
    if outliers is None:
        outliers = stand_ins(shape) if preset.defense.needs_outliers else []
    families = _families(outliers, shape, resize)
    require(bool(families) or not preset.defense.needs_outliers, "outliers", "given: this defense needs some", "none")

    started = time.perf_counter()
    model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    partial = folder.with_name(folder.name + ".partial")
    history = fit(
        model, *fitting, preset.training,
        seed=derive(seed, "training"),
        objective=preset.defense.objective(model, fitting[0], seed=derive(seed, "defense")),
        combine=COMBINES[preset.defense.combine],
        outliers=torch.cat([known for known, _ in families.values()]) if families else None,
        validation=validation,
        checkpoint=partial / "checkpoint.pt",
        resume=resume,
        title=f"protect {folder.name}",
        progress=progress,
    )  # fmt: skip
    name, settings = describe(DEFENSES, preset.defense)
    recipe = {
        "net": _word(net),
        "shape": list(shape),
        "classes": task.classes,
        "data": sets.label(data),
        "outliers": [
            {"name": label, "rows": len(known), "held_out": len(unseen), "sha256": tensor_hash(known)}
            for label, (known, unseen) in families.items()
        ],
        "defense": {"name": name, "settings": settings},
        "training": asdict(preset.training),
        "start": None if start is None else _word(start),
        "seed": seed,
        "history": history,
        "validation_rows": len(validation[0]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - started,
        "provenance": provenance(),
    }  # fmt: skip
    (partial / "checkpoint.pt").unlink(missing_ok=True)
    releases.write(partial, folder, model, recipe)
    return releases.load(folder, net=net)


def guarded(release: Release, defense: Defense, out: str | Path, *, overwrite: bool = False) -> Release:
    """The same weights with other answers: the release that `protect` gives with `defense`, without training again.

    Args:
        release: whose weights they are.
        defense: one of the same `basis`: any guard for an undefended net, and for a net with a defense trained into
            it the same defense, with other settings of those that training does not read.
        out: the folder to write.
        overwrite: replace a release that is already there.

    Raises:
        Invalid: `defense` would have trained other weights, or `out` is taken.
    """
    name, settings = describe(DEFENSES, defense)
    rule = f"of the release's training, {_trained(release.defense)}; for others there is `protect`"
    same = defense.basis == release.defense.basis
    require(same, "defense", rule, f"`{name}`, of {_trained(defense)}")
    folder = _free(out, overwrite)
    sealed = ("format", "weights_sha256", "sha256")
    recipe = {key: value for key, value in release.recipe.items() if key not in sealed}
    recipe["defense"] = {"name": name, "settings": settings}
    releases.write(folder.with_name(folder.name + ".partial"), folder, release.model, recipe)
    device = next(release.model.parameters()).device
    return releases.load(folder, net=release.defense.plain(release.model), device=str(device))


def _trained(defense: Defense) -> str:
    """Whose training a defense has, in words."""
    return "an undefended net's" if defense.basis == Defense() else f"{defense.basis}'s"


def _free(out: str | Path, overwrite: bool) -> Path:
    folder = Path(out)
    free = overwrite or not folder.exists() or not any(folder.iterdir())
    require(free, "out", "a folder that does not exist yet (or pass `overwrite`)", f"`{folder}`")
    return folder


def _word(given: str | Path | nn.Module) -> str:
    """What the recipe calls a network: its name or path, or the class of a module that was handed over."""
    return f"given:{type(given).__name__}" if isinstance(given, nn.Module) else str(given)


def _preset(defense: str | Defense, training: Training | None, epochs: int | None) -> Preset:
    """That of the name; for a defense, itself with the training of the preset of its kind."""
    if isinstance(defense, str):
        known = pick(PRESETS, defense, "defense")
    else:
        name, _ = describe(DEFENSES, defense)
        known = Preset(defense, PRESETS[name].training if name in PRESETS else Training())
    training = training or known.training
    return Preset(known.defense, training if epochs is None else replace(training, epochs=epochs))


def _families(outliers: Any, shape: tuple[int, ...], resize: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """Each outlier set's part to train on and the part held out."""
    found = named(outliers, shape, "outliers", resize=resize)
    return {label: divide(x, label) for label, x in found.items()}


def validation_split(train: sets.Split, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What to fit and what to validate on: a tenth of the training inputs, 5,000 at the most."""
    order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(derive(seed, "validation")))
    size = min(5000, len(order) // 10)
    require(size >= 1, "data", "at least 10 training inputs", len(order))
    fitting, held = order[size:], order[:size]
    return (train.x[fitting], train.y[fitting]), (train.x[held], train.y[held])


@torch.no_grad()
def _check_logits(model: nn.Module, x: Tensor, classes: int) -> None:
    rule = f"a module from inputs like the task's to logits (N, {classes})"
    try:
        found = model.eval()(x)
    except RuntimeError as e:
        raise Invalid("net", rule, f"`{type(model).__name__}`, which cannot take {tuple(x.shape)}: {e}") from e
    require(found.shape == (len(x), classes), "net", rule, tuple(found.shape))


def _warm(model: nn.Module, plain: nn.Module, start: str | Path | nn.Module, net: str | nn.Module) -> None:
    """Copy the weights of an already trained model: of all that is trained, or of the user's net in it, `plain`."""
    weights = (start if isinstance(start, nn.Module) else releases.load(start, net=net).model).state_dict()
    try:
        (model if weights.keys() == model.state_dict().keys() else plain).load_state_dict(weights)
    except RuntimeError as e:
        raise Invalid(
            "start", "of the architecture that is protected", f"`{start}` ({str(e).splitlines()[-1].strip()})"
        ) from e
