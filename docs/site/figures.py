"""The drawings of the pages on concepts, from committed rows; `python docs/site/figures.py` draws them anew.

A drawing has its own colors, light or dark as the reader's system is; on the site those of the page replace them.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from stealguard.report.statistics import Spread
from stealguard.results import read

HOME = Path(__file__).parents[2]
RESULTS = HOME / "docs/results"
FIGURES = HOME / "docs/concepts/figures"
WIDTH = 640

STYLE = """<style>
svg { background: #fff; } text { fill: #222; } .axis { stroke: #999; fill: none; }
.line { stroke: #00796b; fill: none; } .mark { fill: #00796b; }
.beside { stroke: #d9822b; fill: none; } .beside-mark { fill: #d9822b; } .faint { fill: #eee; }
@media (prefers-color-scheme: dark) {
svg { background: #1e2129; } text { fill: #ddd; } .axis { stroke: #777; } .line { stroke: #4db6ac; }
.mark { fill: #4db6ac; } .faint { fill: #333; } }
</style>"""


def svg(height: float, title: str, parts: Iterable[str]) -> str:
    """A drawing of 640 units in width."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        'font-family="system-ui, sans-serif" font-size="14">'
    )
    return "\n".join([head, f"<title>{title}</title>", STYLE, *parts, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def line(points: Sequence[tuple[float, float]], kind: str, dashes: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline class="{kind}" stroke-width="2" points="{path}"{dashed}/>'


def dot(x: float, y: float, kind: str) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


# Charts -----------------------------------------------------------------------------------------------------


def dots(title: str, rows: Sequence[tuple[str, Spread, Spread | None]], lines: Sequence[tuple[str, float]]) -> str:
    """A row for each name with its mean and interval in %, perhaps a second value beside it; `lines` are references."""
    left, right, step, top = 250.0, WIDTH - 30.0, 30.0, 40.0
    bottom = top + step * len(rows)

    def x(value: float) -> float:
        return left + (right - left) * value

    parts = [line([(x(at), top - 8), (x(at), bottom)], "axis", "4 4") for _, at in lines]
    parts += [text(x(at), top - 14, name, "middle") for name, at in lines]
    parts += [line([(left, bottom), (right, bottom)], "axis")]
    parts += [text(x(at / 100), bottom + 20, f"{at} %", "middle") for at in range(0, 101, 20)]
    for i, (name, value, beside) in enumerate(rows):
        y = top + step * (i + 0.5)
        parts += [text(left - 14, y + 5, name, "end"), line([(x(value.low), y), (x(value.high), y)], "line")]
        parts += [dot(x(value.mean), y, "mark")]
        if beside:
            parts += [line([(x(beside.mean), y - 9), (x(beside.mean), y + 9)], "beside")]
    return svg(bottom + 30, title, parts)


def curves(title: str, found: dict[str, list[tuple[int, Spread]]], chance: float) -> str:
    """Means in % with intervals over numbers that grow by factors; one curve a name."""
    left, right, top, bottom = 60.0, WIDTH - 90.0, 20.0, 300.0
    most = max(at for points in found.values() for at, _ in points)

    def place(at: float, value: float) -> tuple[float, float]:
        return left + (right - left) * math.log(at) / math.log(most), bottom - (bottom - top) * value

    parts = [
        line([(left, bottom), (right, bottom)], "axis"),
        line([place(1, chance), place(most, chance)], "axis", "4 4"),
    ]
    parts += [text(right + 8, place(most, chance)[1] + 5, "chance")]
    parts += [text(left - 10, place(1, at / 100)[1] + 5, f"{at} %", "end") for at in range(0, 101, 20)]
    ticks = sorted({at for points in found.values() for at, _ in points})
    parts += [text(place(at, 0)[0], bottom + 20, f"{at:,}", "middle") for at in ticks]
    parts += [text((left + right) / 2, bottom + 42, "accounts", "middle")]
    for (name, points), (stroke, mark), shift in zip(found.items(), COLORS, (16.0, -4.0), strict=False):
        parts += [line([place(at, value.mean) for at, value in points], stroke)]
        for at, value in points:
            parts += [line([place(at, value.low), place(at, value.high)], stroke), dot(*place(at, value.mean), mark)]
        x, y = place(points[-1][0], points[-1][1].mean)
        parts += [text(x + 10, y + shift, name)]
    return svg(bottom + 55, title, parts)


COLORS = [("line", "mark"), ("beside", "beside-mark")]


# The five drawings ------------------------------------------------------------------------------------------


def threat_model() -> str:
    """What passes between attacker and victim."""

    def box(x: float, y: float, width: float, words: Sequence[str]) -> str:
        frame = f'<rect class="faint" x="{x}" y="{y}" width="{width}" height="{24 + 18 * len(words)}" rx="6"/>'
        return frame + "".join(text(x + width / 2, y + 24 + 18 * i, word, "middle") for i, word in enumerate(words))

    def arrow(x1: float, x2: float, y: float) -> str:
        back = 8 if x2 < x1 else -8
        return line([(x1, y), (x2, y)], "line") + line([(x2 + back, y - 5), (x2, y), (x2 + back, y + 5)], "line")

    return svg(
        250,
        "The attacker sends inputs through accounts and trains a clone on the answers",
        [
            box(10, 40, 150, ["attacker", "query pool", "the program's code"]),
            box(255, 40, 130, ["accounts", "budget of each", "memory of each"]),
            box(480, 40, 150, ["victim", "net and guard", "weights: secret"]),
            arrow(160, 250, 65), arrow(385, 475, 65), arrow(480, 390, 100), arrow(255, 165, 100),
            text(205, 30, "inputs", "middle"), text(430, 30, "inputs", "middle"),
            text(205, 136, "answers", "middle"), text(430, 136, "answers", "middle"),
            line([(85, 118), (85, 170)], "line"), line([(80, 162), (85, 170), (90, 162)], "line"),
            box(10, 175, 150, ["clone", "trained on answers"]),
            text(185, 212, "measured: clone accuracy on the task's test set, beside chance"),
        ],
    )  # fmt: skip


def chance() -> str:
    """Clones of LeNet-5 on MNIST by pool, beside guessing."""
    rows = [row for row in read(RESULTS / "mnist-lenet5.jsonl") if row.labels == "soft"]
    victims = {"undefended": "undefended", "ini": "InI"}
    pools = {"cifar10-gray": "gray photographs", "letters": "letters"}
    found = [
        (f"{victims[row.victim.name]}, {pools[row.pool]}", row.clone_accuracy)
        for row in rows
        if row.victim.name in victims
    ]
    return dots("Clone accuracy by pool, and chance", _means(found), [("chance", 0.1)])


def no_theft() -> str:
    """Attackers who own samples: what the clone reaches, and what the samples give without a query."""
    rows = read(RESULTS / "robust-owners.jsonl")
    name = {"jbda": "JBDA, 150 samples", "jbda-tr": "JBDA-TR, 150 samples", "knockoff": "Knockoff, 200 samples"}
    reached = _means((name[row.attack], row.clone_accuracy) for row in rows)
    alone = {key: value for key, value, _ in _means((name[row.attack], row.no_theft) for row in rows)}
    title = "Clone accuracy of attackers who own samples, and the no-theft line of each"
    return dots(title, [(key, value, alone[key]) for key, value, _ in reached], [("chance", 0.1)])


def accounts() -> str:
    """The adaptive attacker's clone by the number of accounts."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in _adaptive("memory"):
        if row["attack"] == "told explore":
            found[row["pool_name"]][row["accounts"]].append(row["clone_accuracy"])
    curved = {
        name: [(at, spread) for at, values in sorted(by.items()) if (spread := Spread.of(values))]
        for name, by in found.items()
    }
    return curves("Clone accuracy by the number of accounts", curved, 0.1)


def adaptive() -> str:
    """Without memory: the attacker who knows nothing, and those who know the code."""
    return dots("Clone accuracy by attack, without memory", without_memory(), [("chance", 0.1)])


def without_memory() -> list[tuple[str, Spread, None]]:
    """The clone accuracy of each attack and label mode where answers do not depend on the account, rising."""
    means = _means((f"{row['attack']}, {row['labels']}", row["clone_accuracy"]) for row in _adaptive("none"))
    return sorted(means, key=lambda row: row[1].mean)


def _adaptive(guard: str) -> list[dict[str, Any]]:
    rows = map(json.loads, (RESULTS / "adaptive.jsonl").read_text().splitlines())
    return [row for row in rows if (row["measurement"], row.get("guard"), row.get("variant")) == ("theft", guard, "")]


def _means(values: Iterable[tuple[str, float | None]]) -> list[tuple[str, Spread, None]]:
    """Means by name, in order of appearance."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        if value is not None:
            found[name].append(value)
    return [(name, spread, None) for name, of in found.items() if (spread := Spread.of(of))]


DRAWINGS: dict[str, Callable[[], str]] = {
    "threat-model": threat_model, "chance": chance, "no-theft": no_theft, "accounts": accounts, "adaptive": adaptive,
}  # fmt: skip

if __name__ == "__main__":
    for name, drawing in DRAWINGS.items():
        (FIGURES / f"{name}.svg").write_text(drawing())
