"""Public names: each has a docstring, each function an example that runs; old names say where they went."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import stealguard as sg
from stealguard import results

HOME = Path(__file__).parent.parent
PACKAGES = [
    "attacks", "auditing", "boxes", "cli", "comparing", "data", "defenses", "nets", "releases", "report", "results",
    "serving", "training",
]  # fmt: skip
WITHOUT_EXAMPLE = {"new_key", "open_keys", "open_ledger"}  # of the server; this set only shrinks
SLOW = ("accounts_to_reach", "run.audit")
OLD = {"surrogate": "defenses.surrogate", "losses": "training.losses", "combine": "training.combine"}


def public() -> Iterator[tuple[str, object]]:
    """Every public class and function by its name, once."""
    seen: set[int] = set()
    for package in ["stealguard", *(f"stealguard.{name}" for name in PACKAGES)]:
        module = importlib.import_module(package)
        for name in sorted(set(module.__all__) - set(OLD)):
            value = getattr(module, name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and id(value) not in seen:
                seen.add(id(value))
                yield f"{package}.{name}", value


def test_every_public_name_has_a_docstring_of_its_own() -> None:
    assert [name for name, value in public() if not (value.__doc__ or "").strip()] == []


def test_every_public_function_has_an_example() -> None:
    functions = {name.rpartition(".")[2]: value for name, value in public() if inspect.isfunction(value)}
    assert len(functions) > 40
    assert {name for name, value in functions.items() if ">>>" not in (value.__doc__ or "")} == WITHOUT_EXAMPLE


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(sg.__path__, "stealguard."):
        if not found.name.endswith("__main__") and found.name.removeprefix("stealguard.") not in OLD:
            yield importlib.import_module(found.name)


def examples() -> list[Any]:
    """Every docstring with an example, with the names that examples use."""
    names = {"sg": sg, "torch": torch, "nn": nn, "results": results, "Path": Path}
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for module in modules() for test in finder.find(module, extraglobs=names) if test.examples]
    return [pytest.param(test, marks=[pytest.mark.slow] * test.name.endswith(SLOW)) for test in found]


@pytest.mark.no_cover
@pytest.mark.filterwarnings("ignore::UserWarning")  # nets of two epochs answer poorly, and say so
@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name.removeprefix("stealguard."))
def test_the_example_runs(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").symlink_to(HOME / "docs")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    told: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=told.append)
    assert result.failed == 0, "".join(told)


@pytest.mark.parametrize(("old", "new"), OLD.items())
def test_an_old_path_warns_and_names_the_new_one(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"`stealguard\.{old}` is deprecated .*: use `stealguard\.{new}`"):
        module = importlib.reload(sys_module(old))
    home = importlib.import_module(f"stealguard.{new}")
    assert all(getattr(module, name) is getattr(home, name) for name in module.__all__)
    assert f"| `stealguard.{old}` | `stealguard.{new}` |" in (HOME / "docs/stability.md").read_text()


def sys_module(old: str) -> ModuleType:
    """The module at an old path, imported before or now."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(f"stealguard.{old}")
