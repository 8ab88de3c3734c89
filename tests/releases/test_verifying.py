"""A release whose files are not those that were written is found out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import stealguard as sg
from stealguard.errors import Invalid, ReleaseError
from stealguard.releases.export import Exported
from stealguard.releases.verifying import verified


def test_a_whole_release_tells_its_identity(folder: Path) -> None:
    found, release = verified(folder), sg.load(folder)
    assert (found.identity, found.weights_sha256) == (release.identity, release.recipe["weights_sha256"])
    assert found.files == ("recipe.json", "weights.safetensors")
    assert verified(folder, found.identity) == verified(folder, found.weights_sha256.upper()) == found


@pytest.mark.parametrize("expect", ["0" * 64, "", "é"])
def test_another_release_than_the_expected_one_is_named(folder: Path, expect: str) -> None:
    with pytest.raises(Invalid, match="`expect` should be the release's identity or the SHA-256 of its weights"):
        verified(folder, expect)


def test_a_prefix_is_not_enough(folder: Path) -> None:
    with pytest.raises(Invalid):
        verified(folder, verified(folder).identity[:12])


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors"])
def test_a_changed_file_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ReleaseError):
        verified(folder)


@pytest.mark.slow
def test_exports_are_checked_as_well(plain: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain.folder, tmp_path / "r"))
    assert verified(folder).files[2:] == ("export.json", "heads.onnx", "model.onnx")
    with (folder / "model.onnx").open("ab") as f:
        f.write(b"x")
    with pytest.raises(ReleaseError, match=r"model.onnx` should have SHA-256"):
        verified(folder)
    (folder / "export.json").unlink()
    with pytest.raises(ReleaseError, match=r"heads\.onnx, model\.onnx, of which no report tells"):
        verified(folder)
