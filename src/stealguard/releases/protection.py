"""Protect: data, network and defense -> a release folder."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stealguard import data as sets
from stealguard.boxes.base import logits
from stealguard.boxes.users import ACCOUNT
from stealguard.checks import check_seed
from stealguard.data.inputs import Inputs, Joined, Subset
from stealguard.data.reading import fitted
from stealguard.data.roles import chosen, divide, doubts, named, stand_ins
from stealguard.defenses import DEFENSES
from stealguard.defenses.base import Defended, Defense
from stealguard.devices import choose, device_of
from stealguard.errors import Invalid, ReleaseError, require
from stealguard.nets import (
    Normalized,
    Statistic,
    adapted,
    build,
    check,
    check_name,
    give,
    read_weights,
    restore,
    state_of,
    structure,
)
from stealguard.nets.building import NETS, statistics
from stealguard.releases import release as releases
from stealguard.releases.frozen import FrozenNet, frozen, is_frozen, told
from stealguard.releases.honest import honest
from stealguard.releases.presets import PRESETS, Preset, preset_of
from stealguard.releases.release import CHECKPOINT, Release
from stealguard.releases.workplace import check_unfinished, free, working
from stealguard.results.honest import PoorAnswers
from stealguard.results.metrics import chance
from stealguard.results.provenance import provenance
from stealguard.seeds import derive
from stealguard.settings import describe
from stealguard.training import Training
from stealguard.training import fit as train
from stealguard.training.combine import COMBINES
from stealguard.training.loop import correct
from stealguard.training.ranks import ALONE, Ranks, joined, present
from stealguard.types import Batch

STATISTICS = 2**25  # numbers, at most, of the inputs that a net's normalization is read from
MOST = 10_000  # of these inputs
CALIBRATION, MEMORY = 5000, 2**27  # held-out inputs of a kind at most, and numbers in these
COMPARED = 256  # validation inputs on which a release is compared with what was trained
TOLERANCE = 1e-5  # on the answers' probabilities: the same weights, in other batches


@joined()
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
    weights: str | Path | None = None,
    partial: bool = False,
    mean: Statistic | None = None,
    std: Statistic | None = None,
    size: int | tuple[int, int] | None = None,
    fit: str | None = None,
    classes: int | Sequence[str] | None = None,
    resize: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Release:
    """Train a defended classifier and write its release folder.

    Under `torchrun`, several processes train it together, see `training.ranks`; the first writes the folder.

    Args:
        net: a name in `NETS`, `timm:NAME`, `torchvision:NAME`, `module:callable`, or a module from inputs (N, *shape)
            to logits (N, K).
        data: the task, as `stealguard.data.task` takes it: a set's name, `folder:PATH`, `csv:PATH`, `parquet:PATH` (a
            further `:COLUMN` names the target, which is the last column else), `npz:PATH`, arrays or tensors
            (x, y) or (train_x, train_y, test_x, test_y), or torch Datasets. A share of the training inputs is held out
            for validation; the test set is not read, but for its hash.
        out: the folder to write.
        outliers: what stands for stealing queries, one or several of what `stealguard.data.images` takes; for a
            defense that needs some, the sets of the task's shape if None. The last third of each is never trained on,
            so that an audit can query the family with unseen inputs. A defense that needs none is trained without them,
            and is audited as those are that it is compared with.
        defense: a preset's name, that of a defense of an installed package, `module:Class` or a defense.
        training: how to train; the way of the preset, or of the defense's kind, if None.
        epochs: overrides the training's. With 0 nothing is trained: the weights of `start` or `weights` are released
            bit for bit. That needs a defense that trains nothing but an undefended net's task loss (its
            `Defended.trains_net_alone`); what it measures on held-out inputs is measured.
        seed: the whole run follows from it.
        start: already trained weights to begin with: a release folder or a module, of the net's architecture or of
            all that the defense trains. Its mean and deviation, if it has some, are kept.
        weights: already trained weights to begin with, in a file: a state dict that torch saved, or safetensors.
        partial: take of `weights` what fits the net; without it, all of the net's tensors must be there.
        mean, std: what the net's inputs are normalized with, both or none: 1 number, or 1 for each channel or column.
            The release's inputs stay in [0, 1]. Named nets normalize by the data else, other nets not at all.
        size: the pixels of a side, or (height, width), that a folder's pictures are brought to; they must have one size
            without it. A release keeps it, and audits read pictures alike. Three means ask for color.
        fit: how: `crop` if None, or `pad` or `stretch`; see `stealguard.data.Fit`.
        classes: the classes' names, in the order of their labels, or how many there are; from the data if None.
        resize: fit outliers of another shape to the task's (bilinear; gray from color and back).
        resume: go on where an interrupted run of the same settings and data stopped.
        overwrite: replace a release that is already there, and its exports; other files in its folder stay. Without
            `resume`, drop the checkpoint of an interrupted run as well.
        device: a torch device; a GPU if there is one.
        progress: show a bar, and what was done to the data.

    Raises:
        Invalid: a parameter breaks its rule; nothing is written then.
        ReleaseError: the release does not answer as the trained net does; the checkpoint stays.

    Warns:
        PoorAnswers: honest users get no more than chance, or a point less than from the net alone or from the weights
            that training began with. The recipe's `honest` has the numbers, see `releases.honest.honest`.
        FrozenNet: no weight of the net requires a gradient, so that training changes only what the defense has beside
            it. The recipe's `frozen` has the numbers.

    Example:
        >>> data = torch.rand(90, 4), torch.arange(90) % 3
        >>> release = sg.protect("mlp", data, defense="none", epochs=1, out="runs/small", progress=False)
        >>> release.box(torch.rand(2, 4)).shape
        torch.Size([2, 3])
    """
    ranks = present()
    folder, where, progress = free(out, overwrite), ranks.device(choose(device)), progress and ranks.first
    if ranks.first and not (resume or overwrite):
        check_unfinished(folder)
    check_seed(seed)
    given = epochs == 0  # the weights are released as they are
    preset = _preset(defense, training, None if given else epochs)
    check_name(net)
    require(start is None or weights is None, "start", "left out where there are `weights`", "both")
    require(weights is not None or not partial, "partial", "left out where there are no `weights`", partial)
    if given:
        others = {"training": training, "partial": partial, "resume": resume}
        _check_given(net, start is not None or weights is not None, weights is not None and mean is None, others)
    state = None if weights is None else read_weights(weights)
    task = sets.task(data, classes=classes, seed=seed, reading=fitted(size, fit, mean))
    preset.defense.check_classes(task.classes)
    shape = tuple(task.train.x.shape[1:])
    fitting, validation = validation_split(task.train, seed)
    like = fitting.x[: max(2, min(MOST, STATISTICS // max(1, torch.Size(shape).numel())))]
    notes = list(task.notes)

    def prepare(given: nn.Module) -> None:
        notes.extend([] if state is None else give(given, state, partial=partial))

    built = build(net, like, task.classes, seed=derive(seed, "net"), mean=mean, std=std, prepare=prepare)
    own = adapted(built, like, task.classes)
    check(own, like)
    made_of = structure(own)
    model = preset.defense.build(own, like)
    rule = f"at least 1 for `{describe(DEFENSES, preset.defense)[0]}`, which trains more than an undefended net"
    require(not given or model.trains_net_alone, "epochs", rule, 0)
    still = None if given else frozen(model)
    begun = None if start is None else _warm(model, start, net, like, task.classes)
    if mean is not None:
        _check_kept(model.net, mean, std, like)
    if outliers is None:
        outliers = stand_ins(shape) if preset.defense.needs_outliers else []
        if outliers and progress:
            print(f"outliers: {chosen(outliers, shape)}", file=sys.stderr)
    families = _families(outliers, task, resize)
    for doubt in doubts(task.train.x, {label: known for label, (known, _) in families.items()}) if progress else ():
        print(f"notice: {doubt}", file=sys.stderr)
    if families and not preset.defense.needs_outliers and progress:
        print("notice: This defense reads no outliers. An audit takes a third of each, as in-family.", file=sys.stderr)
    require(bool(families) or not preset.defense.needs_outliers, "outliers", "given: this defense needs some", "none")
    for note in notes if progress else ():
        print(f"data: {note}", file=sys.stderr)

    if still is not None and ranks.first:
        line = told(still, preset.defense.cost, model.net)
        if is_frozen(still):
            warnings.warn(line, FrozenNet, stacklevel=3)  # past the decorator
        elif progress:
            print(f"notice: {line}", file=sys.stderr)
    name, settings = describe(DEFENSES, preset.defense)
    made = {
        "net": _word(net), "structure": made_of, "shape": list(shape), "classes": task.classes,
        "names": list(task.names), "classes_given": _listed(classes),
        "scaling": None if task.scaling is None else task.scaling.state(),
        "mean": _numbers(mean), "std": _numbers(std),
        "weights": None if state is None else {"file": state.path.name, "sha256": state.sha256},
        "data": {
            "name": task.name, "train_sha256": task.train.hash, "test_sha256": task.test.hash,
            "reading": None if task.reading is None else task.reading.state(),
        },
        "outliers": [
            {"name": label, "rows": len(known), "held_out": len(unseen), "sha256": known.hash}
            for label, (known, unseen) in families.items()
        ],
        "defense": {"name": name, "settings": settings},
        "training": {"epochs": 0} if given else preset.training.record(),
        "start": None if start is None else _word(start), "seed": seed,
        **({} if still is None else {"frozen": still}),
    }  # fmt: skip
    started = time.perf_counter()
    with working(folder) if ranks.first else nullcontext(folder) as workplace:
        if ranks.first:
            releases.check_writable(workplace, model)
        model = model.to(where)
        trained = start is not None or state is not None
        before = correct(model, *validation, chunk=ACCOUNT, ranks=ranks) if trained and not given else None
        history = [] if given else train(
            model, fitting.x, fitting.y, preset.training,
            seed=derive(seed, "training"),
            objective=losses_of,
            combine=COMBINES[preset.defense.combine],
            steady=model.steady or type(model).losses is Defended.losses,
            outliers=Joined([known for known, _ in families.values()]) if families else None,
            validation=validation,
            checkpoint=workplace / CHECKPOINT,
            resume=resume,
            identity={key: value for key, value in made.items() if key != "training"} | {"start": begun},
            title=f"protect {folder.name}",
            progress=progress,
        )  # fmt: skip
        if ranks.first:
            model.calibrate(_held_out(validation, families, derive(seed, "calibration")))
            unseen = Joined([unseen for _, unseen in families.values()]) if families else None
            recipe: dict[str, Any] = {
                **made,
                "history": history,
                "validation_rows": len(validation[0]),
                "honest": honest(model, *validation, unseen, before, chance=chance(task.train.y)),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": time.perf_counter() - started,
                "processes": ranks.size,
                "provenance": provenance(),
            }
            with releases.discarded(workplace):
                releases.write_into(workplace, model, recipe)
                kept = releases.load(workplace, net=net, defense=type(preset.defense), device=where)
                _compare(kept.model, model, validation[0])
            releases.publish(workplace, folder)
        else:
            kept = Release(folder, {}, model, preset.defense)
    kept = _as_told(kept, ranks)
    for complaint in kept.complaints if ranks.first else ():
        warnings.warn(complaint, PoorAnswers, stacklevel=3)  # past the decorator
    return replace(kept, folder=Path(out))


def _as_told(release: Release, ranks: Ranks) -> Release:
    """The release, in every process as the first one wrote it."""
    if ranks is ALONE:
        return release
    recipe, state = ranks.told((release.recipe, state_of(release.model)))
    restore(release.model, state)
    return replace(release, recipe=recipe)


def losses_of(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """What a defended module minimizes: an objective for `fit`."""
    return model.losses(batch)  # type: ignore[operator, no-any-return]


def guarded(
    release: Release, defense: Defense, out: str | Path, *, data: Any = None, overwrite: bool = False
) -> Release:
    """The same weights with other answers: the release that `protect` gives with `defense`, without training again.

    Args:
        release: whose weights they are.
        defense: one of the same `basis`: any that only changes answers for an undefended net, and for a net with a
            defense trained into it the same defense, with other values of the settings that training does not read.
        out: the folder to write.
        data: the task's, on whose validation split it is measured what honest users get; not measured if None.
        overwrite: replace a release that is already there.

    Warns:
        PoorAnswers: as `protect` does.

    Raises:
        Invalid: `defense` is none, would have trained other weights or has a setting without effect, or `out` is taken.

    Example:
        >>> data = torch.rand(90, 4), torch.arange(90) % 3
        >>> release = sg.protect("mlp", data, defense="none", epochs=1, out="runs/small", progress=False)
        >>> labels = sg.guarded(release, sg.defenses.TopK(k=1), "runs/labels")
        >>> labels.box(torch.rand(1, 4)).max().item()
        1.0
    """
    require(isinstance(release, Release), "release", "a `Release`, as `load` gives it", type(release).__name__)
    require(isinstance(defense, Defense), "defense", "a defense with its settings", repr(defense))
    name, settings = describe(DEFENSES, defense)
    rule = f"of the release's training, {_trained(release.defense)}; for others there is `protect`"
    require(defense.basis == release.defense.basis, "defense", rule, f"`{name}`, of {_trained(defense)}")
    defense.check_classes(release.output.classes)
    folder = free(out, overwrite)
    sealed = ("format", "weights_sha256", "sha256")
    recipe = {key: value for key, value in release.recipe.items() if key not in sealed}
    recipe["defense"], recipe["honest"] = {"name": name, "settings": settings}, None
    net, device = release.model.net, device_of(release.model)
    with working(folder) as partial:
        with releases.discarded(partial):
            releases.write_into(partial, release.model, recipe)
            kept = releases.load(partial, net=net, defense=type(defense), device=device)
            if data is not None:
                train = release.task(data).train
                _, validation = validation_split(train, recipe["seed"])
                before = (release.recipe.get("honest") or {}).get("start")
                recipe["honest"] = honest(kept.model, *validation, None, before, chance=chance(train.y))
                releases.write_into(partial, release.model, recipe)
                kept = replace(kept, recipe=releases.read_recipe(partial))
        releases.publish(partial, folder)
    for complaint in kept.complaints:
        warnings.warn(complaint, PoorAnswers, stacklevel=2)
    return replace(kept, folder=Path(out))


def _trained(defense: Defense) -> str:
    """Whose training a defense has, in words."""
    return "an undefended net's" if defense.basis == Defense() else f"{defense.basis}'s"


def _check_given(net: str | nn.Module, trained: bool, unscaled: bool, others: Mapping[str, Any]) -> None:
    """Raise `Invalid` where weights cannot be released as they are, or an option would have no effect then.

    Args:
        trained: whether there are already trained weights.
        unscaled: whether these are a file's, and nobody says what the net's inputs are normalized with.
    """
    require(trained, "epochs", "at least 1 where neither `weights` nor `start` is given", 0)
    for name, value in others.items():
        require(not value, name, "left out where nothing is trained (`epochs` is 0)", value)
    rule = f"given (0, or 1 for `std`, for none): nobody else knows how inputs of the trained `{net}` were normalized"
    require(not (unscaled and isinstance(net, str) and net in NETS), "mean", rule, "none")


def _listed(classes: int | Sequence[str] | None) -> int | list[str] | None:
    return classes if classes is None or isinstance(classes, int) else list(classes)


def _numbers(given: Statistic | None) -> list[float] | None:
    return None if given is None else [float(given)] if isinstance(given, int | float) else list(map(float, given))


def _word(given: str | Path | nn.Module) -> str:
    """What the recipe calls a network: its name or path, or the class of a module that was handed over."""
    return f"given:{type(given).__name__}" if isinstance(given, nn.Module) else str(given)


def _preset(defense: str | Defense, training: Training | None, epochs: int | None) -> Preset:
    """That of the name; for a defense, itself with the training of the preset of its kind."""
    rule = "a preset's name, that of a defense, `module:Class` or a defense with its settings"
    require(isinstance(defense, str | Defense), "defense", rule, repr(defense))
    require(isinstance(training, Training | None), "training", "a `Training`", repr(training))
    whole = epochs is None or (isinstance(epochs, int) and epochs >= 1)
    require(whole, "epochs", "a whole number of at least 1, or 0 to release trained weights as they are", epochs)
    if isinstance(defense, str):
        known = preset_of(defense)
    else:
        name, _ = describe(DEFENSES, defense)
        known = Preset(defense, PRESETS[name].training if name in PRESETS else Training())
    training = training or known.training
    return Preset(known.defense, training if epochs is None else replace(training, epochs=epochs))


def _families(outliers: Any, task: sets.Task, resize: bool) -> dict[str, tuple[Inputs, Inputs]]:
    """Each outlier set's part to train on and the part held out.

    Raises:
        Invalid: a set cannot be taken, or is the task's own training inputs.
    """
    x = task.train.x
    found = named(
        outliers, tuple(x.shape[1:]), "outliers",
        resize=resize, scaling=task.scaling, like=x, reading=task.reading,
    )  # fmt: skip
    for label, given in found.items():
        same = len(given) == len(x) and given.hash == x.hash
        require(not same, "outliers", "other inputs than the task's, whose queries they stand against", f"`{label}`")
    return {label: divide(given, label) for label, given in found.items()}


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


def _warm(model: Defended, start: str | Path | nn.Module, net: str | nn.Module, like: Tensor, classes: int) -> str:
    """Copy the weights of a trained model, of all that is trained or of the user's net in it; their SHA-256."""
    given = trained = start if isinstance(start, nn.Module) else releases.load(start, net=net).model
    rule = "of the architecture that is protected"
    try:
        if not isinstance(trained, Defended):
            trained = adapted(trained, like[:2], classes)
        elif trained.state_dict().keys() != model.state_dict().keys():
            trained = trained.net
        into = model if isinstance(trained, Defended) else model.net
        if isinstance(into, Normalized) and not isinstance(trained, Normalized):
            into = into.body
        into.load_state_dict(trained.state_dict())
    except (Invalid, RuntimeError) as e:
        raise Invalid("start", rule, f"`{_word(start)}` ({str(e).splitlines()[-1].strip()})") from e
    return releases.hash_of(given)


def _check_kept(net: nn.Module, mean: Statistic, std: Statistic | None, like: Tensor) -> None:
    """Raise `Invalid` where a net is normalized otherwise than it should be, since `start` brought its own numbers."""
    for name, given in zip(("mean", "std"), statistics(mean, std, like), strict=True):
        kept = getattr(net, name).flatten().tolist()
        require(
            given.flatten().tolist() == kept, name, f"that of `start`, {kept}, or left out", given.flatten().tolist()
        )


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
