"""The house's order: imports run one way, methods do not know each other, and the doors open fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stealguard

HOME = Path(stealguard.__file__).parent

LAYERS = [  # each room may import from rooms of the lines above it, and from its own line where that is one room
    {"errors", "seeds", "files", "hashing"},
    {"settings", "progress", "checks", "engines", "simplex"},
    {"types"},
    {"losses", "combine", "nets", "data", "metrics", "augment", "rows", "provenance", "selection", "generators"},
    {"training", "boxes", "clients", "journal", "surrogate", "decoys", "report", "alternating", "erasing"},
    {"transfer", "recovery", "zeroth_order"},
    {"answers", "defenses", "attacks"},
    {"presets", "release", "suites", "owning"},
    {"protection", "thefts", "answering"},
    {"auditing", "grid"},
    {"demo", "comparing"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(HOME).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms that a file imports, those for type checking alone included."""
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


FILES = sorted(path for path in HOME.rglob("*.py") if path.parent != HOME or path.stem not in ("__init__", "__main__"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOME)))
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    assert room in LEVEL, f"`{room}` is a new room: give it a layer"
    for other in imports(path) - {room}:
        assert LEVEL[other] < LEVEL[room], f"{room} must not import {other}"


@pytest.mark.parametrize("kind", ["defenses", "attacks"])
def test_methods_do_not_import_each_other(kind: str) -> None:
    methods = {path.stem for path in (HOME / kind).glob("*.py")} - {"__init__"}
    for method in methods:
        tree = ast.parse((HOME / kind / f"{method}.py").read_text())
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not modules & {f"stealguard.{kind}.{other}" for other in methods - {method}}


@pytest.mark.parametrize(
    "module", ["stealguard", "stealguard.cli", "stealguard.data", "stealguard.report", "stealguard.rows"]
)
def test_the_doors_open_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_all_there() -> None:
    for name in stealguard.__all__:
        assert getattr(stealguard, name) is not None
    assert callable(stealguard.protect)
    assert callable(stealguard.audit)
    with pytest.raises(AttributeError, match="module `stealguard` has no attribute `protct`"):
        _ = stealguard.protct
    assert set(stealguard.__all__) == set(dir(stealguard))
