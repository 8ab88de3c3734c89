"""The drawings: they take the page's colors, tell their numbers when pointed at, and draw only what is known."""

from __future__ import annotations

import re

import pytest
from stealguard.report.numbers import summary, ways, worst_line

from report.made_up import audited, failed_row, make_row, undefended_row
from stealguard.report.pictures import chance, curves, frontier, series, strips


@pytest.mark.parametrize("draw", [frontier, strips])
def test_the_drawings_follow_the_pages_colors(draw: object) -> None:
    drawing = draw(summary(audited(seeds=3)))  # type: ignore[operator]
    assert drawing.startswith("<svg viewBox=")
    assert "currentColor" in drawing
    assert "var(--series-1)" in drawing
    assert "<text" in drawing
    assert not re.findall(r"#0[1-5]0[1-5]\w\w\b", drawing)


def test_every_mark_tells_its_numbers() -> None:
    groups = summary(audited(seeds=3))
    told = re.findall(r'<g class="tip"><title>(.*?)</title>', strips(groups))
    assert len(told) == 8
    assert told[0] == "undefended: 96.9 ± 1.4 %"
    assert "<title>ini: benign 96.3\u202f%, worst clone 92.6\u202f%</title>" in frontier(groups)


def test_a_name_in_a_tooltip_is_escaped() -> None:
    drawing = strips(summary([make_row(release="\"><script>'&")]))
    assert "<script" not in drawing
    assert "&lt;script&gt;" in drawing


def test_where_nothing_finished_nothing_is_drawn() -> None:
    groups = summary([failed_row()])
    assert (frontier(groups), strips(groups)) == ("", "")


def test_undefended_releases_share_a_series_and_defended_ones_take_turns() -> None:
    rows = [make_row(release=f"r{number}", release_hash=str(number)) for number in range(7)]
    assert series(summary([undefended_row(), *rows])) == [0, 1, 2, 3, 4, 5, 6, 1]


def test_guessing_is_known_for_known_sets_of_one_size() -> None:
    assert chance(summary([make_row()])) == 10
    assert chance(summary([make_row(data="cifar100")])) == 1
    assert chance(summary([make_row(), make_row(data="cifar100")])) is None
    assert chance(summary([make_row(data="folder:pets")])) is None


def test_budgets_are_told_where_they_differ() -> None:
    assert "20,000" not in strips(summary([make_row()]))
    assert "20,000" in strips(summary([make_row(), make_row(budget=500)]))


def test_a_curve_needs_budgets_and_its_worst_line_never_falls() -> None:
    assert curves(summary(audited())) == ""
    reached = {1_000: 0.4, 5_000: 0.8, 20_000: 0.7}
    rows = [
        make_row(budget=budget, clone_accuracy=accuracy, attack_settings=f'{{"budget": {budget}}}')
        for budget, accuracy in reached.items()
    ]
    (group,) = summary([*rows, make_row(budget=50_000, own=200, clone_accuracy=0.99, no_theft=0.6)])
    assert worst_line(group) == [(1_000, 0.4), (5_000, 0.8), (20_000, 0.8)]
    assert [len(cells) for cells in ways(group)] == [3]
    drawn = curves([group])
    assert drawn.count('<g class="tip">') == 3
    assert "80.0" in drawn
