"""The files that the documentation gives for running a server; test_several_servers.py runs that of nginx."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stealguard.cli.serve import serve

HOME = Path(__file__).parents[1] / "docs" / "deploy"
KNOWN = {f"--{name.replace('_', '-')}" for name in serve.__kwdefaults__}


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "stealguard.service"
    unit.write_text((HOME / "stealguard.service").read_text().replace("/opt/stealguard/bin/stealguard", "/bin/true"))
    done = subprocess.run([program, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_and_the_container_use_options_that_there_are() -> None:
    text = (HOME / "Dockerfile").read_text()
    entry, command = (json.loads(re.search(rf"^{name} (\[.*\])$", text, re.M)[1]) for name in ("ENTRYPOINT", "CMD"))
    started = re.findall(r"^ExecStart\w*=/opt/stealguard/bin/(.*)$", (HOME / "stealguard.service").read_text(), re.M)
    assert len(started) == 2
    for words in ([*entry, *command], *(line.split() for line in started)):
        assert words[:2] == ["stealguard", "serve"]
        assert {word for word in words if word.startswith("--")} <= KNOWN
