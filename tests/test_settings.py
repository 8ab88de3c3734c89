"""Frozen dataclasses become names and dicts and come back; a misspelt name or a wrong value is named."""

from __future__ import annotations

import errno
import json

import pytest

import stealguard as sg
from stealguard.attacks import ATTACKS, Knockoff
from stealguard.defenses import DEFENSES, RobustInI
from stealguard.errors import Invalid, Refused, StealguardError, disk_error, one_line
from stealguard.registry import Registry
from stealguard.releases.presets import PRESETS, preset_of
from stealguard.settings import changed, create, describe, from_yaml


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_the_recipe(preset: str) -> None:
    name, settings = describe(DEFENSES, PRESETS[preset].defense)
    assert create(DEFENSES, name, settings, "defense") == PRESETS[preset].defense


def test_a_defense_of_ones_own_has_the_usual_training() -> None:
    preset = preset_of("own_methods:Halves")
    assert DEFENSES.name_of(preset.defense) == "own_methods:Halves"
    assert preset.training == sg.Training()
    assert preset_of("ini-official-mnist") is PRESETS["ini-official-mnist"]
    with pytest.raises(Invalid, match=r"`defense` should be one of none, .* \(did you mean `ini`\?\)"):
        preset_of("inni")


def test_settings_within_settings() -> None:
    made = create(ATTACKS, "knockoff", {"budget": 7, "training": {"epochs": 3}}, "attack")
    assert made == Knockoff(budget=7, training=sg.Training(epochs=3))
    assert create(ATTACKS, *describe(ATTACKS, made), "attack") == made


@pytest.mark.parametrize("field", ["floor", "trust", "suspicion", "strictness"])
def test_whole_numbers_are_the_fractions_that_they_equal(field: str) -> None:
    found = [json.dumps(describe(DEFENSES, RobustInI(**{field: value}))) for value in (15, 15.0)]
    assert found[0] == found[1]
    assert json.dumps(sg.Training(lr=1).record()) == json.dumps(sg.Training(lr=1.0).record())


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
def test_a_bad_setting_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        create(DEFENSES, "ini", settings, "defense")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(
        Invalid, match=r"`attack` should be one of knockoff.* Found `knockof` \(did you mean `knockoff`\?\)"
    ):
        create(ATTACKS, "knockof", {}, "attack")
    with pytest.raises(Invalid, match=r"`epoch` should be a setting of `training`"):
        changed(sg.Training(), {"epoch": 3}, "training")
    with pytest.raises(Invalid, match=r"`epoch` should be a setting of `attack knockoff.training`"):
        create(ATTACKS, "knockoff", {"training": {"epoch": 3}}, "attack")


def test_a_method_that_is_not_in_the_table_goes_by_its_module_and_class() -> None:
    assert describe(Registry("defense", {}), sg.Defense()) == ("stealguard.defenses.base:Defense", {})


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"lr": "1e-3"}, "lr", 0.001),
        ({"lr": 1}, "lr", 1.0),
        ({"epochs": "2e1"}, "epochs", 20),
        ({"epochs": 20.0}, "epochs", 20),
        ({"weight_decay": "0"}, "weight_decay", 0.0),
    ],
)
def test_a_number_that_yaml_reads_as_text_is_a_number(settings: dict[str, object], field: str, value: object) -> None:
    made = getattr(changed(sg.Training(), settings, "training"), field)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": "much"}, "`lr` should be of the kind of 0.05. Found 'much'"),
        ({"lr": [1]}, r"`lr` should be of the kind of 0.05. Found \[1\]"),
        ({"lr": 10**400}, "`lr` should be of the kind of 0.05. Found 1000"),
        ({"lr": "nan"}, "`lr` should be a positive number. Found nan"),
        ({"epochs": "1.5"}, "`epochs` should be of the kind of 10. Found 1.5"),
        ({"epochs": "1e400"}, "`epochs` should be of the kind of 10. Found inf"),
        ({"epochs": None}, "`epochs` should be of the kind of 10. Found None"),
        ({3: 4}, "`3` should be a setting of `training`"),
        ({"schedule": 5}, "`schedule` should be of the kind of 'cosine'. Found 5"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        changed(sg.Training(), settings, "training")


def test_an_error_in_the_rules_of_an_own_method_is_one_line() -> None:
    with pytest.raises(Invalid, match=r"`attack own_methods:Needy` should be given settings .*unsupported operand"):
        create(ATTACKS, "own_methods:Needy", {"levels": ["a"]}, "attack")


BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else 1}]\n" for n in range(9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not YAML: while parsing"),
        ("a: &a [*a]", "stands for inf values, and at most 100000 are read"),
        (BOMB, r"stands for \d{9} values, and at most 100000 are read"),
        ("!!int x", "not YAML"),
        ("!!float [1]", "not YAML"),
        ("2001-99-99", "not YAML"),
        ("!!python/object/apply:os.system [ls]", "not YAML: could not determine a constructor"),
        ("{[1]: 2}", "not YAML: while constructing a mapping .* found unhashable key"),
        ("[" * 700, "nested too deeply"),
        pytest.param("[" * 5_000, "nested too deeply", marks=pytest.mark.slow),
        ("\x00", "not YAML"),
        ("a: 1\nb: 2\na: 3", "has the key `a` twice, again in line 3"),
        ("x: [{a: 1, a: 1}]", "has the key `a` twice, again in line 1"),
    ],
)
def test_yaml_that_cannot_be_read_is_one_line(text: str, message: str) -> None:
    with pytest.raises(StealguardError, match=message) as caught:
        from_yaml(text)
    assert "\n" not in str(caught.value)


def test_aliases_are_read() -> None:
    assert from_yaml("a: &x {lr: 1}\nb: *x\nc: {<<: *x, epochs: 2}") == {
        "a": {"lr": 1}, "b": {"lr": 1}, "c": {"lr": 1, "epochs": 2},
    }  # fmt: skip
    assert from_yaml("") is None


def test_errors_survive_the_way_between_processes() -> None:
    import pickle

    for error in (Invalid("lr", "positive", 0), Refused("no more", left=3), StealguardError("x")):
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is type(error)
        assert str(back) == str(error)
    assert pickle.loads(pickle.dumps(Refused("no more", left=3))).left == 3


def test_a_full_disk_is_found_behind_the_error_that_it_caused() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "weights")
    with pytest.raises(RuntimeError) as caught:  # noqa: PT012
        try:
            raise full
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")
    assert disk_error(caught.value) is full
    assert disk_error(RuntimeError()) is None
    assert disk_error(FileNotFoundError(errno.ENOENT, "No such file")) is None
    assert one_line(full) == "`weights`: No space left on device"
