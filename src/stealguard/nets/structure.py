"""The identity of an architecture."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from stealguard.identity import fingerprint, is_own
from stealguard.nets.copying import tensors

_SIMPLE = (bool, int, float, str, type(None))


def structure(net: nn.Module) -> str:
    """SHA-256 (hex) of what an architecture is, whatever its weights.

    Made of the names, settings and classes of all parts, the names, shapes and dtypes of all tensors, and the source
    text of every class that is not torch's or stealguard's own, with the functions, classes and plain settings of the
    user's own modules that it uses: two nets of one class name whose forward passes differ
    have different structures. Compare nets as they were built: an attribute that training changes counts.

    Example:
        >>> sg.nets.structure(nn.Linear(2, 3)) == sg.nets.structure(nn.Linear(2, 3))
        True
    """
    parts = {name: _part(part) for name, part in net.named_modules()}
    state = {name: [list(t.shape), str(t.dtype)] for name, t in tensors(net).items()}
    own = {kind for part in net.modules() for kind in type(part).__mro__ if _is_users(kind)}
    code = sorted([_name(kind), _code(kind)] for kind in own)
    used: dict[str, Any] = {}
    for kind in own:
        _use(kind, used)
    helpers = {name: used[name] for name in used.keys() - {_place(kind) for kind in own}}
    return fingerprint({"parts": parts, "state": state, "code": code} | ({"helpers": helpers} if helpers else {}))


def _part(part: nn.Module) -> list[Any]:
    """A part's class, its own description, and the plain settings of a user's class."""
    settings = {k: v for k, v in vars(part).items() if k not in ("training", "_made_by") and isinstance(v, _SIMPLE)}
    described = re.sub(r" at 0x[0-9a-f]+", "", part.extra_repr())
    return [_name(type(part)), described, repr(sorted(settings.items())) if _is_users(type(part)) else ""]


def _is_users(kind: type) -> bool:
    return kind is not object and kind.__module__.partition(".")[0] not in ("torch", "stealguard", "abc", "typing")


def _name(kind: type) -> str:
    return kind.__qualname__ if _is_users(kind) else f"{kind.__module__}.{kind.__qualname__}"


def _code(kind: type) -> list[list[str]]:
    """The source of every function of a class, and its plain settings, by name."""
    found = []
    for name, value in sorted(vars(kind).items()):
        function = _function(value)
        if function is not None:
            found.append([name, _source(function)])
        elif isinstance(value, _SIMPLE) and name not in ("__module__", "__qualname__", "__doc__", "__firstlineno__"):
            found.append([name, repr(value)])
    return found


def _function(value: object) -> FunctionType | None:
    """The function that a method, a property or a decorated function is."""
    function = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)))  # type: ignore[arg-type]
    return function if inspect.isfunction(function) else None


def _use(code: type | FunctionType, used: dict[str, Any]) -> None:
    """Add to `used`, by their places, the texts of a class or a function of the user's own and of what it uses."""
    if _place(code) in used or not _is_own(code.__module__ or ""):
        return
    used[_place(code)] = _code(code) if isinstance(code, type) else _source(code)
    functions = [code] if isinstance(code, FunctionType) else [f for f in map(_function, vars(code).values()) if f]
    for function in functions:
        names = _names(function.__code__)
        for name in sorted(names & function.__globals__.keys()):
            value = function.__globals__[name]
            found = {f"{function.__module__}:{name}": value}
            if isinstance(value, ModuleType) and _is_own(value.__name__):
                found = {f"{value.__name__}:{part}": vars(value)[part] for part in sorted(names & vars(value).keys())}
            for place, one in found.items():
                if isinstance(one, type | FunctionType):
                    _use(one, used)
                elif isinstance(one, _SIMPLE) and not place.rpartition(":")[2].startswith("__"):
                    used[place] = repr(one)


def _place(code: type | FunctionType) -> str:
    return f"{code.__module__}:{code.__qualname__}"


def _is_own(name: str) -> bool:
    return is_own(name, getattr(sys.modules.get(name), "__file__", None) or "")


def _names(code: CodeType) -> set[str]:
    """The names that a function uses, also in functions within it."""
    return set(code.co_names).union(*(_names(part) for part in code.co_consts if isinstance(part, CodeType)))


def _source(function: Callable[..., Any]) -> str:
    """A function's source text; its compiled form, where it was not read from a file."""
    try:
        return inspect.cleandoc(inspect.getsource(function))
    except (OSError, TypeError):
        return repr(_compiled(function.__code__))


def _compiled(code: CodeType) -> list[Any]:
    constants = [_compiled(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names)]
