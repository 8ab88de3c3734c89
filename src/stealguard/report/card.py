"""A model card: what a release is, how stealable it is by its audit, and what is not known of it.

It is Markdown with the front matter that model hubs read. It is made from the release's files and audit rows alone: no
network is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stealguard.defenses import DEFENSES
from stealguard.errors import counted, printable
from stealguard.identity import identity_of
from stealguard.releases.export import Parity, read_report
from stealguard.releases.frozen import is_frozen
from stealguard.releases.recipes import was_trained
from stealguard.releases.release import REPORT, measured_settings, read_recipe, setting_of
from stealguard.report.cells import Cell, Group
from stealguard.report.comparing import baselines
from stealguard.report.gaps import counters, gaps
from stealguard.report.grouping import summary
from stealguard.report.naming import RENAMED, number, percent, titles, users, worst_text
from stealguard.report.verdicts import (
    UNDECIDED,
    UNKNOWN,
    below_chance,
    claim,
    explain,
    headline,
    notes,
    overall,
    verdicts,
)
from stealguard.results import Row

WORST = 10  # lines that are listed
LIMITS = """\
An audit is a lower bound: it says what these attacks reached with these budgets, not what the best attacker can reach.
Clone accuracies are measured on the test set of the task. Budgets bind an account; an attacker with more accounts has
as many budgets. Nothing here says that the model is safe to use, that it is fair, or that its training data are
private."""
NOT_TRAINED = (
    "none: nothing was trained, and the weights are those that were given. They may have learned from the inputs that "
    "are held out here for validation; then what is measured on these is too high."
)
UNAUDITED = (
    "**This release has not been audited.** Nothing is known about how stealable it is. `stealguard audit` measures it."
)


@dataclass(frozen=True)
class Subject:
    """What a card is about.

    Attributes:
        name: of the release.
        recipe: how it was made.
        rows: of audits, its own and, to compare with, others' on the same data.
        exports: what `read_report` gives.
        measured: what `measured_settings` gives.
    """

    name: str
    recipe: Mapping[str, Any]
    rows: Sequence[Row] = ()
    exports: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        return identity_of(self.recipe)

    def group(self) -> tuple[Group | None, Group | None]:
        """The release's own group and the undefended one beside it, None where no row is about these."""
        groups = summary(self.rows) if self.rows else []
        own = next((g for g in groups if self.identity in {victim.key for victim in g.victims}), None)
        return own, (baselines(groups).get(own.name) if own else None)


def card(folder: str | Path, rows: Iterable[Row] = ()) -> str:
    """The card of a release folder.

    Args:
        folder: of the release.
        rows: of audits.

    Raises:
        ReleaseError: the recipe, or the report on exports, was changed; or the weights, where these hold settings.
    """
    folder = Path(folder)
    exports = read_report(folder) if (folder / REPORT).exists() else {}
    recipe = read_recipe(folder)
    subject = Subject(folder.resolve().name, recipe, list(rows), exports, measured_settings(folder, recipe))
    own, baseline = subject.group()
    parts = [
        _front_matter(subject, own),
        f"# {escaped(subject.name)}",
        _purpose(subject),
        *_confidence(subject),
        "## How stealable it is",
        *([UNAUDITED] if own is None else _audited(own, baseline)),
        "## Attackers who know the defense",
        _adaptive(subject, own),
        "## What has not been audited",
        _listed(_gaps(subject, own)),
        "## Limits of the claim",
        LIMITS,
        *([_listed([escaped(note) for note in notes([own])])] if own and notes([own]) else []),
        "## How it was made",
        _made(subject),
        "## Files",
        _files(subject),
    ]
    return "\n\n".join(parts) + "\n"


# Parts ------------------------------------------------------------------------------------------------------


def _front_matter(subject: Subject, own: Group | None) -> str:
    """What model hubs read. The license is the owner's to choose: a comment says so."""
    recipe = subject.recipe
    image = len(recipe["shape"]) == 3
    known: dict[str, Any] = {
        "library_name": "stealguard",
        "pipeline_tag": "image-classification" if image else "tabular-classification",
        "tags": ["stealguard", "model-stealing", "model-extraction", recipe["defense"]["name"], recipe["net"]],
        "datasets": [recipe["data"]["name"]],
        "metrics": ["accuracy"],
    }
    if own is not None and own.benign is not None:
        measured = [("benign accuracy", own.benign.mean)]
        measured += [("highest clone accuracy", own.worst.reached)] if own.worst else []
        result = {
            "task": {"type": known["pipeline_tag"]},
            "dataset": {"name": recipe["data"]["name"], "type": recipe["data"]["name"], "split": "test"},
            "metrics": [{"type": "accuracy", "name": name, "value": round(value, 6)} for name, value in measured],
        }
        known["model-index"] = [{"name": subject.name, "results": [result]}]
    text = yaml.safe_dump(known, sort_keys=False, allow_unicode=True)
    return f"---\n# license: the owner of the model and of its data chooses one\n{text}---"


def _purpose(subject: Subject) -> str:
    recipe = subject.recipe
    names = ", ".join(map(escaped, recipe["names"]))
    shape = " x ".join(map(str, recipe["shape"]))
    units = "in [0, 1]" if recipe["scaling"] is None else "in the units of its data, which it scales itself"
    return (
        f"A classifier of inputs of shape {shape}, {units}, into {recipe['classes']:,} classes"
        f"{f' ({names})' if names else ''}. Its defense against model stealing is {escaped(recipe['defense']['name'])}."
    )


def _confidence(subject: Subject) -> list[str]:
    """What the probabilities say, where that is not the net's own confidence; of the owner's own defense not known."""
    name = subject.recipe["defense"]["name"]
    told = DEFENSES[name].confidence if name in DEFENSES else ""
    return [escaped(told)] if told else []


def _audited(own: Group, baseline: Group | None) -> list[str]:
    found = verdicts(own, baseline)
    word = overall(found)
    whole = f"Whether the defense holds is {word}." if word in (UNDECIDED, UNKNOWN) else f"The defense {claim(word)}."
    judged = [f"{whole} {escaped(explain(found))}"] if found else []
    told = [escaped(headline(own, baseline)), *judged, *([escaped(below)] if (below := below_chance(own)) else [])]
    asked = f" ({'; '.join(users([own]))})" if users([own]) else ""
    benign = f"Benign accuracy: {number(own.benign)} %{asked}. Chance: {_percent(own.chance)}."
    done = sorted((cell for cell in own.cells.values() if cell.clone), key=lambda cell: -cell.reached)
    head = f"The {min(WORST, len(done))} worst of {counted(len(done), 'line')}:"
    renamed = [f"{escaped(RENAMED)}."] if any(cell.needs_renaming for cell in done[:WORST]) else []
    return [*told, benign, head, _table(done[:WORST]), *renamed]


def _table(cells: Sequence[Cell]) -> str:
    title = titles(cell.line for cell in cells)
    head = [
        "attack",
        "queries",
        "answers",
        "budget",
        "accounts",
        "clone accuracy, %",
        "renamed, %",
        "no theft, %",
        "agreement, %",
    ]
    rows = [
        [
            title[cell.line], cell.line.pool + (" (in-family)" if cell.in_family else ""), cell.line.labels,
            f"{cell.line.budget:,}", f"{cell.line.accounts:,}", number(cell.clone),
            number(cell.stolen if cell.needs_renaming else None), _bare(cell.no_theft), _bare(cell.agreement),
        ]
        for cell in cells
    ]  # fmt: skip
    return _as_table(head, rows)


def _adaptive(subject: Subject, own: Group | None) -> str:
    """For each thing that an attacker does who knows the defense, the worst line that does it."""
    found = counters(own, subject.recipe["defense"]["name"])
    if found is None:
        return "The defense is the owner's own: which attacks are made against it is not known."
    if not found:
        return "None are known: there is no defense to know." if own and own.undefended else "None are listed."
    rows = []
    for meaning, cells in found:
        worst = max(cells, key=lambda cell: cell.reached, default=None)
        rows.append([meaning, "not audited" if worst is None else worst_text(worst), f"{len(cells):,}"])
    return _as_table(["what the attacker does", "highest clone accuracy, %", "lines"], rows)


def _gaps(subject: Subject, own: Group | None) -> list[str]:
    """What no row says, in a sentence each."""
    if own is None:
        return ["Anything: there are no audit rows of this release."]
    others = len({row.victim.key for row in subject.rows} - {victim.key for victim in own.victims})
    return gaps(own) + [f"({counted(others, 'other victim')} in the same rows.)"] * bool(others)


def _made(subject: Subject) -> str:
    recipe = subject.recipe
    data, made = recipe["data"], recipe["provenance"]
    use = "trained on" if was_trained(recipe) else "not used"
    outliers = [
        (f"outliers, {of['name']}", f"{of['rows']:,} {use}, {of['held_out']:,} held out; SHA-256 {of['sha256']}")
        for of in recipe["outliers"]
    ]
    with_ = f"stealguard {made['version']} with torch {made['torch']}"
    facts = [
        ("network", recipe["net"]),
        ("training data", data["name"]),
        ("SHA-256 of the training split", data["train_sha256"]),
        ("SHA-256 of the test split", data["test_sha256"]),
        *outliers,
        ("defense", _settings(recipe["defense"]["name"], recipe["defense"]["settings"], subject.measured)),
        ("training", _settings("", recipe["training"], {}) if was_trained(recipe) else NOT_TRAINED),
        *([("frozen weights of the net", _frozen(recipe["frozen"]))] if recipe.get("frozen") else []),
        ("seed", str(recipe["seed"])),
        ("started from trained weights", _start(recipe)),
        ("made", f"{recipe['created']}, in {recipe['seconds']:.0f} s, by {with_}"),
    ]
    return _as_table(["what", "how"], facts)


def _frozen(found: Mapping[str, int]) -> str:
    every = "all, so that only what the defense has beside the net was trained: "
    return f"{every * is_frozen(found)}{found['weights']:,} of {found['of']:,}"


def _start(recipe: Mapping[str, Any]) -> str:
    weights = recipe.get("weights")
    if weights is not None:
        return f"{weights['file']}; SHA-256 {weights['sha256']}"
    return "no" if recipe["start"] is None else str(recipe["start"])


def _files(subject: Subject) -> str:
    recipe = subject.recipe
    rows = [
        ["identity", subject.identity], ["setting", setting_of(recipe)],
        ["weights.safetensors", recipe["weights_sha256"]], ["recipe.json (sealed)", recipe["sha256"]],
    ]  # fmt: skip
    parts = [part for record in subject.exports.values() for part in (record["heads"], record["model"]) if part["file"]]
    rows += [[part["file"], part["sha256"]] for part in parts]
    text = _as_table(["", "SHA-256"], rows)
    compared = [f"{escaped(part['file'])}: {escaped(str(Parity(**one)))}." for part in parts for one in part["parity"]]
    exports = ["Exports answer as the release does:\n\n" + _listed(compared)] if compared else []
    return "\n\n".join([text, *exports, "`stealguard verify FOLDER --expect IDENTITY` checks all of them."])


# Markdown ---------------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line.

    >>> escaped("a_b|c <script>")
    'a\\\\_b\\\\|c \\\\<script\\\\>'
    """
    return re.sub(r"([\\`*_{}\[\]<>#|!~$&])", r"\\\1", printable(str(text)))


def _as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([escaped(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _listed(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _settings(name: str, settings: Mapping[str, Any], measured: Mapping[str, float]) -> str:
    found = {key: f" (measured: {value:.2f})" for key, value in measured.items()}
    told = ", ".join(f"{key}={value}{found.get(key, '')}" for key, value in settings.items())
    return f"{name} ({told})" if name and told else name or told or "-"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else percent(value)


def _bare(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
