"""The server's OpenAPI document: what it names, and that the server does what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from served import Linear, MemoryLedger, running
from stealguard.serving.app import Application


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, dict[str, str]]]:
    """The server's address, and the headers that it wants."""
    ledger = MemoryLedger()
    headers = {"Authorization": f"Bearer {ledger.add('ann')}"}
    with running(Application({("linear", "1"): Linear()}, ledger)) as server:
        yield f"http://127.0.0.1:{server.port}", headers


def test_the_document_names_each_path_that_does_something(served: tuple[str, dict[str, str]]) -> None:
    url, headers = served
    document = httpx.get(f"{url}/openapi.json", headers=headers).json()
    models = {
        f"/v2/models/linear{version}{rest}" for version in ("", "/versions/1") for rest in ("", "/ready", "/infer")
    }
    assert set(document["paths"]) == {
        "/v2", "/v2/", "/v2/health/live", "/v2/health/ready", "/v2/repository/index", *models,
    }  # fmt: skip
    tensor = document["paths"]["/v2/models/linear/infer"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    shape = tensor["properties"]["inputs"]["items"]["properties"]["shape"]["prefixItems"]
    assert shape == [{"type": "integer", "minimum": 1, "maximum": 64}, {"const": 1}, {"const": 4}, {"const": 4}]
    assert all(path["get"]["security"] == [] for name, path in document["paths"].items() if "health" in name)


@pytest.mark.thorough
def test_the_server_does_what_the_document_says(served: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Schemathesis' checks, less one: no schema can say that there are as many numbers as the shape has."""
    url, headers = served
    every = bool(os.environ.get("STEALGUARD_ALL"))
    phases = [] if every else ["--phases", "coverage,fuzzing"]
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--max-examples"]
    command += ["300" if every else "3", "--exclude-checks", "positive_data_acceptance", "--no-color", *phases]
    command += ["--generation-deterministic", "--header", f"Authorization: {headers['Authorization']}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5_000:] + run.stderr[-2_000:]
    assert "Tested: 11" in run.stdout
