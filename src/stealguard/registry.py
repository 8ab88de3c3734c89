"""Methods by name: those that are built in, those that installed packages offer, and a user's own `module:Class`.

Importing this loads no torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import reduce
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from stealguard.errors import Invalid, nearest, one_line, require
from stealguard.files import sha256
from stealguard.identity import fingerprint, own_files

T = TypeVar("T")


class Registry(dict[str, type[T]]):
    """The built-in methods of one kind by name; as a mapping it holds these alone.

    Args:
        kind: what the methods are, in one word: `attack` or `defense`. Installed packages offer methods of their own
            as entry points of the group `stealguard.attacks` or `stealguard.defenses`.
        built_in: names and classes.
        base: the class that every method is a subclass of; any class if None.
        needs: the attributes that every method has.
    """

    def __init__(
        self, kind: str, built_in: Mapping[str, type[T]], *, base: type[T] | None = None, needs: Iterable[str] = ()
    ):
        super().__init__(built_in)
        self.kind = kind
        self._base, self._needs = base, tuple(needs)

    @property
    def names(self) -> list[str]:
        """Every name: the built-in ones, then those of installed packages."""
        return [*self, *(name for name in self._installed() if name not in self)]

    def find(self, name: object, parameter: str) -> type[T]:
        """The class that `name` stands for: built in, an entry point's, or `module:Class`.

        Modules are looked for in the working directory too. Importing a module runs its code.

        Raises:
            Invalid: there is no such name, or what it stands for cannot be imported or is no method of this kind.
        """
        if isinstance(name, str) and name in self:
            return self[name]
        if isinstance(name, str) and ":" in name:
            return self._checked(imported(name, parameter), name, parameter)
        installed = self._installed()
        if isinstance(name, str) and name in installed:
            return self._checked(_loaded(installed[name], parameter), name, parameter)
        known = [*self, *installed]
        rule = f"one of {', '.join(known)}, or `module:Class` of your own"
        raise Invalid(parameter, rule, f"`{name}`{nearest(name, known)}")

    def name_of(self, method: T | type[T]) -> str:
        """The name of a method or of its class: as `find` takes it."""
        kind = method if isinstance(method, type) else type(method)
        for name, known in self.items():
            if known is kind:
                return name
        module = kind.__module__.replace("__mp_main__", "__main__")  # in a process that multiprocessing has spawned
        own = f"{module}:{kind.__qualname__}"
        offered = (name for name, point in self._installed().items() if point.value == own)
        return next(offered, own)

    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=f"stealguard.{self.kind}s")}

    def _checked(self, found: Any, name: str, parameter: str) -> type[T]:
        """Raise `Invalid` unless this is a frozen dataclass of the kind, with a default for each field."""
        base = f", a subclass of `{self._base.__name__}`" if self._base else ""
        sound = isinstance(found, type) and is_dataclass(found) and found.__dataclass_params__.frozen  # type: ignore[attr-defined]
        rule = f"{_article(self.kind)}: a frozen dataclass{base}"
        require(sound and issubclass(found, self._base or object), parameter, rule, f"`{name}`, which is not one")
        has = {field.name for field in fields(found)} | {key for ancestor in found.__mro__ for key in vars(ancestor)}
        for need in self._needs:
            require(need in has, parameter, f"{_article(self.kind)} with `{need}`", f"`{name}` without it")
        for field in fields(found):
            bare = field.init and field.default is MISSING and field.default_factory is MISSING
            rule = "a dataclass with a default for each field"
            require(not bare, parameter, rule, f"`{name}` without one for `{field.name}`")
        return found  # type: ignore[no-any-return]


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def imported(path: str, parameter: str) -> Any:
    """The object that `module:name` stands for; the module may lie in the working directory. This runs its code.

    Raises:
        Invalid: it cannot be imported, whatever its code raises, or the module has no such name.
    """
    module, _, name = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return reduce(getattr, name.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as e:
        raise Invalid(parameter, "an importable `module:name`", f"`{path}` ({_told(e)})") from e


def _loaded(point: EntryPoint, parameter: str) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as e:
        raise Invalid(parameter, "a method that can be imported", f"`{point.name}`, {point.value} ({_told(e)})") from e


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def source_hash(found: object) -> str:
    """SHA-256 (hex) of the file that defines a class or function, and of the user's own modules that it imports.

    "" where it is stealguard's own or has no file.
    """
    hashes = [sha256(path) for path in own_files(str(getattr(found, "__module__", "")))]
    return fingerprint(hashes) if len(hashes) > 1 else "".join(hashes)
