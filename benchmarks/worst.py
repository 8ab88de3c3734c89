"""Rows -> a Markdown table: the worst clone accuracy by attack and pool, over labels and treatments of the answers.

    python -m benchmarks.worst ROWS.jsonl ...

A column is a setting: its mean over victims with half a 95 % t-interval. The first line is the accuracy that users get.
The no-theft line is the accuracy that the attacker's own task samples give without any query.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.lines import markdown

from stealguard.report import summary
from stealguard.report.cells import Cell, Group
from stealguard.report.naming import number, titles
from stealguard.results import Row, read

Kind = tuple[str, str, int, int]  # an attack with its settings, a pool, owned samples and the budget


def tables(rows: Iterable[Row]) -> str:
    """A table a data set."""
    groups = summary(rows)
    tasks = list(dict.fromkeys(group.task for group in groups))
    return "\n\n".join(table([group for group in groups if group.task == task]) for task in tasks)


def table(groups: Sequence[Group]) -> str:
    kinds = _kinds(groups)
    head = ["attack", "pool", "budget", "no theft", *(group.label for group in groups)]
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    lines.append(["benign accuracy", "", "", "", *(number(group.benign) for group in groups)])
    for (attack, pool, own, budget), cells in kinds.items():
        worst = [max(of, key=lambda cell: cell.reached) if (of := cells.get(i)) else None for i in range(len(groups))]
        alone = [cell.no_theft for cell in worst if cell and cell.no_theft is not None]
        told = f"{100 * sum(alone) / len(alone):.1f}" if alone else ""
        where = f"{pool}, {own} task samples" if own and not pool.startswith("own:") else pool
        lines.append([attack, where, f"{budget:,}", told, *(_told(cell) for cell in worst)])
    return markdown(lines)


def _kinds(groups: Sequence[Group]) -> dict[Kind, dict[int, list[Cell]]]:
    """By kind of attack and then by the column of the group, the cells that have a number."""
    names = titles(line._replace(treatment="") for group in groups for line in group.cells)
    kinds: dict[Kind, dict[int, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for column, group in enumerate(groups):
        for line, cell in group.cells.items():
            if cell.clone:
                kinds[names[line._replace(treatment="")], line.pool, line.own, line.budget][column].append(cell)
    return kinds


def _told(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    how = ", ".join(filter(None, [cell.line.labels, cell.line.treatment]))
    return f"{number(cell.clone)} ({how})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", type=Path)
    print(tables(row for path in parser.parse_args().rows for row in read(path)))


if __name__ == "__main__":
    main()
