"""What the commands share: types of options, and how settings are read."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from stealguard.errors import Invalid, StealguardError, require

Many = Annotated[list[str] | None, Parameter(consume_multiple=True)]
Numbers = Annotated[list[int] | None, Parameter(consume_multiple=True)]
Settings = Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True)]
Json = Annotated[bool, Parameter(name="--json")]


def settings(pairs: list[str] | None, parameter: str) -> dict[str, Any]:
    """`KEY=VALUE` pairs as settings; a dot in the key leads into settings within settings, values are read as YAML.

    >>> settings(["a=1", "b.c=x"], "set")
    {'a': 1, 'b': {'c': 'x'}}
    """
    from stealguard.settings import from_yaml

    read: dict[str, Any] = {}
    once = "KEY=VALUE, each setting once"
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        require(bool(key and equals), parameter, "KEY=VALUE", f"`{pair}`")
        *outer, last = key.split(".")
        inside = read
        for name in outer:
            inside = inside.setdefault(name, {})
            require(isinstance(inside, dict), parameter, once, f"`{pair}`")
        require(last not in inside, parameter, once, f"`{pair}`")
        try:
            inside[last] = from_yaml(text)
        except StealguardError as e:
            raise Invalid(parameter, "KEY=VALUE with a plain value", f"`{pair}`") from e
    return read


def numbers(text: str | None, parameter: str) -> list[float] | None:
    """Numbers that commas separate; None for None.

    >>> numbers("0.5,0.25", "mean")
    [0.5, 0.25]
    """
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as e:
        raise Invalid(parameter, "numbers that commas separate", f"`{text}`") from e


def check_labels_alone(labels: bool, top_k: int | None, digits: int | None) -> None:
    """Raise `Invalid` where answers would be labels, which have no probabilities that the other two could change."""
    for name, number in ("top-k", top_k), ("digits", digits):
        require(not labels or number is None, name, "left out with `--labels`, which tells no probability", number)


def use_threads(threads: int | None) -> None:
    """Let torch use that many processor threads."""
    if threads is not None:
        import torch

        require(1 <= threads <= 1_024, "threads", "at least 1 (and at most 1024)", threads)
        torch.set_num_threads(threads)
