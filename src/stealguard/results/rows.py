"""Rows together: what audits, comparisons and files give. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from stealguard.errors import StealguardError
from stealguard.results import html
from stealguard.results.row import Row, to_records

if TYPE_CHECKING:
    import pandas

SHOWN = 50  # rows that a notebook shows


class Rows(list[Row]):
    """A list of rows, which a notebook shows as a table.

    >>> Rows().to_records()
    []
    """

    def __add__(self, more: Iterable[Row]) -> Rows:  # type: ignore[override]
        return Rows([*self, *more])

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> Row: ...
    @overload
    def __getitem__(self, places: slice, /) -> Rows: ...
    def __getitem__(self, place: SupportsIndex | slice, /) -> Row | Rows:
        found = super().__getitem__(place)
        return Rows(found) if isinstance(place, slice) else found  # type: ignore[arg-type, return-value]

    def to_records(self) -> list[dict[str, Any]]:
        """A flat dict a row, all with the same keys: see `to_records`."""
        return to_records(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a line a row and the columns of `to_records`; accuracies are fractions.

        Raises:
            StealguardError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as e:
            raise StealguardError(f"Data frames need pandas: pip install 'stealguard[pandas]' ({e}).") from e
        return pandas.DataFrame.from_records(self.to_records())

    def _repr_html_(self) -> str:
        more = f"the first {SHOWN} of {len(self):,} rows" if len(self) > SHOWN else ""
        return html.table([name for name, _ in COLUMNS], map(_texts, self[:SHOWN]), more)


COLUMNS = [
    ("victim", lambda row: row.victim.name),
    ("defense", lambda row: row.victim.defense or "unknown"),
    ("attack", lambda row: row.attack),
    ("pool", lambda row: row.pool + ("*" if row.in_family else "")),
    ("labels", lambda row: row.labels),
    ("treatment", lambda row: row.treatment),
    ("accounts", lambda row: f"{row.accounts:,}"),
    ("answers", lambda row: f"{row.queries:,}"),
    ("clone accuracy", lambda row: html.percent(row.clone_accuracy) if row.status == "ok" else row.status),
    ("renamed", lambda row: html.percent(row.renamed_accuracy)),
    ("benign accuracy", lambda row: html.percent(row.benign_accuracy)),
    ("chance", lambda row: html.percent(row.chance)),
]


def _texts(row: Row) -> list[str]:
    return [text(row) for _, text in COLUMNS]
