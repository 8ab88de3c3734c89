"""Methods by name: built in, from installed packages, and a user's own `module:Class`."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import own_methods
import stealguard as sg
from samples import mlp, noise, task
from stealguard import registry
from stealguard.attacks import ATTACKS, Knockoff
from stealguard.defenses import DEFENSES, InI
from stealguard.errors import Invalid
from stealguard.identity import code_of
from stealguard.registry import Registry, imported, source_hash
from stealguard.settings import create, describe


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers a defense and two attacks, one of which cannot be imported."""
    points = {
        "stealguard.attacks": [
            EntryPoint("lazy", "own_methods:Lazy", "stealguard.attacks"),
            EntryPoint("broken", "own_methods:nowhere", "stealguard.attacks"),
            EntryPoint("knockoff", "own_methods:Lazy", "stealguard.attacks"),
        ],
        "stealguard.defenses": [EntryPoint("halves", "own_methods:Halves", "stealguard.defenses")],
    }
    monkeypatch.setattr(registry, "entry_points", lambda group: points.get(group, []))


@pytest.mark.parametrize(("table", "count"), [(ATTACKS, 13), (DEFENSES, 19)], ids=["attacks", "defenses"])
def test_a_registry_is_the_dict_of_the_built_in_methods(table: Registry[object], count: int) -> None:
    assert isinstance(table, dict)
    assert len(table) >= count
    for name, kind in table.items():
        assert table.find(name, "method") is kind
        assert table.name_of(kind) == table.name_of(kind()) == name


def test_a_class_of_ones_own_is_found_by_its_module_and_named_so() -> None:
    assert ATTACKS.find("own_methods:Lazy", "attack") is own_methods.Lazy
    assert DEFENSES.find("own_methods:Halves", "defense") is own_methods.Halves
    assert DEFENSES.name_of(own_methods.Halves(share=0.1)) == "own_methods:Halves"
    made = create(DEFENSES, "own_methods:Halves", {"share": 0.25}, "defense")
    assert made == own_methods.Halves(share=0.25)
    assert describe(DEFENSES, made) == ("own_methods:Halves", {"share": 0.25, "surrogate": "lenet5"})
    assert create(DEFENSES, *describe(DEFENSES, made), "defense") == made


def test_a_class_of_a_script_has_one_name_in_all_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_methods.Halves, "__module__", "__mp_main__")  # as multiprocessing calls the script
    assert DEFENSES.name_of(own_methods.Halves) == "__main__:Halves"


def test_built_in_methods_can_be_named_by_module_too() -> None:
    assert ATTACKS.find("stealguard.attacks:Knockoff", "attack") is Knockoff
    assert ATTACKS.name_of(Knockoff) == "knockoff"


@pytest.mark.usefixtures("installed")
def test_installed_packages_offer_methods_by_name() -> None:
    assert ATTACKS.find("lazy", "attack") is own_methods.Lazy
    assert ATTACKS.name_of(own_methods.Lazy()) == "lazy"
    assert ATTACKS.names == [*ATTACKS, "lazy", "broken"], "built-in names come first and stay what they are"
    assert ATTACKS.find("knockoff", "attack") is Knockoff
    assert DEFENSES.names == [*DEFENSES, "halves"]
    with pytest.raises(
        Invalid, match=r"`attack` should be a method that can be imported. Found `broken`, own_methods:"
    ):
        ATTACKS.find("broken", "attack")
    with pytest.raises(Invalid, match=r"Found `lazzy` \(did you mean `lazy`\?\)"):
        ATTACKS.find("lazzy", "attack")


@pytest.mark.parametrize(
    ("table", "name", "message"),
    [
        (ATTACKS, "knockof", r"one of knockoff, .*, or `module:Class` of your own. Found `knockof` \(did you mean"),
        (ATTACKS, 3, "one of knockoff, .* Found `3`"),
        (ATTACKS, None, "one of knockoff, .* Found `None`"),
        (ATTACKS, "no_such_module:X", r"an importable `module:name`. Found .*\(ModuleNotFoundError"),
        (ATTACKS, "own_methods:Nothing", r"an importable `module:name`. Found `own_methods:Nothing` \(AttributeError"),
        (ATTACKS, ":X", r"an importable `module:name`. Found `:X` \(ValueError"),
        (ATTACKS, "..:X", r"an importable `module:name`. Found `..:X` \(TypeError"),
        (ATTACKS, "own_methods:", "an importable `module:name`"),
        (ATTACKS, "own_methods:net", "an attack: a frozen dataclass. Found `own_methods:net`, which is not one"),
        (ATTACKS, "own_methods:Unbudgeted", "an attack with `budget`. Found `own_methods:Unbudgeted` without it"),
        (ATTACKS, "own_methods:Halves", "an attack with `budget`. Found `own_methods:Halves` without it"),
        (DEFENSES, "own_methods:Lazy", "a defense: a frozen dataclass, a subclass of `Defense`. Found"),
        (DEFENSES, "own_methods:Bare", "a dataclass with a default for each field. Found .* for `strength`"),
    ],
)  # fmt: skip
def test_what_is_no_method_is_one_line(table: Registry[object], name: object, message: str) -> None:
    with pytest.raises(Invalid, match=f"`method` should be {message}") as caught:
        table.find(name, "method")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", ["1 / 0", "def", "import sys; sys.exit(3)", "raise ValueError('a\\nb')"])
def test_a_module_that_cannot_be_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "not_sound.py").write_text(code)
    with pytest.raises(Invalid, match="Found `not_sound:X`") as caught:
        ATTACKS.find("not_sound:X", "attack")
    assert "\n" not in str(caught.value)


def test_modules_lie_in_the_working_directory_too_and_are_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "just_here.py").write_text("class A:\n    class B:\n        pass\n")
    found = imported("just_here:A.B", "net")
    assert found.__qualname__ == "A.B"
    before = source_hash(found)
    assert len(before) == 64
    (tmp_path / "just_here.py").write_text("class A:\n    class B:\n        size = 3\n")
    assert source_hash(found) != before
    assert source_hash(InI) == source_hash(InI()) == source_hash(len) == ""


def test_modules_are_hashed_with_those_of_the_users_own_that_they_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "own_parts").mkdir()
    helpers = [tmp_path / "own_parts" / "steps.py", tmp_path / "own_rate.py", tmp_path / "own_later.py"]
    helpers[0].write_text("import own_rate\nSTEPS = 3\n")
    for helper in helpers[1:]:
        helper.write_text("RATE = 1\n")
    text = "import numpy, json\nfrom own_parts.steps import STEPS\nclass A:\n    def f(self):\n        import own_later"
    (tmp_path / "own_using.py").write_text(f"{text}\n")
    kind = imported("own_using:A", "net")
    for helper in helpers:
        before = source_hash(kind), code_of(kind)
        helper.write_text(f"{helper.read_text()}MORE = 1\n")
        after = source_hash(kind), code_of(kind)
        assert before[0] != after[0], helper
        assert before[1] != after[1], helper
    assert "own_later" not in sys.modules


@pytest.mark.usefixtures("installed")
def test_protect_and_audit_take_the_names_of_installed_packages(tmp_path: Path) -> None:
    data, pool = task(100, (16,), 3), noise(60, (16,), seed=8)
    release = sg.protect(mlp(), data, defense="halves", epochs=1, out=tmp_path / "r", progress=False)
    assert release.recipe["defense"]["name"] == "halves"
    (row,) = sg.audit(release, "lazy", [pool], "soft", budgets=20, data=data, progress=False)
    assert row.attack == "lazy"
    with pytest.raises(Invalid, match=r"`attacks` should be one of quick, .*, lazy, broken. Found `lazzy` .*`lazy`"):
        sg.audit(release, "lazzy", [pool], data=data, progress=False)
