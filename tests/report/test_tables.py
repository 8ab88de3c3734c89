"""The five formats, whatever names the rows carry."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from report.made_up import RELEASES, UNMEASURED, audited, changed, failed_row, grid, make_row, undefended_row
from stealguard import report
from stealguard.errors import Invalid
from stealguard.results import Row


def test_the_table_has_lines_down_and_victims_across_and_the_worst_last() -> None:
    text = report.render(audited())
    lines = [line.split() for line in text.splitlines() if line.strip(" ─")]
    assert lines[0] == ["attack", "pool", "labels", "budget", "undefended", "ini"]
    assert lines[1] == ["benign", "accuracy", "98.9", "96.3"]
    assert lines[2] == ["knockoff", "cifar10-gray*", "soft", "20,000", "96.8", "10.1"]
    assert lines[6] == ["worst", "97.7", "92.5"]
    assert "* in-family: held out of the defender's outliers, flatters" in " ".join(text.split())
    assert "±" not in text


def test_the_worst_clone_is_the_one_that_renaming_restores_most() -> None:
    hidden = make_row(
        labels="hard", clone_accuracy=0.02, metrics={"renamed_accuracy": 0.9, "renamed_accuracy_20": 0.85}
    )
    text = report.render([undefended_row(), make_row(clone_accuracy=0.12), hidden])
    (worst,) = (line.split() for line in text.splitlines() if line.split()[:1] == ["worst"])
    assert worst[2:] == ["85.0", "renamed"]
    text = report.render([hidden, make_row()])
    assert "(85.0 renamed)" in text
    assert "90.0" not in text, "one meaning of the word in one table"
    assert "renamed: after 20 labeled samples" in " ".join(text.split())


def test_the_table_shows_intervals_and_what_did_not_run() -> None:
    text = report.render([*audited(seeds=3), failed_row(attack="jbda", **RELEASES["ini"] | UNMEASURED)])
    assert "97.8 ± 1.4" in text
    assert [line.split()[-2:] for line in text.splitlines() if "jbda" in line] == [["-", "failed"]]


@pytest.mark.parametrize("format", ["table", "markdown", "latex"])
def test_what_a_number_leaves_out_or_mixes_is_told_beside_it(format: str) -> None:
    """A mean over two seeds of three, and over two pools of one name."""
    pools = [make_row(seed=seed, pool_hash=str(seed)) for seed in (0, 1)]
    text = report.render([*pools, failed_row(seed=2, benign_accuracy=0.975)], format)
    text = " ".join(text.replace("% ", "").split())
    assert "1 of 3 rows failed" in text
    assert "The pool letters does not hold the same inputs in all rows" in text
    assert "failed" not in report.render([make_row()], format)


def test_answers_that_are_far_fewer_than_the_budget_are_told(tmp_path: Path) -> None:
    """A guard that refuses lets budgets of 2,000 and 10,000 give the same line."""
    refused = [make_row(budget=budget, queries=4, clone_accuracy=0.2) for budget in (2000, 10_000)]
    text = " ".join(report.render([*refused, make_row(budget=20_000, queries=19_900)]).split())
    assert text.count("20.0 (4 answers)") == 2
    assert "92.5 (" not in text
    assert "answers: had by the attacker where fewer than the budget" in text
    report.write_html(refused, tmp_path / "page.html")
    assert "· 4 answers ·" in (tmp_path / "page.html").read_text()


def test_a_name_cannot_write_markup_or_steer_the_terminal() -> None:
    text = report.render([make_row(release="[red]x[/red]\x1b[2J", attack="[bold]a[/bold]")])
    assert "[red]x[/red]?[2J" in text
    assert "[bold]a[/bold]" in text


def test_markdown_keeps_its_columns_whatever_the_names() -> None:
    text = report.render([make_row(attack="a|b\nc", pool="<b>")], "markdown")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert {line.replace(r"\|", "").count("|") for line in rows} == {6}
    assert "&lt;b>" in text


def test_csv_has_a_record_a_cell_in_fractions() -> None:
    records = list(csv.DictReader(io.StringIO(report.render(audited(seeds=3), "csv"))))
    assert len(records) == 8
    worst = max(records, key=lambda record: float(record["clone_accuracy"]))
    assert (worst["victim"], worst["pool"], worst["seeds"]) == ("undefended", "letters", "3")
    assert float(worst["clone_accuracy"]) == pytest.approx(0.978)
    assert float(worst["clone_accuracy_half_interval"]) == pytest.approx(0.0138311, rel=1e-5)


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_in_csv_is_a_formula(sign: str) -> None:
    evil = f'{sign}HYPERLINK("http://x")'
    rows = [undefended_row(seed=seed) for seed in (0, 1)]
    rows += [make_row(pool=evil, release=evil, seed=seed) for seed in (0, 1)] + [failed_row(pool=evil, reason=evil)]
    text = report.render([*rows, make_row(seed=0, clone_accuracy=0.2)], "csv")
    records = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {record["pool"] for record in records} == {"letters", f"'{evil}"}
    assert any(record["victim"] == f"'{evil}" for record in records)
    cells = [cell for record in records for cell in record.values() if cell]
    assert all(re.fullmatch(r"-?[\d.e-]+", cell) for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r")))


def test_json_holds_everything() -> None:
    failed = failed_row(labels="hard", attack="jbda", **RELEASES["ini"] | UNMEASURED)
    records = json.loads(report.render([*audited(), failed], "json"))
    assert len(records) == 9
    assert (records[2]["victim"], records[2]["pool"], records[2]["clone_accuracy"]) == ("undefended", "letters", 0.977)
    assert records[4]["benign_accuracy"] == 0.963
    assert records[4]["faults"] == "seed 0 failed: out of memory"
    assert records[4]["clone_accuracy"] is None


def test_an_unknown_format_suggests_the_nearest() -> None:
    with pytest.raises(Invalid, match="did you mean `markdown`"):
        report.render(audited(), "markdwon")


@pytest.mark.parametrize("format", ["table", "markdown", "latex", "csv", "json"])
def test_no_rows_are_refused(format: str) -> None:
    with pytest.raises(Invalid, match="at least one audit row"):
        report.render([], format)


def test_the_table_can_be_printed_by_a_console_of_its_own() -> None:
    assert [column.header.plain for column in report.table(audited()).columns][-2:] == ["undefended", "ini"]


def test_latex_is_a_tabular_of_equal_rows() -> None:
    text = report.render([*audited(seeds=3), failed_row(**RELEASES["ini"] | UNMEASURED, attack="jbda")], "latex")
    assert text.startswith("% needs \\usepackage{booktabs}\n")
    assert "% lenet5" not in text  # one defense is not ranked
    body = text[text.index("\\begin{tabular}") :]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert body.startswith("\\begin{tabular}{lllrrr}\n\\toprule\n")
    assert {line.count("&") for line in rows} == {5}
    assert len(rows) == 8
    assert r"letters & soft & 20,000 & 97.8 $\pm$ 1.4 & 92.6 $\pm$ 1.4" in body
    assert body.endswith("\\bottomrule\n\\end{tabular}\n")


def test_latex_escapes_what_it_would_read_as_commands() -> None:
    evil = "a_b & 50% of $x$ #1 {y} ~ ^ \\end{tabular} <|>\n% z"
    text = report.render([make_row(release=evil, attack=evil, pool=evil)], "latex")
    plain = re.sub(
        r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}|\\[&%$#_{}]", "", text
    )
    body = plain[plain.index("\\begin{tabular}") :]
    assert set(re.findall(r"\\\w+", body)) == {"\\begin", "\\toprule", "\\midrule", "\\bottomrule", "\\end"}
    assert {line.count("&") for line in body.splitlines() if line.endswith(r"\\")} == {4}
    assert not re.search(r"[%$#_~^]", body)
    assert body.count("{") == body.count("}") == 3


def test_only_a_best_that_the_intervals_carry_is_bold() -> None:
    def rows(second: float) -> list[Row]:
        return [undefended_row()] + [
            make_row(release=name, release_hash=name, seed=seed, clone_accuracy=reached + seed / 200)
            for name, reached in (("a", 0.5), ("b", second))
            for seed in (0, 1, 2)
        ]

    assert "**50.5 ± 1.2**" in report.render(rows(0.7), "markdown")
    assert r"\textbf{50.5 $\pm$ 1.2}" in report.render(rows(0.7), "latex")
    tied = [changed(row, clone_accuracy=0.4) if row.victim.name == "b" and row.seed else row for row in rows(0.7)]
    assert "**" not in report.render(tied, "markdown")
    assert "textbf" not in report.render(tied, "latex")
    assert "no best: intervals overlap" in " ".join(report.render(tied, "table").split())


def test_many_groups_go_down_with_what_counts_across() -> None:
    text = report.render(grid(data=["mnist"], victims=2, seeds=2), "markdown")
    head, _, first, *rest = [line for line in text.splitlines() if line.startswith("|")]
    assert head.split(" | ")[1:5] == ["benign", "worst clone", "by", "to undefended"]
    assert first.startswith("| undefended | ")
    assert len(rest) == 13
    assert "over victims, clones averaged first" in text


def test_records_say_what_an_interval_is_over_and_what_differs_from_the_undefended() -> None:
    records = json.loads(report.render(grid(data=["mnist"], victims=2, seeds=2), "json"))
    found = [record for record in records if record["name"] == "mad epsilon=1.5"]
    assert len(found) == 12
    assert {(record["interval_over"], record["victims"], record["seeds"]) for record in found} == {("victims", 2, 4)}
    assert all(record["difference"] < 0 and record["difference_pairs"] == 2 for record in found)
    assert all(record["baseline"] == "undefended" and record["cost_64"] == pytest.approx(5.76) for record in found)
