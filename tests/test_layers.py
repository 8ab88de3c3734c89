"""The order of the packages: imports run one way, methods do not know each other, and light modules load fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import stealguard
from stealguard.attacks import ATTACKS
from stealguard.defenses import DEFENSES

HOME = Path(stealguard.__file__).parent

LAYERS = [  # each package may import from the lines above it, and from itself
    {"errors", "processes", "seeds"},
    {"files"},
    {"identity"},
    {"registry"},
    {"checks", "devices", "progress", "settings", "simplex", "types"},
    {"data", "nets"},
    {"training"},
    {"boxes"},
    {"attacks", "defenses", "results"},
    {"releases"},
    {"auditing"},
    {"comparing", "report", "serving"},
    {"cli"},
]
OLD_PATHS = {"combine", "losses", "surrogate"}  # modules that keep the paths of version 0.1.0 importable
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}


def package_of(path: Path) -> str:
    return path.relative_to(HOME).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The packages that a file imports, those for type checking alone included."""
    package = ("stealguard", *path.relative_to(HOME).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module or "").split(".")) if node.module else base
            names = [(*module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "stealguard" and len(name) > 1 and name[1] in LEVEL}
    return found


FILES = sorted(
    path for path in HOME.rglob("*.py") if path.parent != HOME or path.stem not in {"__init__", "__main__", *OLD_PATHS}
)


@pytest.mark.no_cover
@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOME)))
def test_imports_run_one_way(path: Path) -> None:
    package_name = package_of(path)
    assert package_name in LEVEL, f"`{package_name}` is a new package: give it a layer"
    for other in imports(path) - {package_name}:
        assert LEVEL[other] < LEVEL[package_name], f"{package_name} must not import {other}"


@pytest.mark.slow
@pytest.mark.no_cover
def test_no_packages_import_each_other_in_a_circle() -> None:
    graph = defaultdict[str, set[str]](set)
    for path in FILES:
        graph[package_of(path)] |= imports(path) - {package_of(path)}
    assert set(TopologicalSorter(graph).static_order()) == set(graph), "it raises on a circle"


PACKAGES = sorted({package_of(path) for path in FILES if (HOME / package_of(path)).is_dir()})


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_of_a_package_all_exist(package: str) -> None:
    module = import_module(f"stealguard.{package}")
    assert len(set(module.__all__)) == len(module.__all__) > 0
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert not name.startswith("_")


@pytest.mark.no_cover
def test_no_two_public_classes_have_the_same_name() -> None:
    where = defaultdict[str, list[str]](list)
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(str(path.relative_to(HOME)))
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


@pytest.mark.parametrize("table", [ATTACKS, DEFENSES], ids=["attacks", "defenses"])
def test_methods_do_not_import_each_other(table: dict[str, type]) -> None:
    methods = {kind.__module__ for kind in table.values()} - {"stealguard.defenses.base"}
    for method in methods:
        tree = ast.parse(Path(sys.modules[method].__file__ or "").read_text())
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not modules & (methods - {method})


@pytest.mark.parametrize(
    "module",
    [
        "stealguard",
        "stealguard.cli",
        "stealguard.data",
        "stealguard.progress",
        "stealguard.registry",
        "stealguard.report",
        "stealguard.results",
        "stealguard.settings",
    ],
)
def test_light_modules_load_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.filterwarnings("ignore:.*is deprecated and goes in version")
def test_public_names_are_all_there() -> None:
    for name in stealguard.__all__:
        assert getattr(stealguard, name) is not None
    assert callable(stealguard.protect)
    assert callable(stealguard.audit)
    with pytest.raises(AttributeError, match="module `stealguard` has no attribute `protct`"):
        _ = stealguard.protct
    assert set(stealguard.__all__) == set(dir(stealguard)) == {*stealguard._HOMES, *stealguard._MODULES, "__version__"}


def test_no_module_is_named_like_a_public_function() -> None:
    modules = {path.stem for path in HOME.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(stealguard._HOMES)
