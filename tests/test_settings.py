"""Frozen dataclasses to names and dicts and back, with the misspelt named."""

from __future__ import annotations

import pytest

import stealguard as sg
from stealguard.attacks import ATTACKS, Knockoff
from stealguard.defenses import DEFENSES
from stealguard.errors import Invalid
from stealguard.releases.presets import PRESETS
from stealguard.settings import changed, create, describe


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_the_recipe(preset: str) -> None:
    name, settings = describe(DEFENSES, PRESETS[preset].defense)
    assert create(DEFENSES, name, settings, "defense") == PRESETS[preset].defense


def test_settings_within_settings() -> None:
    made = create(ATTACKS, "knockoff", {"budget": 7, "training": {"epochs": 3}}, "attack")
    assert made == Knockoff(budget=7, training=sg.Training(epochs=3))
    assert create(ATTACKS, *describe(ATTACKS, made), "attack") == made


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gama": 1.0}, r"`gama` should be a setting of `defense ini`: .* Found `gama` \(did you mean `gamma`\?\)"),
        ({"gamma": "much"}, r"`gamma` should be of the kind of 0.3. Found 'much'"),
        ({"gamma": True}, "`gamma` should be of the kind of 0.3. Found True"),
        ({"surrogates": 1.5}, "`surrogates` should be of the kind of 1. Found 1.5"),
        ({"gamma": -1}, "`gamma` should be a finite number of at least 0. Found -1"),
        ({"epsilon": float("inf")}, "`epsilon` should be a finite number of at least 0. Found inf"),
        ({"surrogates": 0}, "`surrogates` should be at least 1. Found 0"),
        ({"reading": "papr"}, r"`reading` should be one of paper, official. Found `papr`"),
        ({"combine": "pcgrd"}, r"Found `pcgrd` \(did you mean `pcgrad`\?\)"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        create(DEFENSES, "ini", settings, "defense")


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(
        Invalid, match=r"`attack` should be one of knockoff.* Found `knockof` \(did you mean `knockoff`\?\)"
    ):
        create(ATTACKS, "knockof", {}, "attack")
    with pytest.raises(Invalid, match=r"`epoch` should be a setting of `training`"):
        changed(sg.Training(), {"epoch": 3}, "training")
    with pytest.raises(Invalid, match=r"`epoch` should be a setting of `attack knockoff.training`"):
        create(ATTACKS, "knockoff", {"training": {"epoch": 3}}, "attack")


def test_what_is_not_in_the_table_goes_by_its_class() -> None:
    assert describe({}, sg.Defense()) == ("Defense", {})
