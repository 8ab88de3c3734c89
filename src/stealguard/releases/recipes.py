"""What a recipe holds, key by key: one whose hash is right may still have been written by anybody."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stealguard.data.reading import reading_of
from stealguard.data.scaling import Scaling
from stealguard.errors import Invalid, ReleaseError

LARGEST = 2**27  # numbers of one input
MOST = 2**20  # classes


class Form(NamedTuple):
    """What the value of a key should be, in words and as a test."""

    rule: str
    fits: Callable[[Any], bool]


def check(recipe: Mapping[str, Any], path: Path) -> None:
    """Raise `ReleaseError` unless every key has a value of its form; names the key, the rule and the value."""
    for key, form in FORMS.items():
        if key not in recipe or not form.fits(recipe[key]):
            found = repr(recipe[key])[:80] if key in recipe else "none"
            raise ReleaseError(f"`{path}` should hold `{key}`, {form.rule}. Found {found}.")
    for key, form in LATER.items():
        if not form.fits(recipe.get(key)):
            raise ReleaseError(f"`{path}` should hold `{key}`, {form.rule}. Found {recipe[key]!r:.80}.")
    names, classes = recipe["names"], recipe["classes"]
    if names and len(names) != classes:
        raise ReleaseError(f"`{path}` should hold a name for each of its {classes} classes. Found {len(names)}.")


def check_exports(exports: Any, path: Path) -> None:
    """Raise `ReleaseError` unless a report on exports has the form that `export` gives it; its files are beside it."""
    if not isinstance(exports, Mapping) or not all(map(_EXPORT, exports.values())):
        raise ReleaseError(f"`{path}` should tell of exports and of files beside it. Found a foreign report.")


def was_trained(recipe: Mapping[str, Any]) -> bool:
    """Whether the release has other weights than those that `protect` was given."""
    return recipe["training"].get("epochs") != 0


def validated(recipe: Mapping[str, Any]) -> float | None:
    """The net's own accuracy on the validation split, in [0, 1]; None where it was not measured."""
    if recipe["history"]:
        return recipe["history"][-1].get("validation")  # type: ignore[no-any-return]
    honest = recipe.get("honest") or {}
    return honest.get("served") if honest.get("alone") is None else honest["alone"]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any, low: int = 0, high: int = 2**63 - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _list(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(of, value))


def _object(**keys: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is a mapping that has these keys, with such values."""

    def fits(value: Any) -> bool:
        return isinstance(value, Mapping) and all(key in value and form(value[key]) for key, form in keys.items())

    return fits


def _shape(value: Any) -> bool:
    sizes = isinstance(value, list) and bool(value) and all(_whole(size, 1) for size in value)
    return sizes and math.prod(value) <= LARGEST


def _scaling(value: Any) -> bool:
    try:
        return value is None or bool(Scaling.of(value))
    except (Invalid, OverflowError):
        return False


def _data(value: Any) -> bool:
    try:
        reading_of(value.get("reading") if isinstance(value, Mapping) else None)
    except Invalid:
        return False
    return _object(name=_text, train_sha256=_text, test_sha256=_text)(value)


def _statistic(value: Any) -> bool:
    return value is None or (_list(_number)(value) and bool(value))


def _honest(value: Any) -> bool:
    """What `honest` measured."""
    if value is None:
        return True
    numbers = (
        all(value.get(name) is None or _number(value[name]) for name in (*MEASURED, "strictness"))
        if isinstance(value, Mapping)
        else False
    )
    points = _list(lambda point: isinstance(point, list) and len(point) == 4 and all(map(_number, point[:3])))
    pairs = _list(lambda pair: isinstance(pair, list) and len(pair) == 2 and all(map(_whole, pair)))
    known = numbers and None not in (value.get("served"), value.get("inputs")) and points(value.get("curve"))
    return known and pairs(value.get("by_class", []))  # which older recipes lack


def _epoch(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_number, value.values()))


def _class(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _file(value: Any) -> bool:
    """A name of a file in the same folder, or nothing."""
    return _text(value) and Path(value).name == value


def _measured(value: Any) -> bool:
    """A number, which a comparison that failed may not be."""
    return isinstance(value, float | int)


def _packages(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_text, value.values()))


_PARITY = _object(inputs=_text, rows=_whole, largest=_measured, usual=_measured, top_1=_measured)
_PART = _object(
    file=_file, sha256=_text, outputs=_list(_text), read=_list(_text), reason=_text,
    parity=_list(lambda one: _PARITY(one) and len(one) == 5),
)  # fmt: skip
_EXPORT = _object(identity=_text, packages=_packages, heads=_PART, model=_PART)

_TEXT = Form("a text", _text)
_OBJECT = Form("a JSON object", _object())

FORMS: dict[str, Form] = {
    "net": _TEXT,
    "structure": _TEXT,
    "shape": Form(f"a list of positive sizes, at most {LARGEST:,} numbers together", _shape),
    "classes": Form(f"a whole number in 2 .. {MOST:,}", lambda value: _whole(value, 2, MOST)),
    "names": Form("a list of texts", _list(_text)),
    "classes_given": Form(
        "null, a whole number or a list of names", lambda value: value is None or _whole(value) or _list(_class)(value)
    ),
    "scaling": Form("null or bounds", _scaling),
    "data": Form("an object of texts, and how files are read", _data),
    "outliers": Form("a list of sets", _list(_object(name=_text, rows=_whole, held_out=_whole, sha256=_text))),
    "defense": Form("a name and settings", _object(name=_text, settings=_object())),
    "training": _OBJECT,
    "start": Form("null or a text", lambda value: value is None or _text(value)),
    "seed": Form("a whole number", lambda value: _whole(value, -(2**63))),
    "history": Form("a list of objects of numbers", _list(_epoch)),
    "created": _TEXT,
    "seconds": Form("a number of at least 0", lambda value: _number(value) and value >= 0),
    "weights_sha256": _TEXT,
}

MEASURED = "served", "inputs", "alone", "start", "first", "outliers", "refused", "chance"  # of what honest users get
LATER: dict[str, Form] = {  # null in recipes that are older than the key
    "mean": Form("null or a list of numbers", _statistic),
    "std": Form("null or a list of numbers", _statistic),
    "weights": Form(
        "null, or a file and its hash", lambda value: value is None or _object(file=_text, sha256=_text)(value)
    ),
    "frozen": Form(
        "null, or numbers of weights",
        lambda value: value is None or _object(weights=_whole, of=_whole, beside=_whole)(value),
    ),
    "honest": Form("null, or what honest users get", _honest),
}
