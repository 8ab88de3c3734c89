"""The bill of materials is valid CycloneDX 1.6, and follows from the release's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import stealguard as sg
from exported import written
from stealguard.defenses import RobustInI
from stealguard.errors import Invalid, ReleaseError
from stealguard.files import sha256
from stealguard.releases.bom import bom
from stealguard.releases.export import Exported
from stealguard.releases.release import write_into

DATA = {"name": "mnist", "train_sha256": "1" * 64, "test_sha256": "2" * 64}
OUTLIERS = [{"name": "mnist", "rows": 2000, "held_out": 1000, "sha256": "3" * 64}]


@pytest.fixture
def release(tmp_path: Path) -> sg.Release:
    return written(tmp_path / "mine", RobustInI(), data=DATA, outliers=OUTLIERS, history=[{"validation": 0.98765}])


def faults(found: object) -> object:
    """What the strict validator of CycloneDX says; None where it is content."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(found))


@pytest.mark.thorough
@pytest.mark.slow
def test_it_is_valid(release: sg.Release) -> None:
    assert faults(bom(release.folder, {"clone accuracy": 0.2})) is None
    broken = bom(release.folder)
    broken["metadata"]["component"]["modelCard"]["considerations"] = "none"
    assert faults(broken) is not None, "the validator looks into the model card"


@pytest.mark.slow
def test_it_is_valid_with_exports_and_has_their_hashes(plain: Exported) -> None:
    folder = plain.folder
    found = bom(folder)
    assert faults(found) is None
    hashes = {part["name"]: part["hashes"][0]["content"] for part in found["components"] if part["type"] == "file"}
    names = ("weights.safetensors", "recipe.json", "heads.onnx", "model.onnx")
    assert hashes == {name: sha256(folder / name) for name in names}
    libraries = {part["name"] for part in found["components"] if part["type"] == "library"}
    assert libraries == {"stealguard", "torch", "onnx", "onnxscript", "onnxruntime"}


def test_it_follows_from_the_files(release: sg.Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    found = bom(release.folder)
    assert bom(release.folder) == found
    assert found["metadata"]["timestamp"] == release.recipe["created"]
    other = bom(written(tmp_path / "other", RobustInI(strictness=1.0)).folder)
    assert other["serialNumber"] != found["serialNumber"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert bom(release.folder)["metadata"]["timestamp"] == "1970-01-02T00:00:00+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(Invalid, match="`SOURCE_DATE_EPOCH` should be a number of seconds"):
        bom(release.folder)


def test_a_setting_that_was_measured_has_its_number_beside_it(release: sg.Release, tmp_path: Path) -> None:
    properties = bom(release.folder)["metadata"]["component"]["properties"]
    at = properties.index({"name": "stealguard:defense:strictness", "value": "None"})
    number = f"{release.model.measured.first.item():.6g}"
    assert {"name": "stealguard:defense:strictness:measured", "value": number} in properties[at:]
    given = bom(written(tmp_path / "given", RobustInI(strictness=6.0)).folder)
    assert not [one for one in given["metadata"]["component"]["properties"] if one["name"].endswith(":measured")]


def test_weights_without_the_number_are_told(release: sg.Release) -> None:
    write_into(release.folder, release.model.net, {k: v for k, v in release.recipe.items() if k != "sha256"})
    with pytest.raises(ReleaseError, match=r"should hold a number as measured\.first"):
        bom(release.folder)


def test_it_tells_the_model_its_data_and_what_was_measured(release: sg.Release) -> None:
    found = bom(release.folder)
    model = found["metadata"]["component"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": release.recipe["weights_sha256"]}]
    card = model["modelCard"]
    measured = card["quantitativeAnalysis"]["performanceMetrics"]
    assert measured == [{"type": "accuracy on the validation split", "value": "0.98765"}]
    sets = {part["bom-ref"]: part for part in found["components"] if part["type"] == "data"}
    assert {entry["ref"] for entry in card["modelParameters"]["datasets"]} == set(sets), "task and outliers of one name"
    assert {"name": "stealguard:test_sha256", "value": "2" * 64} in sets["data:task:mnist"]["properties"]
    refs = [entry["ref"] for entry in found["dependencies"]]
    assert len(set(refs)) == len(refs) == len(found["components"]) + 1
