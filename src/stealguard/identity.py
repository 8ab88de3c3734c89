"""Hashes of what a result follows from. Importing this loads no torch."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stealguard.files import sha256

if TYPE_CHECKING:
    from torch import Tensor


ANSWERED_WITH = ("structure", "shape", "classes", "scaling", "defense", "weights_sha256")


def fingerprint(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def identity_of(recipe: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that a release's answers follow from; equal weights made at other times share it."""
    return fingerprint({name: recipe[name] for name in ANSWERED_WITH})


def tensor_hash(x: Tensor) -> str:
    """SHA-256 of a tensor's shape, dtype and values."""
    import torch

    x = x.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    bits = x.view(torch.int16) if x.dtype == torch.bfloat16 else x  # which NumPy does not know
    digest.update(bits.numpy().data)
    return digest.hexdigest()


def code_of(kind: type) -> str:
    """SHA-256 (hex) of the source file of somebody's own class, and of the modules of their own that it imports.

    "" for this package's classes, whose version a row tells.
    """
    if _top(kind.__module__) == _top(__name__):
        return ""
    try:
        text = inspect.getsource(inspect.getmodule(kind) or kind)
    except (OSError, TypeError):  # typed in at a prompt
        return fingerprint(kind.__qualname__)
    others = own_files(kind.__module__)[1:]
    return fingerprint([text, *map(sha256, others)] if others else text)


def own_files(module: str) -> list[Path]:
    """The file of somebody's own module, then those of the modules of their own that it imports, and these import.

    Modules of Python and of installed packages are left out, and so is what no file holds.
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or _top(module) == _top(__name__):
        return []
    found, waiting = {module: Path(file)}, [module]
    while waiting:
        name = waiting.pop()
        for other in sorted(_imports(name, found[name]) - found.keys()):
            if path := _own_file(other):
                found[other] = path
                waiting.append(other)
    return list(found.values())


def _imports(module: str, path: Path) -> set[str]:
    """The names of modules that a module's source may import, wherever it does."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            source = ".".join(filter(None, [start, node.module]))
            names.update([source, *(f"{source}.{one.name}" for one in node.names)])
    return names


def _own_file(module: str) -> Path | None:
    """The file of a module of somebody's own, which is not imported for that."""
    top, *parts = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    folders = [Path(folder, *parts) for folder in (spec and spec.submodule_search_locations) or ()]
    files = [file for folder in folders for file in (folder.with_name(f"{folder.name}.py"), folder / "__init__.py")]
    files = files if parts else [Path(spec.origin)] if spec and spec.origin else []
    return next((file for file in files if file.suffix == ".py" and file.is_file() and is_own(module, file)), None)


def is_own(module: str, file: str | Path) -> bool:
    """Whether a module is the user's: of no installed package, whose version is told, and not of Python."""
    installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
    return _top(module) not in {_top(__name__), "torch", *sys.stdlib_module_names} and not installed


def _top(module: str) -> str:
    return module.partition(".")[0]
