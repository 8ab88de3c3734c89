"""The page: whole, self-contained, escaped, and the same for the same rows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from report.made_up import RELEASES, UNMEASURED, audited, failed_row, grid, make_row, plain, undefended_row
from stealguard import report
from stealguard.errors import Invalid
from stealguard.report.verdicts import RULE


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    skipped = failed_row(attack="jbda", status="skip", reason="needs seeds", **RELEASES["ini"] | UNMEASURED)
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    report.write_html([*audited(seeds=3), skipped], path, title="A title", command="stealguard demo --seed 0")
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]
    return path.read_text()


class Page(HTMLParser):
    """Every tag with its attributes, and the text outside of scripts and styles."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_tells_what_matters(page: str) -> None:
    text = plain(Page(page).text)
    assert "With a budget of 20,000 queries on 1 account, a clone reaches 92.6 % on your test set" in text
    assert "(chance: 10.0 %; undefended: 97.8 %), which is 96.2 % of your accuracy" in text
    for told in ("A title", "stealguard demo --seed 0", "lenet5 on mnist", "holds in part", RULE, "needs seeds"):
        assert told in text
    for told in ("in-family", "2.13.0", "2 x CPU, 2 threads", "ab" * 32, "0, 1, 2", "training.epochs=8", "chance"):
        assert told in text
    for told in ("2026-01-02 03:04 UTC", "seed 0 skipped: needs seeds", "<td>skipped</td>"):
        assert told in page


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    tags = Page(page).tags
    links = [values[name] for _, values in tags for name in ("src", "href", "xlink:href", "action") if name in values]
    assert all(link and link.startswith(("#", "data:,")) for link in links)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert [values.get("src") for tag, values in tags if tag == "script"] == [None]


def test_the_pages_ids_are_its_own(page: str) -> None:
    ids = [values["id"] for _, values in Page(page).tags if "id" in values]
    assert len(ids) == len(set(ids))
    used = {values["xlink:href"] for _, values in Page(page).tags if "xlink:href" in values}
    assert used <= {f"#{name}" for name in ids}
    assert used


def test_the_same_rows_make_the_same_page(tmp_path: Path) -> None:
    report.write_html(audited(), tmp_path / "a.html")
    report.write_html(audited()[::-1], tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_every_name_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&--><svg onload=x>$x$ 猫"
    names = ("release", "data", "net", "attack", "pool", "clone", "hardware", "pool_hash")
    given = {**dict.fromkeys(names, evil), "defense_settings": json.dumps({evil: evil})}
    rows = [make_row(**given), failed_row(reason=evil, **given, seed=1)]
    report.write_html(rows, tmp_path / "page.html", title=evil, command=evil)
    found = Page((tmp_path / "page.html").read_text())
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not any("onload" in values for _, values in found.tags)
    assert found.text.count("alert(1)") > 10


def test_the_page_runs_no_script_but_its_own(page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_a_page_of_nothing_but_failures_says_so(tmp_path: Path) -> None:
    report.write_html([failed_row(), failed_row(labels="hard", status="skip", reason="why")], tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "No attack finished" in html
    assert "out of memory" in html
    assert "<figure>" not in html


def test_a_page_of_one_undefended_victim_says_so(tmp_path: Path) -> None:
    report.write_html([undefended_row(data="folder:pets")], tmp_path / "page.html")
    text = Page((tmp_path / "page.html").read_text()).text
    assert "No defense was used." in text
    assert "No defended victim was audited." in text
    assert "chance" not in text  # nobody knows how many classes there are


def test_the_page_of_a_model_of_unknown_making_says_what_it_cannot_know(tmp_path: Path) -> None:
    stranger = {"release": "mine", "release_hash": "", "defense": "", "data": "", "net": "", "classes": 4}
    report.write_html([make_row(**stranger), make_row(**stranger, labels="hard")], tmp_path / "page.html")
    text = plain(Page((tmp_path / "page.html").read_text()).text)
    assert "stealguard did not train this model." in text
    assert "unknown net on unknown data" in text
    assert "Chance 25.0 %; attackers use 1 account." in text
    assert "not protected" in text


def test_the_figure_of_a_card_is_that_of_the_worst_clone_with_its_classes_renamed(tmp_path: Path) -> None:
    hidden = make_row(clone_accuracy=0.02, metrics={"renamed_accuracy": 0.9, "renamed_accuracy_20": 0.85})
    report.write_html([undefended_row(), hidden], tmp_path / "r.html")
    figures = [plain(found) for found in re.findall(r'<p class="big">(.*?)</p>', (tmp_path / "r.html").read_text())]
    assert figures == ["92.5 %", "85.0 % <small>renamed</small>"]


def test_the_page_of_a_model_at_chance_judges_nothing(tmp_path: Path) -> None:
    rows = [make_row(defense="", benign_accuracy=0.1, clone_accuracy=0.5, test_inputs=10_000)]
    report.write_html(rows, tmp_path / "page.html")
    page = plain((tmp_path / "page.html").read_text())
    assert '<span class="badge plain">unknown</span>' in page
    assert "right on 10.0 % of 10,000 test inputs, which is no better than chance" in page
    assert "benign accuracy: measured on 10,000 test inputs" in page.lower()


def test_the_page_claims_nothing_beyond_the_attacks_that_were_made(tmp_path: Path) -> None:
    """One attacker who does not know the defense, with one account, shows little."""
    report.write_html([undefended_row(), make_row(defense="ini-robust", clone_accuracy=0.1)], tmp_path / "page.html")
    text = plain(Page((tmp_path / "page.html").read_text()).text)
    assert "holds against the attacks that were made" in text
    said = text[text.index("Only the attacks that were made are judged. Not audited:") :]
    assert "Attackers who know the defense: " in said
    for gap in ("the attack explore", "divides the queries over many accounts", "Budgets above 20,000 queries."):
        assert gap in said


def test_the_page_says_what_is_below_chance(tmp_path: Path) -> None:
    rows = [undefended_row(classes=2), make_row(classes=2, clone_accuracy=0.34, agreement=0.35)]
    report.write_html(rows, tmp_path / "page.html")
    text = plain(Page((tmp_path / "page.html").read_text()).text)
    assert "below chance · agrees 35.0 · 66.0 renamed" in text
    assert "34.0 %, 66.0 % after the best renaming" in text
    assert "Protected: letters" not in text


def test_too_many_lines_are_drawn_by_their_worst_and_all_are_listed(tmp_path: Path) -> None:
    rows = [make_row(pool=f"pool{number:02d}", clone_accuracy=number / 100) for number in range(50)]
    report.write_html([*rows, failed_row(pool="poolx")], tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "10 more are in the table" in html
    assert [f"knockoff · pool{number:02d} · soft" in html for number in range(50)] == [False] * 10 + [True] * 40
    assert all(f"<td>pool{number:02d}" in html for number in range(50))


@pytest.mark.parametrize(("seconds", "told"), [(31.5, "32 s in all"), (1228, "20 minutes"), (9000, "2.5 hours")])
def test_time_is_told_in_a_fitting_unit(tmp_path: Path, seconds: float, told: str) -> None:
    report.write_html([make_row(seconds=seconds)], tmp_path / "page.html")
    assert told in (tmp_path / "page.html").read_text()


def test_no_rows_leave_no_page(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="at least one audit row"):
        report.write_html([], tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_grid_is_told_in_tables_and_not_in_a_card_each(tmp_path: Path) -> None:
    report.write_html(grid(victims=2, seeds=2), tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert 'class="card"' not in html
    assert html.count("<figure") == 2 * 4  # frontier, curves, answering and training, for each set
    assert "28 settings · 56 victims · 1,344 rows" in html
    assert "95 % interval over victims" in html
    assert re.search(r"−\d+\.\d ± \d+\.\d points to undefended \(2 pairs\)", html)
    assert "A defense is called best where" in html
    assert len(re.findall(r'<td class="n c"', html)) == 28 * 12


def test_no_best_is_marked_that_the_intervals_do_not_carry(tmp_path: Path) -> None:
    rows = [undefended_row()] + [
        make_row(release=name, release_hash=name, seed=seed, clone_accuracy=reached + off)
        for name, reached in (("a", 0.5), ("b", 0.52))
        for seed, off in enumerate((0, 0.1 if name == "a" else 0, 0))
    ]
    report.write_html(rows, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "no best: intervals overlap" in html
    assert 'class="tag best"' not in html


def test_commands_can_be_typed(tmp_path: Path) -> None:
    rows = [make_row(pool="it's", treatment=treatment) for treatment in ("", "z-score")]
    report.write_html(rows, tmp_path / "page.html")
    (command,) = re.findall(r"stealguard audit .*?(?=\n)", Page((tmp_path / "page.html").read_text()).text)
    words = shlex.split(command)
    assert words[:5] == ["stealguard", "audit", "VICTIM", "--attack", "knockoff"]
    assert words[words.index("--pools") + 1] == "it's"
    assert words[words.index("--treatments") + 1 : words.index("--own")] == ["", "z-score"]
    assert words[words.index("--accounts") + 1] == "1"
    assert words[-2:] == ["--clone", rows[0].clone]


def test_a_clone_without_a_name_is_left_out_of_the_command(tmp_path: Path) -> None:
    """It is the victim's own architecture, or a module, which no command can name."""
    report.write_html([make_row(clone="given:Normalized")], tmp_path / "page.html")
    (command,) = re.findall(r"stealguard audit .*?(?=\n)", Page((tmp_path / "page.html").read_text()).text)
    assert "--clone" not in command


@pytest.mark.thorough
def test_ten_thousand_rows_make_a_page_of_less_than_three_megabytes(tmp_path: Path) -> None:
    """One clone a cell is the most that as many rows can ask of a page; `python -m benchmarks report` has the time."""
    ways = [("knockoff", f"pool{number}", 20_000) for number in range(100)]
    rows = grid(data=["mnist"], finer=4, victims=1, seeds=1, ways=ways)
    assert len(rows) > 10_000
    report.write_html(rows, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 3_000_000


@pytest.mark.slow
def test_ten_thousand_failures_do_not_make_a_page_of_reasons(tmp_path: Path) -> None:
    row = failed_row(reason="the process was killed, perhaps for want of memory" * 3)
    rows = [replace(row, key=str(number), seed=number, pool=f"pool{number % 900}") for number in range(5_000)]
    report.write_html(rows, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "600 more are in the output of" in html
    assert len(html) < 3_000_000
