"""How files become inputs: the size of pictures, the columns of tables. A release keeps it, so that audits read alike.

Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stealguard.errors import Invalid, require

Way = Literal["crop", "pad", "stretch"]
WAYS: tuple[Way, ...] = get_args(Way)
LARGEST = 4096  # pixels of a side


@dataclass(frozen=True)
class Fit:
    """The one size that pictures of all sizes are brought to.

    Args:
        size: height and width in pixels, or one number for both.
        way: `crop` (the shorter side is resized, and the center is cut out), `pad` (the longer side is resized, and
            the rest is black) or `stretch` (both sides are resized). All are antialiased.
        channels: 1 for gray, 3 for color; color if any picture is in color, where None.

    Raises:
        Invalid: a size is no positive number, or the way is unknown.

    >>> Fit(224).size
    (224, 224)
    """

    size: int | tuple[int, int]
    way: Way = "crop"
    channels: int | None = None

    def __post_init__(self) -> None:
        given = self.size
        sides = (given, given) if isinstance(given, int) else tuple(given) if isinstance(given, tuple | list) else ()
        whole = len(sides) == 2 and all(isinstance(n, int) and 1 <= n <= LARGEST for n in sides)
        require(whole, "size", f"a number of pixels in 1 .. {LARGEST}, or (height, width)", given)
        require(self.way in WAYS, "fit", f"one of {', '.join(WAYS)}", f"`{self.way}`")
        require(self.channels in (None, 1, 3), "channels", "1 or 3", self.channels)
        object.__setattr__(self, "size", sides)

    @property
    def height(self) -> int:
        return self.size[0]  # type: ignore[index]

    @property
    def width(self) -> int:
        return self.size[1]  # type: ignore[index]

    def state(self) -> dict[str, Any]:
        """What `reading_of` takes, as JSON data."""
        return {"size": [self.height, self.width], "fit": self.way, "channels": self.channels}


@dataclass(frozen=True)
class Columns:
    """The columns of a table and what they become: a number each, or one number of 0 or 1 for each category.

    Args:
        columns: the names in their order, each with its categories in order, or with none where it holds numbers.
        target: the column that holds the classes.
    """

    columns: tuple[tuple[str, tuple[str, ...]], ...]
    target: str

    @property
    def width(self) -> int:
        """D, the numbers of an input."""
        return sum(max(1, len(categories)) for _, categories in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the D numbers is: a column's name, or `name=category`.

        >>> Columns((("age", ()), ("job", ("cook", "pilot"))), "income").names
        ('age', 'job=cook', 'job=pilot')
        """
        named = ([f"{name}={word}" for word in words] if words else [name] for name, words in self.columns)
        return tuple(name for names in named for name in names)

    def state(self) -> dict[str, Any]:
        """What `reading_of` takes, as JSON data."""
        return {"columns": [[name, list(words)] for name, words in self.columns], "target": self.target}


Reading = Fit | Columns


def reading_of(state: Mapping[str, Any] | None) -> Reading | None:
    """The reading that `state` came from; None for None.

    Raises:
        Invalid: `state` is neither that of a `Fit` nor that of `Columns`.
    """
    if state is None:
        return None
    try:
        if "size" in state:
            return Fit(tuple(state["size"]), state["fit"], state["channels"])
        return Columns(tuple((name, tuple(words)) for name, words in state["columns"]), state["target"])
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid("reading", "the size of pictures or the columns of a table", state) from error


def fitted(size: int | tuple[int, int] | None, way: str | None, mean: float | Sequence[float] | None) -> Fit | None:
    """The fit that `size` and `way` ask for; in color where `mean` has three numbers.

    Raises:
        Invalid: one of them breaks its rule, or there is a way without a size.
    """
    if size is None:
        require(way is None, "fit", "left out without `size`", f"`{way}`")
        return None
    colors = mean is not None and not isinstance(mean, int | float) and len(mean) == 3
    return Fit(size, "crop" if way is None else way, 3 if colors else None)  # type: ignore[arg-type]
