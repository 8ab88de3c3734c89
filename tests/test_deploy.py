"""The files that the documentation gives for running a server; test_several_servers.py runs that of nginx."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stealguard.cli.serve import serve
from stealguard.serving.limits import Limits

HOME = Path(__file__).parents[1] / "docs" / "deploy"
TEXT = (HOME.parent / "deploy.md").read_text()
DOCKERFILE = (HOME / "Dockerfile").read_text()
UNIT = (HOME / "stealguard.service").read_text()
KNOWN = {f"--{name.replace('_', '-')}" for name in serve.__kwdefaults__}


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "stealguard.service"
    unit.write_text(UNIT.replace("/opt/stealguard/bin/stealguard", "/bin/true"))
    done = subprocess.run([program, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_and_the_container_use_options_that_there_are() -> None:
    entry, command = (_words(name) for name in ("ENTRYPOINT", "CMD"))
    started = re.findall(r"^ExecStart\w*=/opt/stealguard/bin/(.*)$", UNIT, re.M)
    assert len(started) == 2
    for words in ([*entry, *command], *(line.split() for line in started)):
        assert words[:2] == ["stealguard", "serve"]
        assert {word for word in words if word.startswith("--")} <= KNOWN


def test_the_container_is_built_from_what_a_checkout_has() -> None:
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)]
    assert copied
    assert all((HOME.parents[1] / path).exists() for paths in copied for path in paths)
    assert set(re.findall(r"--build-arg (\w+)=", TEXT)) <= set(re.findall(r"^ARG (\w+)$", DOCKERFILE, re.M))


def test_podman_keeps_the_health_check_which_asks_the_port_that_is_served() -> None:
    built = re.findall(r"podman build .*", TEXT + DOCKERFILE)
    assert built
    assert all("--format docker" in line for line in built)  # the format OCI has no health check
    command = _words("CMD")
    port = command[command.index("--port") + 1]
    assert f"http://127.0.0.1:{port}/v2/health/ready" in DOCKERFILE
    assert f"EXPOSE {port}\n" in DOCKERFILE


def test_a_server_that_is_stopped_has_the_time_to_answer_what_was_asked() -> None:
    given = re.findall(r"--stop-timeout (\d+)", TEXT) + re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)
    assert len(given) == 2
    assert min(map(int, given)) > Limits().drain_seconds


def test_a_key_is_there_before_the_unit_starts() -> None:
    assert "--check" in UNIT
    assert TEXT.index("keys add ann --ledger /var/lib/stealguard") < TEXT.index("systemctl enable --now")


def test_the_unit_lets_torch_see_what_the_processor_can() -> None:
    assert not re.search(r"^ProcSubset=", UNIT, re.M)  # it hides /proc/cpuinfo


def _words(instruction: str) -> list[str]:
    return json.loads(re.search(rf"^{instruction} (\[.*\])$", DOCKERFILE, re.M)[1])
