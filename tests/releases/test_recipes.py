"""What a recipe may hold: an ill-typed one is refused by name, also where its hash is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import stealguard as sg
from stealguard.errors import ReleaseError
from stealguard.identity import fingerprint
from stealguard.releases.recipes import FORMS


def resealed(folder: Path, **changes: Any) -> Path:
    """The release with other values in its recipe, whose hash is made anew."""
    path = folder / "recipe.json"
    recipe = {key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"} | changes
    path.write_text(json.dumps({**recipe, "sha256": fingerprint(recipe)}))
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("net", 3), ("structure", None), ("shape", "x"), ("shape", []), ("shape", [1, "28", 28]), ("shape", [1, -1]),
        ("shape", [10**6, 10**6]), ("classes", 1), ("classes", True), ("classes", 10**12), ("names", [3]),
        ("classes_given", {}), ("scaling", {"low": [1], "high": [0]}), ("scaling", 3), ("data", {"name": "mnist"}),
        ("outliers", [{"name": "x"}]), ("outliers", {}), ("defense", {"name": "ini", "settings": []}), ("training", []),
        ("start", 3), ("seed", 1.5), ("seed", 2**64), ("history", [{"task": "low"}]), ("created", 3), ("seconds", -1),
        ("seconds", float("nan")), ("weights_sha256", None),
    ],
)  # fmt: skip
def test_an_ill_typed_value_is_named(folder: Path, key: str, value: Any) -> None:
    with pytest.raises(ReleaseError, match=f"should hold `{key}`, .* Found ") as caught:
        sg.load(resealed(folder, **{key: value}))
    assert "\n" not in str(caught.value)


def test_there_is_a_name_for_each_class_or_for_none(folder: Path) -> None:
    with pytest.raises(ReleaseError, match=r"a name for each of its 10 classes. Found 2"):
        sg.load(resealed(folder, names=["a", "b"]))


def test_a_key_that_is_missing_is_named(folder: Path) -> None:
    path = folder / "recipe.json"
    recipe = json.loads(path.read_text())
    assert recipe.keys() >= FORMS.keys()
    recipe = {key: value for key, value in recipe.items() if key not in ("sha256", "shape")}
    path.write_text(json.dumps({**recipe, "sha256": fingerprint(recipe)}))
    with pytest.raises(ReleaseError, match=r"should hold `shape`, .* Found none"):
        sg.load(folder)


def test_no_net_is_built_for_which_the_weights_are_too_few(folder: Path) -> None:
    with pytest.raises(ReleaseError, match=r"for which its weights are too few"):
        sg.load(resealed(folder, net="mlp", shape=[100_000_000]))
