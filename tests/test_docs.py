"""The pages of the documentation say what rows and code say, and what they show runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from benchmarks import leaderboard

from browsing import Browser
from stealguard import nets
from stealguard.attacks import ATTACKS
from stealguard.attacks.base import Attack
from stealguard.boxes import Accounts, Metered
from stealguard.defenses import DEFENSES
from stealguard.errors import Refused
from waiting import until

HOME = Path(__file__).parent.parent
DOCS = HOME / "docs"


def module(path: str) -> ModuleType:
    """A script of the documentation, imported from its file."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, HOME / path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.no_cover
@pytest.mark.parametrize("task", ["mnist", "fashion-mnist"])
def test_the_leaderboard_is_computed_from_committed_rows(task: str) -> None:
    assert leaderboard.table(task) in (DOCS / "leaderboard.md").read_text()


@pytest.mark.no_cover
def test_no_line_of_the_leaderboard_costs_more_than_a_point_and_the_undefended_net_is_last() -> None:
    found = leaderboard.entries("mnist")
    assert max(entry.loss for entry in found) <= leaderboard.POINT
    assert [entry.defense for entry in found].index("none") == len(found) - 1
    assert {entry.accounts for entry in found if entry.defense == "ini-robust"} == {"1", "10", "100", "1,000", "20,000"}


def test_a_line_without_its_own_counters_is_not_called_adaptive() -> None:
    missing = {
        task: {entry.defense: set(entry.missing) for entry in leaderboard.entries(task)}
        for task in ("mnist", "fashion-mnist")
    }
    assert "accounts" in missing["fashion-mnist"]["hoda milder"]
    assert missing["mnist"]["ini isolation alone"] == {"explore"}
    assert missing["mnist"]["ini"] == missing["mnist"]["top-k"] == set()


def test_more_accounts_never_leave_less_to_the_attacker() -> None:
    found = leaderboard.entries("mnist")
    for defense in ("ini-robust", "hoda", "d-add"):
        of_defense = [entry for entry in found if entry.defense == defense]
        rising = sorted(of_defense, key=lambda entry: int(entry.accounts.replace(",", "")))
        assert [entry.worst.mean for entry in rising] == sorted(entry.worst.mean for entry in rising)


def test_the_figures_of_concepts_are_drawn_from_committed_rows() -> None:
    figures = module("docs/site/figures.py")
    for name, draw in figures.DRAWINGS.items():
        assert draw() == (figures.FIGURES / f"{name}.svg").read_text(), name


def test_the_text_beside_the_figure_of_adaptive_attackers_has_its_numbers() -> None:
    reached = {
        name: f"{100 * spread.mean:.1f} %" for name, spread, _ in module("docs/site/figures.py").without_memory()
    }
    untold = [name for name in reached if not name.startswith("told")]
    text = " ".join((HOME / "docs/concepts/adaptive.md").read_text().split())
    assert f"gets {reached['knockoff, soft']} with soft answers and {reached['knockoff, hard']} with labels" in text
    assert untold[-1] == "own-form, soft"
    assert f"(`own-form`) gets {reached[untold[-1]]}, and one who is told" in text
    assert f"(`told explore`) {reached['told explore, hard']}." in text


def examples_of(path: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (HOME / path).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("path", ["CONTRIBUTING.md", "docs/guides/own-attack.md"])
def test_the_attack_that_a_page_adds_in_twenty_lines_steals(path: str) -> None:
    (code,) = examples_of(path)
    body = code[code.index("@dataclass") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20
    space: dict[str, type[Attack]] = {"__name__": __name__}  # type: ignore[dict-item]
    exec(compile(code, path, "exec", dont_inherit=True), space)
    attack = space["Blends"](budget=400)  # type: ignore[call-arg]
    torch.manual_seed(0)
    pool, victim = torch.rand(300, 8), torch.nn.Linear(8, 3)
    box = Metered(lambda x: victim(x).softmax(dim=1).detach(), attack.budget)
    clone = attack(box, pool, nets.build("mlp", pool, 3, seed=0), seed=0)
    with torch.no_grad():
        agreement = (clone(pool).argmax(dim=1) == victim(pool).argmax(dim=1)).float().mean()
    assert box.spent == 400
    assert agreement > 0.6


def test_the_defense_of_the_guide_keeps_answers_on_the_simplex() -> None:
    code, _ = examples_of("docs/guides/own-defense.md")
    space: dict[str, object] = {"__name__": __name__}
    exec(compile(code, "own-defense", "exec", dont_inherit=True), space)
    net = torch.nn.Linear(4, 3)
    rule = space["Tempered"]().guard(net, torch.rand(2, 4))  # type: ignore[operator]
    assert rule.rule(torch.tensor([[0.7, 0.2, 0.1]])).sum().item() == pytest.approx(1)


def test_the_guard_of_the_guide_refuses_an_account_beyond_its_limit() -> None:
    _, code = examples_of("docs/guides/own-defense.md")
    space: dict[str, object] = {"__name__": __name__}
    exec(compile(code, "own-defense", "exec", dont_inherit=True), space)
    net = torch.nn.Linear(4, 3)
    guard = space["Limited"](most=3).guard(net, torch.rand(2, 4))  # type: ignore[operator]
    accounts = Accounts({"logits": net}, guard, (4,))
    ann = accounts.connect("ann")
    for x, left in (torch.rand(5, 4), 3), (torch.rand(4, 4), 3):
        with pytest.raises(Refused) as refusal:
            ann(x)
        assert refusal.value.left == left, "what was refused is not counted"
    assert len(ann(torch.rand(3, 4))) == len(accounts.connect("bob")(torch.rand(3, 4))) == 3


def test_every_page_is_in_the_navigation_and_every_target_is_there() -> None:
    text = (HOME / "mkdocs.yml").read_text()
    named = set(re.findall(r": ([\w/.-]+\.md)$", text, flags=re.MULTILINE))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert pages <= named
    for page in named - pages:
        assert page.startswith(("reference/", "project/")) or page == "index.md", page


@pytest.mark.parametrize("form", sorted((HOME / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_forms_are_yaml_with_fields(form: Path) -> None:
    values = yaml.safe_load(form.read_text())
    assert values.keys() & {"body", "blank_issues_enabled"}


@pytest.fixture(scope="module")
def site(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The site, as `make docs` builds it."""
    pytest.importorskip("mkdocs")

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
        done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return once("site", make)


@pytest.mark.long
@pytest.mark.thorough
def test_the_site_is_built_strictly_and_its_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = {str(path.relative_to(site)): path.read_text() for path in site.rglob("*.html")}
    tags = [tag for text in pages.values() for tag in re.findall(r"<(?:script|link|img|iframe)[^>]*>", text)]
    assert len(tags) > len(pages)
    assert [tag for tag in tags if re.search(r'(?:src|href)="?https?:', tag)] == []
    assert "accounts-to-reach" in pages["reference/cli.html"]
    assert "<math" in pages["concepts/ini.html"]
    assert not re.search(r"klzzwxh", "".join(pages.values())), "a formula has signs that Markdown took"


@pytest.mark.thorough
def test_the_site_names_every_method_with_its_settings(site: Path) -> None:
    attacks, defenses = ((site / f"reference/{kind}.html").read_text() for kind in ("attacks", "defenses"))
    assert all(f'id="{name}"' in attacks for name in ATTACKS)
    assert all(f'id="{name}"' in defenses for name in DEFENSES)
    assert all(f"<code>{field.name}</code>" in defenses for field in fields(DEFENSES["ini-robust"]))


@pytest.mark.thorough
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", ["index", "leaderboard", "concepts/accounts", "reference/api/stealguard"])
def test_pages_of_the_site_are_quiet_and_fit(site: Path, browser: Browser, page: str, width: int, scheme: str) -> None:
    browser.open(site / f"{page}.html", width, scheme)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("file:")] == []
    assert browser.run("document.documentElement.scrollWidth") <= width


@pytest.mark.thorough
@pytest.mark.browser
def test_search_works_on_pages_that_are_opened_from_files(site: Path, browser: Browser) -> None:
    browser.open(f"{(site / 'index.html').as_uri()}?q=strictness")
    found = "document.querySelectorAll('.md-search-result__item').length"
    until(lambda: browser.run(found) > 0)
