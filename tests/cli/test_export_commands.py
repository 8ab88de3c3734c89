"""The commands export, verify and card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import stealguard as sg
from stealguard.cli import main

Captured = pytest.CaptureFixture[str]
HOME = Path(__file__).parent.parent.parent


def fails(*arguments: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    assert exit_.value.code == 2


@pytest.mark.slow
def test_export_prints_what_was_compared(folder: Path, capsys: Captured, tmp_path: Path) -> None:
    main(["export", str(folder)])
    told = capsys.readouterr().out
    assert "tier A" in told
    assert told.count("1,000") == 4
    fails("export", str(folder))
    assert capsys.readouterr().err.count("\n") == 1
    main(["export", str(folder), "--to", "torch", "--json", "--out", str(tmp_path / "out")])
    assert json.loads(capsys.readouterr().out)["tier"] == "A"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"heads.pt2", "model.pt2", "export.json"}
    main(["verify", str(folder)])
    assert "heads.onnx" in capsys.readouterr().out


def test_verify_exits_with_2_where_the_release_is_another(folder: Path, capsys: Captured) -> None:
    identity = sg.load(folder).identity
    main(["verify", str(folder), "--expect", identity])
    assert identity in capsys.readouterr().out
    main(["verify", str(folder), "--json"])
    assert json.loads(capsys.readouterr().out)["identity"] == identity
    fails("verify", str(folder), "--expect", "0" * 64)
    assert capsys.readouterr().err.count("\n") == 1
    with (folder / "weights.safetensors").open("ab") as f:
        f.write(b"x")
    fails("verify", str(folder))
    assert "tampered" in capsys.readouterr().err


def test_card_is_printed_or_written(folder: Path, capsys: Captured, tmp_path: Path) -> None:
    main(["card", str(folder)])
    printed = capsys.readouterr().out
    assert "has not been audited" in printed
    main(["card", str(folder), "--json"])
    record = {"identity": sg.load(folder).identity, "rows": 0, "card": printed}
    assert json.loads(capsys.readouterr().out) == record
    out, bom = tmp_path / "README.md", tmp_path / "bom.json"
    main(["card", str(folder), "--out", str(out), "--bom", str(bom)])
    assert out.read_text() == printed
    assert json.loads(bom.read_text())["specVersion"] == "1.6"
    capsys.readouterr()
    fails("card", str(folder), "--out", str(out))
    assert "--overwrite" in capsys.readouterr().err
    main(["card", str(folder), "--out", str(out), "--overwrite"])
    fails("card", str(folder), "--store", str(tmp_path / "none.sqlite"))
    capsys.readouterr()
    fails("card", str(folder), "--store", str(HOME / "docs/results/rivals.jsonl"), "--out", str(tmp_path / "other.md"))
    assert "`store` should be one with rows of" in capsys.readouterr().err
    assert not (tmp_path / "other.md").exists()
