"""Progress is a bar on a terminal, one line elsewhere, and nothing when it is not wanted."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from stealguard.progress import bar, in_jupyter


def run(total: float | None, show: bool, size: bool = False) -> None:
    with bar("digging", total, show=show, size=size) as tick:
        for done in range(1, 6):
            tick(done, f"depth {done}" if done % 2 else "")


def test_without_a_terminal_there_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    run(5, show=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.strip() == "digging: 0 s  depth 5"


def test_without_a_terminal_lines_on_the_way_tell_the_rest(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("digging", 4, lines=0) as tick:
        tick(0, "2 running")
        tick(2, "1 running")
    first, second, last = capfd.readouterr().err.splitlines()
    assert first == "digging: 0 of 4 done, 2 running"
    assert second.startswith("digging: 2 of 4 done, 1 running, about 0 s left")
    assert last == "digging: 0 s  1 running"


@pytest.mark.parametrize(("total", "size"), [(5, False), (None, False), (5, True)])
def test_a_terminal_shows_a_bar(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, total: float | None, size: bool
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    run(total, show=True, size=size)
    err = capfd.readouterr().err
    assert "depth 5" in err
    assert ("5/5" in err) or size or total is None


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_in_titles_and_notes_are_shown_as_they_are(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    if terminal:
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("COLUMNS", "120")
    with bar("audit [/x]", 4, lines=0) as tick:
        tick(1, "pool [/y] [red]z :smile:")
    err = capfd.readouterr().err
    assert "audit [/x]" in err
    assert "pool [/y] [red]z :smile:" in err


def test_nothing_is_shown_when_it_is_not_wanted(capfd: pytest.CaptureFixture[str]) -> None:
    run(5, show=False)
    assert capfd.readouterr() == ("", "")


def test_a_kernel_is_known_by_its_shell_and_a_foreign_module_of_that_name_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class ZMQInteractiveShell: ...

    class Derived(ZMQInteractiveShell): ...

    module = ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", module)
    assert not in_jupyter()
    module.get_ipython = Derived  # type: ignore[attr-defined]
    assert in_jupyter()
    module.get_ipython = object  # type: ignore[attr-defined]
    assert not in_jupyter()
