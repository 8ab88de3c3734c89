"""Commands that are killed, and the data that they work on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from commands import Commands

from grids import write_sets


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    with closing(Commands()) as running:
        yield running


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of 200 images of 6 x 6 pixels, outliers and a pool, as npz files."""
    return write_sets(tmp_path_factory.mktemp("sets"), (1, 6, 6))
