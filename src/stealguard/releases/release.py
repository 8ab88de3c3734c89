"""The release: a folder with weights and a recipe, written whole, checked on reading, never unpickled."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stealguard import data as sets
from stealguard.boxes import Accounts, Scaled
from stealguard.data.reading import Reading, reading_of
from stealguard.data.scaling import Scaling
from stealguard.defenses import DEFENSES
from stealguard.defenses.base import Defended, Defense
from stealguard.devices import choose
from stealguard.errors import ReleaseError, StealguardError, one_line, require
from stealguard.files import durable_move, read_text, replacing, sha256, write_text
from stealguard.identity import fingerprint, identity_of, tensor_hash
from stealguard.nets import NETS, Normalized, adapted, build, check_name, is_users, restore, state_of, structure
from stealguard.releases import recipes
from stealguard.results import VictimFacts, html
from stealguard.results.honest import complaints, sentence
from stealguard.settings import changed, create
from stealguard.types import BlackBox, Probabilities

WEIGHTS, RECIPE, CHECKPOINT = "weights.safetensors", "recipe.json", "checkpoint.pt"
NEW_WEIGHTS = f"{WEIGHTS}.new"  # of a release that takes an older one's place, until they have their own name
REPORT = "export.json"  # on the exports in the folder
EXPORTS = "heads.onnx", "model.onnx", "heads.pt2", "model.pt2"
FORMAT = 2

MADE_FROM = ("net", "structure", "shape", "classes", "names", "scaling", "data", "outliers", "defense", "training")


@dataclass(frozen=True)
class Release:
    """A protected classifier: what is served is what is audited. It is a `Victim`.

    Attributes:
        folder: where its files are.
        recipe: how it was made, as JSON data.
        model: from inputs (N, *shape) in [0, 1] to logits (N, K), in evaluation mode; its `net` is the user's own.
        defense: the settings that it was made with.
        structure: of the user's own net that it was read with; "" if it was not read, or the net is stealguard's.
    """

    folder: Path
    recipe: Mapping[str, Any] = field(repr=False)
    model: Defended = field(repr=False)
    defense: Defense
    structure: str = ""

    @cached_property
    def box(self) -> BlackBox:
        """An account without a name: inputs (N, *shape), as its users have them -> answers (N, K) on the simplex."""
        return self.connect()

    def connect(self, account: str = "") -> BlackBox:
        """The black box of one account. What the guard remembers of an account lasts as long as this object."""
        box = self._accounts.connect(account)
        return box if self.scaling is None else Scaled(box, self.scaling)

    @cached_property
    def _accounts(self) -> Accounts:
        return Accounts(self.model.heads(), self.model.guard, self.shape)

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(self.recipe["shape"])

    @property
    def output(self) -> Probabilities:
        """How many classes there are, and their names in the order of the answers' columns."""
        return Probabilities(self.recipe["classes"], tuple(self.recipe["names"]))

    @property
    def scaling(self) -> Scaling | None:
        """How users' inputs become numbers in [0, 1]; None where they are."""
        return scaling_of(self.recipe)

    @property
    def reading(self) -> Reading | None:
        """To which size its pictures were brought, or which columns its table has; None for other data."""
        return reading_of(self.recipe["data"].get("reading"))

    def task(self, data: Any = None) -> sets.Task:
        """The task that it was made from, read in the same way; or `data`, in the units of that task.

        Raises:
            Invalid: the release was made from data without a name, and none are given; or `data` breaks a rule.
        """
        name = self.recipe["data"]["name"]
        kind = name.partition(":")[0]
        known = name in sets.SETS or kind in sets.OF_FILES
        require(data is not None or known, "data", "given: the release was made from data without a name", "none")
        source = name if data is None else data
        alike = isinstance(source, str) and source.partition(":")[0] == kind
        return sets.task(
            source, seed=self.recipe["seed"], classes=self.recipe["classes_given"], scaling=self.scaling,
            reading=self.reading if alike else None,
        )  # fmt: skip

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of all that the answers follow from."""
        return identity_of(self.recipe)

    @property
    def hash(self) -> str:
        """`identity`, by the name that it had in version 0.1.0."""
        return self.identity

    def _repr_html_(self) -> str:
        recipe, honest = self.recipe, self.recipe.get("honest")
        told = {
            "net": f"{recipe['net']}, inputs {self.shape}, {recipe['classes']} classes",
            "task": recipe["data"]["name"],
            "defense": recipe["defense"]["name"],
            "outliers": ", ".join(family["name"] for family in recipe["outliers"]) or "none",
            "honest users get": sentence(honest, self.output.names) if honest else "not measured",
            "identity": self.identity,
        }
        return html.table(("release", self.name), told.items())

    @property
    def complaints(self) -> list[str]:
        """What must not pass without a word about what honest users get, if that was measured."""
        found, trained = self.recipe.get("honest"), recipes.was_trained(self.recipe)
        return complaints(found, trained=trained, guard_alone=self.model.trains_net_alone) if found else []

    def facts(self) -> VictimFacts:
        """What a report may say of it."""
        recipe = self.recipe
        taken = {"protect_seconds": recipe["seconds"]} if recipes.was_trained(recipe) else {}
        return VictimFacts(
            key=self.identity, name=self.name, setting=setting_of(recipe), seed=recipe["seed"],
            data=recipe["data"]["name"], net=recipe["net"], net_hash=recipe["structure"],
            training=json.dumps(recipe["training"], sort_keys=True), defense=recipe["defense"]["name"],
            defense_settings=json.dumps(recipe["defense"]["settings"], sort_keys=True),
            outliers=tuple(family["name"] for family in recipe["outliers"]),
            shape=self.shape, classes=recipe["classes"],
            metrics={**taken, **_metrics(recipe.get("honest") or {})},
        )  # fmt: skip


def _metrics(honest: Mapping[str, Any]) -> dict[str, float]:
    """What honest users get, as metrics by name."""
    found = {f"validation_{name}": honest.get(name) for name in recipes.MEASURED}
    for strictness, served, outliers, _ in honest.get("curve", []):
        found |= {f"served_at_{strictness:g}": served, f"outliers_at_{strictness:g}": outliers}
    return {name: value for name, value in found.items() if value is not None}


def setting_of(recipe: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that a release is made from but its seed: releases that share it are samples of one setting.

    Where it started from trained weights, only that it did is told, since each seed starts from its own. A net of which
    weights were frozen is another setting than one that was trained as a whole.
    """
    trained = recipe["start"] is not None or recipe.get("weights") is not None
    given = {name: recipe[name] for name in ("mean", "std", "frozen") if recipe.get(name) is not None}
    return fingerprint({**{name: recipe[name] for name in MADE_FROM}, **given, "start": trained})


def scaling_of(recipe: Mapping[str, Any]) -> Scaling | None:
    """The scaling that a recipe keeps."""
    return None if recipe["scaling"] is None else Scaling.of(recipe["scaling"])


# Writing ----------------------------------------------------------------------------------------------------


def check_writable(partial: Path, model: nn.Module) -> None:
    """Write and read the module's tensors once: a net that cannot be released is found before it is trained.

    Raises:
        ReleaseError: they cannot be written to the folder `partial`, or do not come back.
    """
    path = partial / f"{WEIGHTS}.try"
    try:
        save_file(state_of(model), path)
        restore(model, load_file(path))
    except (SafetensorError, ValueError, RuntimeError, OSError) as e:
        raise ReleaseError(f"The net's weights cannot be written to `{partial}`: {str(e).splitlines()[0]}") from e
    finally:
        path.unlink(missing_ok=True)


def hash_of(model: nn.Module) -> str:
    """SHA-256 (hex) of a module's tensors and their names."""
    return fingerprint({name: tensor_hash(value) for name, value in state_of(model).items()})


def write_into(partial: Path, model: nn.Module, recipe: Mapping[str, Any]) -> None:
    """Put weights and recipe into the working folder `partial`."""
    with replacing(partial / WEIGHTS) as temporary:
        save_file(state_of(model), temporary)
    sealed = {**recipe, "format": FORMAT, "weights_sha256": sha256(partial / WEIGHTS)}
    write_text(partial / RECIPE, json.dumps({**sealed, "sha256": fingerprint(sealed)}, indent=2) + "\n")


@contextmanager
def discarded(partial: Path) -> Iterator[None]:
    """What `write_into` has written vanishes when the block raises."""
    try:
        yield
    except BaseException:
        for name in (RECIPE, WEIGHTS):
            (partial / name).unlink(missing_ok=True)
        raise


def publish(partial: Path, folder: Path) -> None:
    """Give the release in the working folder its place in one step; only then is what else is there removed.

    A folder that exists keeps its other files, but for the exports of its old release, and that release until the new
    one is whole.
    """
    if folder.exists():
        durable_move(partial / WEIGHTS, folder / NEW_WEIGHTS)
        _remove_exports(folder)
        durable_move(partial / RECIPE, folder / RECIPE)  # from here on the folder holds the new release
        durable_move(folder / NEW_WEIGHTS, folder / WEIGHTS)
        shutil.rmtree(partial)
    else:
        durable_move(partial, folder)
        for entry in folder.iterdir():
            if entry.name not in (WEIGHTS, RECIPE):
                entry.unlink(missing_ok=True)


def _remove_exports(folder: Path) -> None:
    """The report goes last: as long as it is there, it is known that such files are exports."""
    if (folder / REPORT).exists():
        for name in (*EXPORTS, REPORT):
            (folder / name).unlink(missing_ok=True)


# Reading ----------------------------------------------------------------------------------------------------


def load(
    folder: str | os.PathLike[str],
    *,
    net: str | nn.Module | None = None,
    defense: str | type[Defense] | None = None,
    device: str | torch.device | None = "cpu",
) -> Release:
    """Read a release.

    Args:
        folder: what `protect` wrote.
        net: the network that was protected, where it is the user's own: a module like it, or its `module:callable`.
            A release never decides by itself what code is imported.
        defense: the class of the defense, or its `module:Class`, where it is the user's own.
        device: where the model goes.

    Raises:
        ReleaseError: a file is missing, truncated, tampered with or of an unknown format, or code has to be named.
        Invalid: `net` or `defense` is not what the release was made with.

    Example:
        >>> data = torch.rand(90, 4), torch.arange(90) % 3
        >>> _ = sg.protect("mlp", data, defense="none", epochs=1, out="runs/small", progress=False)
        >>> sg.load("runs/small").name
        'small'
    """
    folder = Path(folder)
    if net is not None:
        check_name(net)
    recipe = read_recipe(folder)
    state = _read_weights(folder, recipe)
    chosen = _defense_of(folder, recipe, defense)
    if net is None and is_users(recipe["net"]):
        raise ReleaseError(
            f"Release `{folder}` was made from your own `{recipe['net']}`: pass it, or one like it, as `net` "
            "(`--net` on the command line)."
        )
    held = sum(tensor.numel() for tensor in state.values())
    if recipe["net"] in NETS and math.prod(recipe["shape"]) + recipe["classes"] > held:
        raise ReleaseError(
            f"`{folder}` has inputs of shape {recipe['shape']}, for which its weights are too few: {held:,}."
        )
    like = torch.rand(2, *recipe["shape"], generator=torch.Generator().manual_seed(0))
    try:
        bare = not isinstance(net, Normalized)  # else it is the net of a release, with its statistics
        mean, std = (recipe.get(name) if bare else None for name in ("mean", "std"))
        own = build(recipe["net"] if net is None else net, like, recipe["classes"], seed=0, mean=mean, std=std)
        model = chosen.build(adapted(own, like, recipe["classes"]), like)
        restore(model, state)
    except ValueError as e:
        word = recipe["net"] if net is None else net if isinstance(net, str) else type(net).__name__
        require(False, "net", "of the architecture of the release", f"`{word}`, which does not fit ({e})")
    read = structure(model.net) if is_users(recipe["net"]) else ""  # before a forward pass changes an attribute
    return Release(folder, recipe, model.to(choose(device)).eval(), chosen, read)


def _defense_of(folder: Path, recipe: Mapping[str, Any], given: str | type[Defense] | None) -> Defense:
    name, settings = recipe["defense"]["name"], recipe["defense"]["settings"]
    if given is None and ":" in name:
        raise ReleaseError(
            f"Release `{folder}` was made with your own `{name}`: pass it as `defense` "
            "(`--defense` on the command line, `--trained` of `guard`)."
        )
    rule = f"`{name}`, which the release was made with"
    if isinstance(given, type):
        found = DEFENSES.name_of(given)
        own = ":" in name and given.__qualname__ == name.partition(":")[2]  # its module may have another name by now
        require(own or found == name, "defense", rule, f"`{found}`")
        return changed(given(), settings, f"defense {name}")
    require(given in (None, name), "defense", rule, f"`{given}`")
    return create(DEFENSES, name, settings, "defense")


def read_recipe(folder: Path) -> dict[str, Any]:
    """How a release was made; checked, without reading its weights."""
    path = folder / RECIPE
    try:
        recipe = json.loads(read_text(path))
        found = fingerprint({k: v for k, v in recipe.items() if k != "sha256"})
        format_, expected = recipe["format"], recipe["sha256"]
    except OSError as e:
        if not os.path.lexists(folder):
            raise ReleaseError(f"Release `{folder}` should be a folder. Found none.") from e
        raise ReleaseError(f"Release `{folder}` should hold `{RECIPE}`. Found none ({e.strerror}).") from e
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as e:
        raise ReleaseError(f"`{path}` should be a recipe in JSON. Found a truncated or foreign file.") from e
    if format_ != FORMAT:
        raise ReleaseError(f"`{path}` should be of format {FORMAT}. Found {format_!r}: use the version that wrote it.")
    if found != expected:
        raise ReleaseError(
            f"`{path}` should have SHA-256 {expected}. Found {found}: it was changed after it was written."
        )
    recipes.check(recipe, path)
    return recipe  # type: ignore[no-any-return]


def check_weights(folder: Path, recipe: Mapping[str, Any]) -> Path:
    """The file with the weights that belong to a recipe.

    Raises:
        ReleaseError: it is missing or was changed.
    """
    path, expected = folder / WEIGHTS, recipe["weights_sha256"]
    new = folder / NEW_WEIGHTS
    if new.exists() and sha256(new) == expected:  # the process that wrote them ended before it could name them
        path = new
    try:
        found = sha256(path)
    except OSError as e:
        raise ReleaseError(f"Release `{folder}` should hold `{WEIGHTS}`. Found none ({e.strerror}).") from e
    if found != expected:
        raise ReleaseError(
            f"`{path}` should have SHA-256 {expected}. Found {found}: it is truncated or was tampered with."
        )
    return path


def measured_settings(folder: Path, recipe: Mapping[str, Any]) -> dict[str, float]:
    """What the weights hold in place of settings that are None, by the settings' names; no network is built.

    Nothing is known of a defense that is the user's own: naming its class would run its code.

    Raises:
        ReleaseError: the weights are missing or were changed, or do not hold such a number.
    """
    name, settings = recipe["defense"]["name"], recipe["defense"]["settings"]
    measured = DEFENSES[name].measured if name in DEFENSES else {}
    wanted = {setting: tensor for setting, tensor in measured.items() if settings.get(setting) is None}
    if not wanted:
        return {}
    path = check_weights(folder, recipe)
    try:
        with safe_open(path, framework="pt") as file:
            return {setting: float(file.get_tensor(tensor).item()) for setting, tensor in wanted.items()}
    except (SafetensorError, RuntimeError) as e:
        raise ReleaseError(f"`{path}` should hold a number as {', '.join(wanted.values())} ({one_line(e)}).") from e


def _read_weights(folder: Path, recipe: Mapping[str, Any]) -> dict[str, Tensor]:
    path = check_weights(folder, recipe)
    try:
        return load_file(path)
    except SafetensorError as e:
        raise StealguardError(f"`{path}` is not a safetensors file ({e}).") from e
