"""A bill of materials for a release: CycloneDX 1.6 with a model card, as plain JSON, from the release's files alone."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stealguard.errors import Invalid
from stealguard.files import sha256
from stealguard.identity import identity_of
from stealguard.releases.export import read_report
from stealguard.releases.recipes import validated
from stealguard.releases.release import RECIPE, REPORT, WEIGHTS, measured_settings, read_recipe

NAMESPACE = uuid.UUID("6f0c8f0e-6d5e-5f0b-9c55-2f6f9f2a7a10")  # of serial numbers
LIMITS = "An audit is a lower bound on what an attacker can reach."


def bom(folder: str | Path, metrics: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The bill of materials of a release folder, as JSON data.

    The same files give the same bill. Its serial number follows from the release's identity. Its time is that of the
    recipe, or `SOURCE_DATE_EPOCH` where the environment has one.

    Args:
        folder: of the release.
        metrics: names and values that were measured, beside the accuracy on the validation split.

    Raises:
        ReleaseError: the recipe, or the report on exports, was changed; or the weights, where these hold settings.
        Invalid: `SOURCE_DATE_EPOCH` is not a time.
    """
    folder = Path(folder)
    recipe = read_recipe(folder)
    exports = read_report(folder) if (folder / REPORT).exists() else {}
    files, sets_, libraries = _files(folder, exports), _sets(recipe), _libraries(recipe, exports)
    in_place = measured_settings(folder, recipe)
    model = _model(folder.resolve().name, recipe, [entry["bom-ref"] for entry in sets_], metrics or {}, in_place)
    parts = [*files, *sets_, *libraries]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, identity_of(recipe))}",
        "version": 1,
        "metadata": {
            "timestamp": _time(recipe),
            "tools": {"components": [_library("stealguard", recipe["provenance"]["version"], "application")]},
            "component": model,
        },
        "components": parts,
        "dependencies": [
            {"ref": model["bom-ref"], "dependsOn": sorted(part["bom-ref"] for part in parts)},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }


def _model(
    name: str, recipe: Mapping[str, Any], refs: list[str], metrics: Mapping[str, float], in_place: Mapping[str, float]
) -> dict[str, Any]:
    """The model; `in_place` has what was measured in place of settings that are None."""
    defense = recipe["defense"]
    settings = [(f"stealguard:defense:{key}", str(value)) for key, value in defense["settings"].items()]
    facts = [
        ("stealguard:defense", defense["name"]),
        *settings,
        *((f"stealguard:defense:{key}:measured", f"{value:.6g}") for key, value in in_place.items()),
        ("stealguard:weights_sha256", recipe["weights_sha256"]),
    ]
    measured = {**_validation(recipe), **metrics}
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{identity_of(recipe)}",
        "name": name,
        "version": identity_of(recipe)[:12],
        "hashes": [{"alg": "SHA-256", "content": recipe["weights_sha256"]}],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "classification",
                "architectureFamily": recipe["net"],
                "modelArchitecture": recipe["net"],
                "datasets": [{"ref": ref} for ref in refs],
                "inputs": [{"format": f"float32 (N, {', '.join(map(str, recipe['shape']))})"}],
                "outputs": [{"format": f"float32 (N, {recipe['classes']}), rows on the simplex"}],
            },
            "quantitativeAnalysis": {
                "performanceMetrics": [{"type": key, "value": f"{value:.6g}"} for key, value in measured.items()]
            },
            "considerations": {"technicalLimitations": [LIMITS]},
        },
        "properties": [{"name": key, "value": value} for key, value in facts],
    }


def _validation(recipe: Mapping[str, Any]) -> dict[str, float]:
    found = validated(recipe)
    return {} if found is None else {"accuracy on the validation split": found}


def _files(folder: Path, exports: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts = [part for record in exports.values() for part in (record["heads"], record["model"]) if part["file"]]
    hashes = {WEIGHTS: sha256(folder / WEIGHTS), RECIPE: sha256(folder / RECIPE)}
    hashes |= {part["file"]: part["sha256"] for part in parts}
    return [
        {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
        for name, digest in hashes.items()
    ]


def _sets(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The data sets, with hashes of their inputs as they were read, which are none of their files."""
    data = recipe["data"]
    task = {name: data[name] for name in ("train_sha256", "test_sha256")}
    outliers = [
        (f"outliers:{family['name']}", family["name"], {"sha256": family["sha256"]}) for family in recipe["outliers"]
    ]
    return [
        {
            "type": "data", "bom-ref": f"data:{ref}", "name": name, "data": [{"type": "dataset", "name": name}],
            "properties": [{"name": f"stealguard:{key}", "value": value} for key, value in hashes.items()],
        }
        for ref, name, hashes in [(f"task:{data['name']}", data["name"], task), *outliers]
    ]  # fmt: skip


def _libraries(recipe: Mapping[str, Any], exports: Mapping[str, Any]) -> list[dict[str, Any]]:
    made = recipe["provenance"]
    known = {"stealguard": {made["version"]}, "torch": {made["torch"]}}
    for record in exports.values():
        for name, version in record["packages"].items():
            known.setdefault(name, set()).add(version)
    return [_library(name, version) for name in sorted(known) for version in sorted(known[name])]


def _library(name: str, version: str, kind: str = "library") -> dict[str, Any]:
    """A Python package; the local part of a version is no part of its address."""
    ref = f"{kind}:{name}@{version}"
    return {
        "type": kind,
        "bom-ref": ref,
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version.split('+')[0]}",
    }


def _time(recipe: Mapping[str, Any]) -> str:
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return str(recipe["created"])
    try:
        return datetime.fromtimestamp(int(given), UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError) as e:
        raise Invalid("SOURCE_DATE_EPOCH", "a number of seconds since 1970", f"`{given}`") from e
