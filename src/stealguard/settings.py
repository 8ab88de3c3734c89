"""Methods and their settings as data: a frozen dataclass <-> a name and a dict. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, TypeVar

import yaml

from stealguard.errors import Invalid, StealguardError, nearest, one_line, printable
from stealguard.registry import Registry

T = TypeVar("T")


def create(table: Registry[T], name: object, settings: Mapping[str, Any], parameter: str) -> T:
    """The method that `name` stands for (built in, an entry point's or `module:Class`), with these settings.

    Raises:
        Invalid: there is no such method or setting, or a value breaks its rule; names it.
    """
    return changed(table.find(name, parameter)(), settings, f"{parameter} {name}")


def describe(table: Registry[T], method: T) -> tuple[str, dict[str, Any]]:
    """The name of a method, as `create` takes it, and its settings."""
    return table.name_of(method), recorded(method)


def recorded(method: object) -> dict[str, Any]:
    """The settings of a dataclass, with fractions as floats: `trust=15` and `trust=15.0` are one setting.

    >>> from stealguard.defenses import HODA
    >>> recorded(HODA(delta=1)) == recorded(HODA(delta=1.0))
    True
    """
    usual = _usual(method)
    return {name: _number(value, usual[name]) for name, value in asdict(method).items()}  # type: ignore[call-overload]


def changed(method: T, settings: Mapping[str, Any], owner: str) -> T:
    """A copy of a frozen dataclass with some fields replaced.

    Raises:
        Invalid: `owner` has no such setting, or a value is of the wrong kind or breaks a rule of the dataclass.
    """
    known = {f.name: f for f in fields(method) if f.init}  # type: ignore[arg-type]
    for key in settings:
        if key not in known:
            rule = f"a setting of `{owner}`: {', '.join(known) or 'it has none'}"
            raise Invalid(str(key), rule, f"`{key}`{nearest(key, known)}")
    usual = _usual(method)
    values = {
        key: None if value is usual[key] is None else _fitting(key, value, getattr(method, key), owner)
        for key, value in settings.items()
    }
    try:
        return replace(method, **values)  # type: ignore[type-var]
    except StealguardError:
        raise
    except Exception as e:  # the rules of a dataclass that somebody else wrote
        raise Invalid(owner, "given settings that it can take", f"{values} ({one_line(e)})") from e


def _usual(method: object) -> dict[str, Any]:
    return {field.name: field.default for field in fields(method)}  # type: ignore[arg-type]


def _fitting(key: str, value: Any, default: Any, owner: str) -> Any:
    """The value for a field with this default: settings within settings may be given as a dict."""
    if is_dataclass(default) and isinstance(value, Mapping):
        return changed(default, value, f"{owner}.{key}")
    value = _number(value, default)
    if not _same_kind(value, default):
        raise Invalid(key, f"of the kind of {default!r}", repr(value))
    return tuple(value) if isinstance(value, list) else value


def _number(value: Any, default: Any) -> Any:
    """The number of a field that holds one: YAML 1.1 reads `1e-3` as text, and `2` for a fraction as a whole number."""
    wanted = isinstance(default, int | float) and not isinstance(default, bool)
    if not wanted or isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    if isinstance(default, int) and isinstance(value, int):
        return value
    with suppress(ValueError, OverflowError):
        number = float(value)
        return int(number) if isinstance(default, int) and number.is_integer() else number
    return value


def _same_kind(value: Any, default: Any) -> bool:
    if default is None or value is None:
        return default is None or isinstance(default, str)
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    return isinstance(value, list | tuple) if isinstance(default, tuple) else isinstance(value, type(default))


# YAML -------------------------------------------------------------------------------------------------------

LONGEST = 100_000  # characters of one text: more take many seconds to parse
MOST = 100_000  # values of one text: a few lines of aliases can stand for more than any memory holds


def from_yaml(text: str) -> Any:
    """The value of a YAML text, as plain data.

    Raises:
        StealguardError: the text cannot be read; says why in one line.

    >>> from_yaml("{epochs: 3, own: [0, 20]}")
    {'epochs': 3, 'own': [0, 20]}
    """
    try:
        if len(text) > LONGEST:
            raise StealguardError(f"This YAML has {len(text):,} characters, and at most {LONGEST:,} are read")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        size = _size(node, {})
        if size > MOST:
            raise StealguardError(f"This YAML stands for {size} values, and at most {MOST} are read")
        return loader.construct_document(node)
    except StealguardError:
        raise
    except RecursionError as e:
        raise StealguardError("This YAML is nested too deeply") from e
    except Exception as e:  # a tag such as `!!int x` makes the loader raise whatever its conversion raises
        raise StealguardError(f"This is not YAML: {one_line(e)}") from e


def _check_keys(node: Any) -> None:
    """Raise `StealguardError` where a mapping has a key twice: YAML forbids that, and the loader takes the last one."""
    known = set[tuple[str, str]]()
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        if (key.tag, key.value) in known:
            raise StealguardError(
                f"This YAML has the key `{printable(key.value)}` twice, again in line {key.start_mark.line + 1}"
            )
        known.add((key.tag, key.value))


def _size(node: Any, known: dict[int, float]) -> float:
    """How many values a node stands for, aliases written out; infinite for one that contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for entry in inside for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
