"""What commands tell of rows beside the table."""

from __future__ import annotations

import pytest

from report.made_up import failed_row, make_row
from stealguard.cli.printing import RowsFailed, exit_if_failed


def test_reasons_of_skipped_rows_are_told_once_and_are_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    exit_if_failed([make_row(), *(failed_row(status="skip", reason="one account", seed=seed) for seed in (0, 1))])
    assert capsys.readouterr().err == "skipped: ini on mnist, knockoff: one account\n"


def test_reasons_of_failed_rows_come_last_with_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RowsFailed) as end:
        exit_if_failed([failed_row(reason="no memory"), failed_row(status="skip", reason="one account")])
    assert end.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "skipped: ini on mnist, knockoff: one account",
        "failed: ini on mnist, knockoff: no memory",
        "1 of 2 thefts failed; the same command tries them again",
    ]
