"""The release: a folder with weights and recipe, written whole, checked on reading, never unpickled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from stealguard.boxes.base import Boxed
from stealguard.defenses import DEFENSES
from stealguard.defenses.base import Defense
from stealguard.errors import ReleaseError, StealguardError, require
from stealguard.files import replacing, sha256, write_text
from stealguard.identity import fingerprint
from stealguard.nets import build
from stealguard.settings import create
from stealguard.types import BlackBox

WEIGHTS, RECIPE = "weights.safetensors", "recipe.json"
FORMAT = 1


@dataclass(frozen=True)
class Release:
    """A protected classifier: what is served is what is audited.

    Attributes:
        folder: where it lies.
        recipe: how it was made, as JSON data.
        model: the plain module, (N, *shape) in [0, 1] -> logits (N, K), in evaluation mode.
        box: what is answered, (N, *shape) -> (N, K) on the simplex: the model behind its defense's guard.
    """

    folder: Path
    recipe: Mapping[str, Any] = field(repr=False)
    model: nn.Module = field(repr=False)
    defense: Defense

    @property
    def box(self) -> BlackBox:
        return self.defense.guard(Boxed(self.model, self.shape), self.model)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.recipe["shape"])

    @property
    def hash(self) -> str:
        """SHA-256 over the recipe, which holds the weights' own."""
        return str(self.recipe["sha256"])


def setting_of(recipe: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that a release is made from but its seed: releases that share it are samples of one setting.

    Where it started from trained weights, only that it did is told, for each seed starts from its own.
    """
    made = {name: recipe[name] for name in ("net", "shape", "classes", "data", "outliers", "defense", "training")}
    return fingerprint({**made, "start": recipe["start"] is not None})


def write(partial: Path, folder: Path, model: nn.Module, recipe: Mapping[str, Any]) -> None:
    """Put weights and recipe into the working folder `partial`, and rename it to `folder` in one step."""
    partial.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with replacing(partial / WEIGHTS) as temporary:
        save_file(state, temporary)
    sealed = {**recipe, "format": FORMAT, "weights_sha256": sha256(partial / WEIGHTS)}
    write_text(partial / RECIPE, json.dumps({**sealed, "sha256": fingerprint(sealed)}, indent=2) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    partial.replace(folder)


def load(folder: str | os.PathLike[str], *, net: str | nn.Module | None = None, device: str = "cpu") -> Release:
    """Read a release.

    Args:
        folder: what `protect` wrote.
        net: the network that was protected, where it is the user's own: a module like it, or its `module:callable`.
            A release never decides by itself what code is imported.
        device: where the model goes.

    Raises:
        ReleaseError: a file is missing, truncated, tampered with or of an unknown format.
    """
    folder = Path(folder)
    recipe = read_recipe(folder)
    state = _read_weights(folder, recipe)
    defense = create(DEFENSES, recipe["defense"]["name"], recipe["defense"]["settings"], "defense")
    if net is None and ":" in recipe["net"]:
        raise ReleaseError(
            f"Release `{folder}` was made from your own `{recipe['net']}`: pass it, or one like it, as `net`."
        )
    like = torch.zeros(2, *recipe["shape"])
    model = defense.build(build(recipe["net"] if net is None else net, like, recipe["classes"], seed=0), like)
    try:
        model.load_state_dict(state)
    except RuntimeError as e:
        rule = "of the architecture of the release"
        require(False, "net", rule, f"`{recipe['net']}`, which does not fit ({str(e).splitlines()[1].strip()})")
    return Release(folder, recipe, model.to(device).eval(), defense)


def read_recipe(folder: Path) -> dict[str, Any]:
    """How a release was made; checked, without reading its weights."""
    path = folder / RECIPE
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
        found = fingerprint({k: v for k, v in recipe.items() if k != "sha256"})
        format_, expected = recipe["format"], recipe["sha256"]
    except OSError as e:
        raise ReleaseError(f"Release `{folder}` should hold `{RECIPE}`. Found none ({e.strerror}).") from e
    except (ValueError, AttributeError, KeyError, TypeError) as e:
        raise ReleaseError(f"`{path}` should be a recipe in JSON. Found a truncated or foreign file.") from e
    if format_ != FORMAT:
        raise ReleaseError(f"`{path}` should be of format {FORMAT}. Found {format_!r}: use the version that wrote it.")
    if found != expected:
        raise ReleaseError(
            f"`{path}` should have SHA-256 {expected}. Found {found}: it was changed after it was written."
        )
    return recipe  # type: ignore[no-any-return]


def _read_weights(folder: Path, recipe: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS
    try:
        found = sha256(path)
    except OSError as e:
        raise ReleaseError(f"Release `{folder}` should hold `{WEIGHTS}`. Found none ({e.strerror}).") from e
    if found != recipe["weights_sha256"]:
        expected = recipe["weights_sha256"]
        raise ReleaseError(
            f"`{path}` should have SHA-256 {expected}. Found {found}: it is truncated or was tampered with."
        )
    try:
        return load_file(path)
    except SafetensorError as e:
        raise StealguardError(f"`{path}` is no safetensors file ({e}).") from e
