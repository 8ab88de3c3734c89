"""The comparison for other programs: every cell as a flat record, accuracies as fractions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable

from stealguard.report.cells import Cell, Group
from stealguard.report.comparing import against, baselines, rankings
from stealguard.report.facts import Facts, facts
from stealguard.report.grouping import summary
from stealguard.report.statistics import Spread
from stealguard.results import Row


def as_csv(rows: Iterable[Row]) -> str:
    found = records(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in record.items()} for record in found)
    return text.getvalue()


FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _harmless(value: object) -> object:
    """Text that a spreadsheet would take for a formula begins with an apostrophe; numbers stay as they are."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def as_json(rows: Iterable[Row]) -> str:
    return json.dumps(records(rows), indent=2, ensure_ascii=False) + "\n"


def records(rows: Iterable[Row]) -> list[dict[str, object]]:
    groups = summary(rows)
    baseline, ranking = baselines(groups), rankings(groups)
    found = []
    for group in groups:
        beside = baseline.get(group.name)
        of_group = _group(group, facts(group, beside)) | {
            "best": bool(group.task in ranking and ranking[group.task].best is group),
            "baseline": beside.name if beside else None,
        }
        found += [of_group | _cell(cell, group, beside) for cell in group.cells.values()]
    return found


def _group(group: Group, known: Facts) -> dict[str, object]:
    return {
        "name": group.name,
        "victim": " ".join(dict.fromkeys(victim.name for victim in group.victims)),
        "victim_key": " ".join(dict.fromkeys(victim.key for victim in group.victims)),
        "setting": group.setting,
        **group.task._asdict(),
        "defense": group.defense,
        "defense_settings": group.defense_settings,
        **_spread("benign_accuracy", group.benign),
        **{name: spread and spread.mean for name, spread in known._asdict().items()},
    }


def _cell(cell: Cell, group: Group, baseline: Group | None) -> dict[str, object]:
    difference = against(group, cell, baseline)
    return {
        **cell.line._asdict(),
        "in_family": cell.in_family,
        "victims": cell.victims,
        "seeds": len(cell.done),
        **_spread("clone_accuracy", cell.clone),
        "chance": cell.chance,
        "below_chance": cell.below_chance,
        **_spread("renamed_accuracy", cell.renamed),
        **_spread("stolen_accuracy", cell.stolen),
        "interval_over": "victims" if cell.victims > 1 else "seeds",
        **_spread("difference", difference),
        "difference_pairs": difference.n if difference else 0,
        "agreement": cell.agreement,
        "no_theft": cell.no_theft,
        "faults": "; ".join(f"seed {row.seed} {row.status}: {row.reason}" for row in cell.faults),
    }


def _spread(name: str, spread: Spread | None) -> dict[str, object]:
    return {name: spread and spread.mean, f"{name}_half_interval": spread and spread.half}
