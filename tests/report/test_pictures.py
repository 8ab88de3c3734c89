"""The drawings: they take the page's colors, tell their numbers when pointed at, and draw only what is known."""

from __future__ import annotations

import re

import pytest

from report.made_up import audited, failed_row, grid, make_row, undefended_row
from stealguard.report.drawing import Shown, chance, shown
from stealguard.report.facts import facts
from stealguard.report.grouping import summary
from stealguard.report.lines import ways, worst_line
from stealguard.report.pictures import answering, curves, frontier, strips, training
from stealguard.results import Row


def drawn(rows: list[Row]) -> list[Shown]:
    return shown(summary(rows))


@pytest.mark.parametrize("draw", [frontier, strips])
def test_the_drawings_follow_the_pages_colors(draw: object) -> None:
    drawing = draw(drawn(audited(seeds=3)))  # type: ignore[operator]
    assert drawing.startswith("<svg viewBox=")
    assert "currentColor" in drawing
    assert "var(--series-1)" in drawing
    assert "<text" in drawing
    assert not re.findall(r"#0[1-5]0[1-5]\w\w\b", drawing)


def test_every_mark_tells_its_numbers() -> None:
    groups = drawn(audited(seeds=3))
    told = re.findall(r'<g class="tip" data-g="\d+"><title>(.*?)</title>', strips(groups))
    assert len(told) == 8
    assert told[0] == "undefended: 96.9 ± 1.4 %"
    assert "<title>ini: benign 96.3 %, worst clone 92.6 ± 1.4 %</title>" in frontier(groups)


def test_a_name_in_a_tooltip_is_escaped() -> None:
    drawing = strips(drawn([make_row(release="\"><script>'&")]))
    assert "<script" not in drawing
    assert "&lt;script&gt;" in drawing


def test_where_nothing_finished_nothing_is_drawn() -> None:
    groups = drawn([failed_row()])
    assert (frontier(groups), strips(groups)) == ("", "")


def test_a_few_groups_have_a_color_each_and_many_share_their_defenses() -> None:
    few = [make_row(release=f"r{number}", release_hash=str(number)) for number in range(6)]
    assert [one.color for one in drawn([undefended_row(), *few])] == [0, 1, 2, 3, 4, 5, 6]
    many = [*few, *(make_row(release=f"m{number}", release_hash=f"m{number}", defense="mad") for number in range(6))]
    assert [(one.color, one.kind) for one in drawn(many)] == [(1, "ini")] * 6 + [(2, "mad")] * 6


def test_more_than_six_defenses_differ_by_color_and_shape() -> None:
    rows = [make_row(release=name, release_hash=name, defense=name) for name in "abcdefghijkl"]
    assert len({(one.color, one.shape) for one in drawn(rows)}) == 12


def test_the_settings_of_one_defense_are_joined_and_spread_both_ways() -> None:
    some = drawn(grid(data=["mnist"]))
    drawing = frontier(some)
    settings = len(some)
    joins = settings - len({one.kind for one in some})
    assert drawing.count('<g class="tip"') == settings
    assert drawing.count("<g data-g=") == 2 * settings + joins
    assert "mad epsilon=1.5: benign" in drawing
    assert "±" in drawing


def test_costs_are_drawn_where_they_are_known() -> None:
    some = drawn(grid(data=["mnist"], victims=2, seeds=1))
    known = {one.group.name: facts(one.group, some[0].group) for one in some}
    assert "mad epsilon=0.1: 5.76 ± 0.00 times at batch 64, 2.40 ± 0.00 at batch 1" in answering(some, known)
    assert answering(some, known).count('class="tip"') == training(some, known).count('class="tip"') == len(some)
    old = drawn(audited())
    assert answering(old, {one.group.name: facts(one.group, old[0].group) for one in old}) == ""


def test_guessing_is_known_for_known_sets_of_one_size() -> None:
    assert chance(drawn([make_row()])) == 10
    assert chance(drawn([make_row(data="cifar100")])) == 1
    assert chance(drawn([make_row(), make_row(data="cifar100")])) is None
    assert chance(drawn([make_row(data="folder:pets")])) is None


def test_budgets_are_told_where_they_differ() -> None:
    assert "20,000" not in strips(drawn([make_row()]))
    assert "20,000" in strips(drawn([make_row(), make_row(budget=500)]))


def test_a_curve_needs_budgets_and_its_worst_line_never_falls() -> None:
    assert curves(drawn(audited())) == ""
    reached = {1_000: 0.4, 5_000: 0.8, 20_000: 0.7}
    rows = [
        make_row(budget=budget, clone_accuracy=accuracy, attack_settings=f'{{"budget": {budget}}}')
        for budget, accuracy in reached.items()
    ]
    (one,) = drawn([*rows, make_row(budget=50_000, own=200, clone_accuracy=0.99, no_theft=0.6)])
    assert worst_line(one.group) == [(1_000, 0.4), (5_000, 0.8), (20_000, 0.8)]
    assert [len(cells) for cells in ways(one.group)] == [3]
    picture = curves([one])
    assert picture.count('<g class="tip"') == 3
    assert "80.0" in picture
