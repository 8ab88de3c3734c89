"""The page at `/` in a real browser, over a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import torch
from PIL import Image

import stealguard as sg
from browsing import Browser
from served import running
from stealguard.serving.app import Application
from stealguard.serving.engine import TorchEngine
from stealguard.serving.keys import Restriction, new_key
from stealguard.serving.ledger import open_ledger
from stealguard.serving.page import document
from stealguard.serving.page.routes import page_routes
from stealguard.serving.service import Service

pytestmark = pytest.mark.browser

MEANING = "The class is what counts."


class Page(NamedTuple):
    url: str
    user: str
    owner: str
    labels: str


@pytest.fixture(scope="module")
def page(ini_release: sg.Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    ledger = open_ledger(str(tmp_path_factory.mktemp("page") / "ledger.sqlite"))
    keys = [new_key("ann", Restriction(digits=2), budget=50), new_key("owner", owner=True)]
    keys.append(new_key("bob", Restriction(labels=True)))
    for key, _ in keys:
        ledger.keys.add_key(key)
    service = Service(ini_release, TorchEngine(ini_release), name="digits")
    service.spec = service.spec._replace(confidence=MEANING)  # as of a defense whose probabilities are constant
    services = {("digits", "1"): service}
    with running(Application(services, ledger, routes=page_routes(services, ledger))) as server:
        yield Page(f"http://127.0.0.1:{server.port}/", *(token for _, token in keys))


def until(browser: Browser, condition: str) -> None:
    browser.run(f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 20); look(); }})")


def text(browser: Browser, selector: str) -> str:
    return browser.run(f"document.querySelector({selector!r}).textContent")


def enter(browser: Browser, page: Page, token: str, width: int = 1280, scheme: str = "light") -> None:
    browser.open(page.url, width, scheme)
    browser.run(f"document.getElementById('key').value = '{token}'; document.querySelector('form button').click()")
    until(browser, "!document.getElementById('connected').hidden || document.getElementById('told').textContent")


def ask(browser: Browser) -> None:
    browser.run("document.getElementById('bars').replaceChildren(); document.getElementById('send').click()")
    until(browser, "!document.getElementById('send').disabled && document.querySelector('#bars li, #told.bad')")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_answer_is_shown_without_a_complaint_and_fits(browser: Browser, page: Page, width: int, scheme: str) -> None:
    enter(browser, page, page.owner, width, scheme)
    ask(browser)
    assert browser.run("document.querySelectorAll('#bars li').length") == 10
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    assert all(url.startswith(page.url) for url in browser.requests)


def test_the_shown_answer_is_the_release_s(browser: Browser, page: Page, ini_release: sg.Release) -> None:
    enter(browser, page, page.owner)
    ask(browser)
    (row,) = ini_release.connect()(torch.zeros(1, *ini_release.shape))
    name, share = browser.run("[...document.querySelectorAll('#bars li:first-child span')].map(e => e.textContent)")[
        ::2
    ]
    assert (name, share) == (str(row.argmax().item()), f"{100 * row.max().item():.1f} %")


def test_what_a_probability_says_stands_beside_the_answer_unless_the_key_gets_labels(
    browser: Browser, page: Page
) -> None:
    enter(browser, page, page.owner)
    assert text(browser, "#meaning:not([hidden])") == MEANING
    enter(browser, page, page.labels)
    assert browser.run("document.getElementById('meaning').hidden")


def test_each_answer_is_counted_and_the_budget_is_shown(browser: Browser, page: Page) -> None:
    enter(browser, page, page.user)
    used = int(text(browser, "#account dd:nth-of-type(2)"))
    ask(browser)
    assert int(text(browser, "#account dd:nth-of-type(2)")) == used + 1
    assert int(text(browser, "#account dd:nth-of-type(3)")) == 50 - used - 1
    assert text(browser, "#account dd:last-of-type") == "2 decimal digits"


def test_strokes_reach_the_model(browser: Browser, page: Page) -> None:
    enter(browser, page, page.owner)
    assert browser.run("Math.max(...pixels())") == 0
    browser.run(
        "(() => { const box = canvas.getBoundingClientRect(); canvas.setPointerCapture = () => {};"
        "for (const [kind, x, y] of [['down', .2, .2], ['move', .8, .8], ['up', .8, .8]])"
        " canvas.dispatchEvent(new PointerEvent('pointer' + kind,"
        " {clientX: box.left + x * box.width, clientY: box.top + y * box.height})); })()"
    )
    assert browser.run("Math.max(...pixels())") == 1
    browser.run("document.getElementById('clear').click()")
    assert browser.run("Math.max(...pixels())") == 0


def test_a_picture_is_fitted_to_the_input(browser: Browser, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "white.png"
    Image.new("RGB", (90, 50), "white").save(path)
    enter(browser, page, page.owner)
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
    until(browser, "Math.min(...pixels()) > .99")


def test_a_wrong_key_is_told_and_shows_nothing(browser: Browser, page: Page) -> None:
    enter(browser, page, page.user[:-1] + ("0" if page.user[-1] != "0" else "1"))
    assert "needs a key" in text(browser, "#told")
    assert browser.run("document.getElementById('connected').hidden")


def test_only_an_owner_sees_the_accounts(browser: Browser, page: Page) -> None:
    enter(browser, page, page.user)
    assert browser.run("document.getElementById('owner').hidden")
    enter(browser, page, page.owner)
    assert not browser.run("document.getElementById('owner').hidden")
    status = f"""fetch('stealguard/suspicion/digits/versions/1', {{headers: {{Authorization: 'Bearer {page.user}'}}}})
        .then(response => response.status)"""
    assert browser.run(status) == 403


def test_the_policy_allows_no_script_but_the_page_s_own(browser: Browser, page: Page) -> None:
    browser.open(page.url)
    browser.run("(() => { const s = document.createElement('script'); s.textContent = 'window.evil = 1';"
                "document.body.append(s); })()")  # fmt: skip
    assert browser.run("typeof window.evil") == "undefined"
    _, headers = document()
    assert "default-src 'none'" in headers["content-security-policy"]


def test_every_route_of_the_page_but_itself_needs_a_key(page: Page) -> None:
    paths = [f"stealguard/{what}/digits/versions/1" for what in ("account", "card", "suspicion")]
    assert [httpx.get(page.url + path).status_code for path in ("", *paths)] == [200, 401, 401, 401]
