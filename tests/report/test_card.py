"""A card says what an audit found, what it did not look at, and how the release was made; names cannot change it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from made_up import failed_row, make_row, plain

import stealguard as sg
from exported import written
from stealguard.defenses import RobustInI
from stealguard.errors import ReleaseError
from stealguard.releases.release import WEIGHTS, setting_of, write_into
from stealguard.report.card import card, escaped
from stealguard.results import Row
from stealguard.types import Probabilities

DATA = {"name": "mnist", "train_sha256": "1" * 64, "test_sha256": "2" * 64}
OUTLIERS = [{"name": "letters", "rows": 2000, "held_out": 1000, "sha256": "3" * 64}]


@pytest.fixture
def release(tmp_path: Path) -> sg.Release:
    return written(tmp_path / "mine", RobustInI(), data=DATA, outliers=OUTLIERS, names=["cat", "dog", "owl"])


def row_of(release: sg.Release, **changes: Any) -> Row:
    facts = {
        "release": release.name, "release_hash": release.identity, "setting": setting_of(release.recipe),
        "defense": "ini-robust", "defense_settings": json.dumps(release.recipe["defense"]["settings"]), "classes": 3,
        "benign_accuracy": 0.97,
    }  # fmt: skip
    return make_row(**facts | changes)


def card_of(release: sg.Release, rows: Iterable[Row] = ()) -> str:
    return plain(card(release.folder, rows))


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def front(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_a_release_without_an_audit_says_so(release: sg.Release) -> None:
    text = card_of(release)
    assert "This release has not been audited" in section(text, "How stealable it is")
    assert "there are no audit rows" in section(text, "What has not been audited")
    assert "model-index" not in front(text)
    assert section(text, "Attackers who know the defense").count("not audited") == len(RobustInI().countered_by)


def test_a_card_says_what_the_probabilities_say(release: sg.Release, tmp_path: Path) -> None:
    told = "The class is what counts. The number beside it is the net's accuracy on validation inputs"
    assert told in card_of(release)
    assert told not in card_of(written(tmp_path / "other", sg.defenses.Defense(), data=DATA))


def test_front_matter_is_what_hubs_read_and_leaves_the_license_to_the_owner(release: sg.Release) -> None:
    text = card_of(release, [row_of(release, clone_accuracy=0.8)])
    assert text.startswith("---\n# license: the owner")
    found = front(text)
    assert "license" not in found
    assert found["tags"][:2] == ["stealguard", "model-stealing"]
    assert found["pipeline_tag"] == "tabular-classification"
    metrics = found["model-index"][0]["results"][0]["metrics"]
    assert [(one["name"], one["value"]) for one in metrics] == [
        ("benign accuracy", 0.97),
        ("highest clone accuracy", 0.8),
    ]


def test_a_card_says_that_nothing_was_trained_and_from_which_file_the_weights_are(release: sg.Release) -> None:
    weights = {"file": "w.pt", "sha256": "4" * 64}
    unsealed = {key: value for key, value in release.recipe.items() if key != "sha256"}
    recipe = {**unsealed, "training": {"epochs": 0}, "weights": weights}
    write_into(release.folder, release.model, recipe)
    made = section(card_of(sg.Release(release.folder, recipe, release.model, release.defense)), "How it was made")
    assert "nothing was trained, and the weights are those that were given" in made
    assert f"w.pt; SHA-256 {'4' * 64}" in made
    assert "2,000 not used, 1,000 held out" in made


def test_the_worst_lines_come_first_with_their_floors(release: sg.Release) -> None:
    rows = [
        row_of(release, pool=f"pool-{i}", clone_accuracy=0.3 + i / 100, labels="hard" if i % 2 else "soft")
        for i in range(14)
    ]
    rows.append(row_of(release, pool="mine", own=100, clone_accuracy=0.9, no_theft=0.85, test_inputs=600))
    text = section(card_of(release, rows), "How stealable it is")
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(lines) == 10
    assert "| 90.0 |" in lines[0]
    assert "| 85.0 |" in lines[0]
    assert "pool-13" in lines[1]
    assert "Chance: 33.3 %" in text
    assert "Benign accuracy: 97.0 % (measured on 600 test inputs). " in text
    assert "The 10 worst of 15 lines" in text


def test_a_defense_of_which_nothing_is_known_is_called_so_in_a_sentence(release: sg.Release) -> None:
    text = section(card_of(release, [row_of(release, clone_accuracy=0.1)]), "How stealable it is")
    assert "Whether the defense holds is unknown. " in text
    assert "The defense unknown" not in text


def test_what_an_attacker_does_who_knows_the_defense_is_told_line_by_line(release: sg.Release) -> None:
    rows = [
        row_of(release, attack="explore", clone_accuracy=0.6),
        row_of(release, attack="explore", pool="digits", clone_accuracy=0.7, labels="hard"),
        row_of(release, accounts=64, clone_accuracy=0.65),
        row_of(release, treatment="sharpen+smooth", clone_accuracy=0.5),
    ]
    text = section(card_of(release, rows), "Attackers who know the defense")
    assert "| the attack explore | 70.0 | 2 |" in text
    assert "| trains on the most probable class alone | 70.0 | 1 |" in text
    assert "| divides the queries over many accounts | 65.0 | 1 |" in text
    assert "| treats the answers: smooth | 50.0 | 1 |" in text
    assert "| the attack sieve | not audited | 0 |" in text


def test_what_no_row_looked_at_is_listed(release: sg.Release) -> None:
    text = section(card_of(release, [row_of(release, in_family=True)]), "What has not been audited")
    for sentence in (
        "Budgets above 20,000 queries", "more than 1 account.", "most probable class alone", "own labeled task data",
        "outside of the defender's own outlier families", "More than one clone", "from another seed",
    ):  # fmt: skip
        assert sentence in text
    assert "whole answers" not in text
    more = [row_of(release), row_of(release, labels="hard"), row_of(release, own=50), row_of(release, seed=1)]
    text = section(card_of(release, [*more, failed_row(**of_failed(release))]), "What has not been audited")
    for sentence in ("most probable class alone", "own labeled task data", "outlier families"):
        assert sentence not in text
    assert "What failed or was skipped" in text


def of_failed(release: sg.Release) -> dict[str, Any]:
    row = row_of(release)
    return {
        "release": release.name, "release_hash": release.identity, "setting": row.victim.setting,
        "defense": "ini-robust", "defense_settings": row.victim.defense_settings, "classes": 3, "attack": "jbda",
    }  # fmt: skip


def test_rows_of_another_release_are_not_its_own(release: sg.Release) -> None:
    text = card_of(release, [make_row(clone_accuracy=0.99)])
    assert "This release has not been audited" in text
    assert "99.0" not in text


def test_a_setting_that_was_measured_has_its_number_beside_it(release: sg.Release, tmp_path: Path) -> None:
    with torch.no_grad():
        release.model.measured.first.fill_(5.918)
    write_into(release.folder, release.model, {k: v for k, v in release.recipe.items() if k != "sha256"})
    assert "strictness=None (measured: 5.92), floor=-3.0" in section(card_of(release), "How it was made")
    given = written(tmp_path / "given", RobustInI(strictness=6.0))
    assert "measured" not in section(card_of(given), "How it was made")
    (release.folder / WEIGHTS).write_bytes((given.folder / WEIGHTS).read_bytes())
    with pytest.raises(ReleaseError, match="should have SHA-256"):
        card(release.folder)


def test_it_tells_how_the_release_was_made_and_its_hashes(release: sg.Release) -> None:
    text = card_of(release)
    made = section(text, "How it was made")
    for word in ("mnist", "1" * 64, "2" * 64, "letters", "2,000 trained on, 1,000 held out", "strictness=None"):
        assert word in made
    files = section(text, "Files")
    assert release.identity in files
    assert release.recipe["weights_sha256"] in files
    assert "3 classes (cat, dog, owl)" in text


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a | b | c", "# title\n# other", "[x](http://x)", "`a` *b*"]
)
def test_names_cannot_change_the_card(name: str, tmp_path: Path) -> None:
    release = written(tmp_path / "r", data={**DATA, "name": name}, names=[name, "b", "c"])
    text = card_of(release)
    body = text.split("---\n", 2)[2]
    assert name not in body
    assert escaped(name) in body
    assert len([line for line in body.splitlines() if line.startswith("# ")]) == 1
    assert front(text)["datasets"] == [name]
    assert release.output == Probabilities(3, (name, "b", "c"))


def test_the_same_release_gives_the_same_card(release: sg.Release) -> None:
    rows = [row_of(release, pool=pool) for pool in ("a", "b", "c")]
    assert card_of(release, rows) == card_of(release, rows[::-1])
