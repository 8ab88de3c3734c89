"""A server's settings, and the file that holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stealguard.errors import Invalid, StealguardError
from stealguard.serving.config import Config, ServedRelease, read_config
from stealguard.serving.keys import Restriction
from stealguard.serving.limits import Limits


def written(folder: Path, text: str) -> Path:
    path = folder / "server.yaml"
    path.write_text(text)
    return path


def test_paths_in_a_file_are_relative_to_the_folder_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "releases: [runs/a, {path: /b, name: bees, labels: true}]\nledger: l.sqlite\nport: 9000\n")
    config = read_config(path)
    assert config.releases == (ServedRelease(str(tmp_path / "runs/a")), ServedRelease("/b", "bees", labels=True))
    assert (config.ledger, config.port) == (str(tmp_path / "l.sqlite"), 9000)


def test_the_address_of_a_ledger_on_redis_stays_as_it_is(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, "ledger: redis://127.0.0.1:1/0\n")).ledger == "redis://127.0.0.1:1/0"


def test_limits_are_settings_within_the_settings(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, "limits: {rows: 3, body_seconds: 2}\n"))
    assert config.limits == Limits(rows=3, body_seconds=2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot: 1", "did you mean `port`"),
        ("port: 70000", "`port` should be from 0 to 65535. Found 70000"),
        ("backend: tensorflow", "`backend` should be one of auto, onnx, torch"),
        ("releases: runs/a", "`releases` should be a list"),
        ("releases: [{path: a, nam: b}]", "did you mean `name`"),
        ("releases: [{path: a, name: a/b}]", "`name` should be free of spaces"),
        ("releases: [a, b/a]", "`releases` should be of different names or versions. Found `a` twice"),
        ("limits: {rows: 0}", "`rows` should be a finite number above 0"),
        ("[1, 2]", "`config` should be settings"),
        ("a: [", "should be a YAML file of server settings"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(StealguardError, match=told) as e:
        read_config(written(tmp_path, text))
    assert "\n" not in str(e.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StealguardError, match=r"nothing\.yaml"):
        read_config(tmp_path / "nothing.yaml")


def test_a_release_needs_a_path() -> None:
    with pytest.raises(Invalid, match="`path` should be the folder of a release"):
        ServedRelease("")


def test_what_a_release_may_tell_is_a_restriction() -> None:
    assert ServedRelease("a", top_k=3).restriction == Restriction(top_k=3)
    assert ServedRelease("a", labels=True, digits=2).restriction == Restriction(labels=True, digits=2)


def test_names_may_repeat_with_different_versions() -> None:
    Config(releases=(ServedRelease("a", "m", "1"), ServedRelease("b", "m", "2")))
