"""The report in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from browsing import Browser
from report.made_up import RELEASES, UNMEASURED, audited, failed_row, grid
from stealguard import report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    failed = failed_row(attack="jbda", budget=150, reason="the box gave up", **RELEASES["ini"] | UNMEASURED)
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write_html([*audited(seeds=3), failed], path, command="stealguard demo")
    return path


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_quiet_asks_for_nothing_and_fits(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width, scheme)
    assert browser.complaints == []
    assert browser.requests == []
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('figure svg').length") == 2


def test_what_the_tests_above_look_for_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'><title>bad</title>"
        "<div style='width:900px'>wide</div><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.warn('careful'); fetch('http://127.0.0.1:9/y').catch(() => 0); nonsense()</script>"
    )
    browser.open(bad, 390)
    assert any("careful" in complaint for complaint in browser.complaints)
    assert any("nonsense is not defined" in complaint for complaint in browser.complaints)
    assert {"http://127.0.0.1:9/x.png", "http://127.0.0.1:9/y"} <= set(browser.requests)
    assert browser.run("document.documentElement.scrollWidth") > 390


def test_a_click_on_a_heading_sorts(browser: Browser, page: Path) -> None:
    browser.open(page)
    click = "document.querySelectorAll('#cells thead button')[{}].click()"
    column = "[...document.querySelectorAll('#cells tbody tr')].map(row => row.cells[{}].textContent.trim())"
    browser.run(click.format(5))
    values = [float(text.split()[0].split("±")[0]) for text in browser.run(column.format(5)) if text[0].isdigit()]
    assert values == sorted(values)
    assert len(values) == 4
    assert browser.run("document.querySelectorAll('#cells th')[5].getAttribute('aria-sort')") == "ascending"
    assert not browser.run(column.format(5))[-1][0].isdigit()  # what has no number stays at the end
    browser.run(click.format(5))
    assert [float(text.split()[0]) for text in browser.run(column.format(5))[:4]] == values[::-1]
    browser.run(click.format(1))
    pools = browser.run(column.format(1))
    assert pools == sorted(pools)
    assert browser.complaints == []


def test_both_color_schemes_can_be_read(browser: Browser, page: Path) -> None:
    """Contrast of 4.5 or more (WCAG AA) of the text and of the drawings' labels on what is behind them."""
    for scheme in ("light", "dark"):
        browser.open(page, scheme=scheme)
        paper = luminance(browser.run("getComputedStyle(document.body).backgroundColor"))
        for selector in (
            "h1",
            ".muted",
            ".notes",
            "figure svg text",
            ".badge.mixed",
            ".s0",
            ".legend",
            ".rankings, .cards",
        ):
            ink = browser.run(
                f"(e => [getComputedStyle(e).color, getComputedStyle(e).fill])(document.querySelector('{selector}'))"
            )
            color = luminance(ink[1 if "svg" in selector else 0])
            assert (max(color, paper) + 0.05) / (min(color, paper) + 0.05) >= 4.5, (scheme, selector)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets, fourteen settings on each, twelve attacks."""
    path = tmp_path_factory.mktemp("grid") / "grid.html"
    report.write_html(grid(victims=2, seeds=2), path, command="stealguard report grid.sqlite")
    return path


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_grid_is_quiet_and_fits(browser: Browser, wide: Path, width: int, scheme: str) -> None:
    browser.open(wide, width, scheme)
    assert (browser.complaints, browser.requests) == ([], [])
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelectorAll('figure svg').length") == 8
    assert browser.run("document.querySelectorAll('#cells thead th').length") == 4 + 28


def seen(browser: Browser, selector: str) -> list[str]:
    """The texts of those elements that take room on the page."""
    visible = f"[...document.querySelectorAll('{selector}')].filter(e => e.getClientRects().length)"
    return browser.run(f"{visible}.map(e => e.textContent.trim())")


def choose(browser: Browser, **values: str) -> None:
    for name, value in values.items():
        browser.run(
            f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
            f"(document.querySelector('#filters [name={name}]'))"
        )


def test_filters_leave_what_fits(browser: Browser, wide: Path) -> None:
    browser.open(wide)
    heads, rows, settings = "#cells thead th[data-g]", "#cells tbody tr", "#settings tbody th"
    assert (len(seen(browser, heads)), len(seen(browser, rows)), len(seen(browser, settings))) == (28, 12, 28)
    marks = len(seen(browser, "figure .tip"))
    choose(browser, data="mnist", defense="mad")
    named = [f"mad epsilon={epsilon} · mnist" for epsilon in (0.1, 0.5, 1.0, 1.5)]
    assert seen(browser, heads) == named
    assert len(seen(browser, f"{rows}:first-child td.c")) == 4
    assert len(seen(browser, "figure")) == 4
    assert 0 < len(seen(browser, "figure .tip")) < marks / 6
    choose(browser, attack="jbda", labels="hard")
    assert len(seen(browser, rows)) == 2
    assert seen(browser, "#filters output") == ["4 of 28 settings, 2 of 12 attacks"]
    choose(browser, data="", defense="", attack="", labels="", words="Reverse letters mnist")
    assert all("reverse-sigmoid" in name for name in seen(browser, heads))
    assert len(seen(browser, rows)) == 4
    choose(browser, words="nowhere")
    assert (seen(browser, heads), seen(browser, rows)) == ([], [])
    choose(browser, words="")
    assert (len(seen(browser, heads)), len(seen(browser, rows)), len(seen(browser, "figure .tip"))) == (28, 12, marks)
    assert browser.complaints == []


def press(browser: Browser, key: str) -> None:
    text = {"text": "\r"} if key == "Enter" else {}
    code = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}[key]
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)


def test_the_keyboard_sorts(browser: Browser, wide: Path) -> None:
    browser.open(wide)
    browser.run("document.querySelectorAll('#settings thead button')[3].focus()")
    script = "[...document.querySelectorAll('#settings tbody tr')].map(row => row.cells[3].dataset.v ?? '')"
    for direction in ("ascending", "descending"):
        press(browser, "Enter")
        *numbers, first_missing, second_missing = browser.run(script)
        assert (first_missing, second_missing) == ("", "")  # the undefended stay at the end
        assert [*map(float, numbers)] == sorted(map(float, numbers), reverse=direction == "descending")
        assert browser.run("document.querySelectorAll('#settings th')[3].getAttribute('aria-sort')") == direction


def test_arrows_walk_in_the_matrix_and_a_cell_tells_more(browser: Browser, wide: Path) -> None:
    browser.open(wide)
    assert browser.run("document.querySelectorAll('#cells td[tabindex=\"0\"]').length") == 1
    browser.run("document.querySelector('#cells td[tabindex=\"0\"]').focus()")
    told = "document.getElementById('told').textContent"
    first = browser.run(told)
    assert first.startswith("undefended · fashion-mnist, jbda, own:150, soft: ")
    press(browser, "ArrowRight")
    press(browser, "ArrowDown")
    second = browser.run(told)
    assert second.startswith("adaptive-misinformation tau=0.3 · fashion-mnist, jbda, own:150, soft: ")
    for part in ("95 % interval over victims", "agrees", "2 victims, 4 clones", "points to undefended (2 pairs)"):
        assert part in second
    press(browser, "ArrowLeft")
    press(browser, "ArrowLeft")  # at the edge nothing happens
    assert browser.run(told).startswith("undefended · fashion-mnist")
    press(browser, "Escape")
    assert browser.run(told) == ""
    browser.run("document.querySelector('figure .tip use').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert "benign" in browser.run(told)
    assert browser.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_matrix_can_be_read_at_its_hottest(browser: Browser, wide: Path, scheme: str) -> None:
    browser.open(wide, scheme=scheme)
    browser.run("document.querySelector('#cells td.c').style.setProperty('--v', 100)")
    paint = """(cell => {
      const canvas = document.createElement('canvas').getContext('2d');
      return ['backgroundColor', 'color'].map(name => {
        canvas.fillStyle = getComputedStyle(cell)[name];
        canvas.fillRect(0, 0, 1, 1);
        return `rgb(${[...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).join(',')})`;
      });
    })(document.querySelector('#cells td.c'))"""
    paper, ink = map(luminance, browser.run(paint))
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5


def luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    shares = [int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
