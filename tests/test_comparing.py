"""Compare: a grid by real processes, killed, starved of disk and taken up again, and by a real Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

import stealguard as sg
from grids import environment, tiny, write_sets
from stealguard.errors import Invalid, StealguardError
from stealguard.rows import Row, Store

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("comparing")]

GUARDED = {"defenses": ["none", "ini", "top-k"]}
FACTS = ("release", "defense", "data", "attack", "pool", "labels", "seed", "victim_seed", "queries", "setting")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def whole(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """A grid that nothing has disturbed: six victims, four of them trained, and twelve rows."""
    out = tmp_path_factory.mktemp("compare") / "out"
    return out, sg.compare(tiny(sets, **GUARDED), out, workers=2, threads=1, progress=False)


def attempts(out: Path, event: str = "ends") -> list[dict[str, Any]]:
    path = out / "attempts.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [note for note in map(json.loads, lines) if note["event"] == event]


def facts(rows: list[Row]) -> list[tuple[object, ...]]:
    """What does not depend on how often a grid was interrupted."""
    measured = ("clone_accuracy", "agreement", "benign_accuracy")
    return sorted(tuple(asdict(row)[name] for name in (*FACTS, *measured)) for row in rows)


class Run:
    """`stealguard compare` as a process of its own."""

    def __init__(self, folder: Path, grid: dict[str, Any], out: Path, *options: str, limit: int | None = None):
        path = folder / f"{out.name}.yaml"
        path.write_text(yaml.safe_dump(grid))
        command = [sys.executable, "-m", "stealguard", "compare", str(path), "--out", str(out), *options]
        if limit is not None:  # no file may grow beyond so many KiB
            command = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash", *command]
        self.process = subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> tuple[int, str, str]:
        told, complaints = self.process.communicate(timeout=240)
        return self.process.returncode, told, complaints


def until(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


class TestWhole:
    def test_every_theft_has_a_row(self, whole: tuple[Path, list[Row]]) -> None:
        _, rows = whole
        found = Counter((row.release, row.victim_seed, row.seed, row.labels) for row in rows)
        expected = [(n, s, s, mode) for n in ("none", "ini", "top-k") for s in (0, 1) for mode in ("soft", "hard")]
        assert found == Counter(expected)
        assert {row.status for row in rows} == {"ok"}

    def test_the_seeds_of_a_setting_belong_together(self, whole: tuple[Path, list[Row]]) -> None:
        _, rows = whole
        assert len({(row.release, row.setting) for row in rows}) == 3

    def test_a_guard_shares_the_undefended_weights(self, whole: tuple[Path, list[Row]]) -> None:
        out, _ = whole
        recipes = [json.loads(path.read_text()) for path in out.glob("releases/*/seed-*/recipe.json")]
        weights = {(recipe["defense"]["name"], recipe["seed"]): recipe["weights_sha256"] for recipe in recipes}
        assert len(weights) == 6
        for seed in (0, 1):
            assert weights["none", seed] == weights["top-k", seed] != weights["ini", seed]

    def test_again_nothing_is_done(self, whole: tuple[Path, list[Row]], sets: Path) -> None:
        out, rows = whole
        before = (out / "attempts.jsonl").read_bytes()
        again = sg.compare(tiny(sets, **GUARDED), out, workers=2, threads=1, progress=False)
        assert again == rows
        assert (out / "attempts.jsonl").read_bytes() == before

    def test_the_store_has_what_was_returned(self, whole: tuple[Path, list[Row]]) -> None:
        out, rows = whole
        assert {row.key: row for row in Store(out / "audit.sqlite")} == {row.key: row for row in rows}

    def test_a_changed_line_recomputes_what_it_touches(self, whole: tuple[Path, list[Row]], sets: Path) -> None:
        out, _ = whole
        before = len(attempts(out))
        more = [{"knockoff": {"budget": n, "training": {"epochs": 1, "batch": 32}}} for n in (100, 60)]
        rows = sg.compare(tiny(sets, defenses=["none"], attacks=more), out, workers=1, threads=1, progress=False)
        new = attempts(out)[before:]
        assert len(new) == 2  # a block for each of two victims, none of which is made again
        assert all("knockoff" in note["cell"] for note in new)
        assert Counter(row.budget for row in rows) == {100: 4, 60: 4}


class TestTrouble:
    def test_killed_in_the_middle_it_goes_on(self, whole: tuple[Path, list[Row]], sets: Path, tmp_path: Path) -> None:
        out, grid = tmp_path / "killed", tiny(sets, **GUARDED)
        run = Run(tmp_path, grid, out, "--workers", "2", "--threads", "1")
        until(lambda: len(attempts(out)) >= 4)
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.communicate()
        done = {note["key"] for note in attempts(out)}
        assert 4 <= len(done) < 12
        status, _, complaints = Run(tmp_path, grid, out, "--workers", "2", "--threads", "1").finish()
        assert status == 0, complaints
        assert Counter(note["key"] for note in attempts(out)).most_common(1)[0][1] == 1  # nothing ended twice
        assert facts(list(Store(out / "audit.sqlite"))) == facts(whole[1])
        assert (out / "report.html").stat().st_size > 10_000

    def test_a_cell_that_dies_and_one_that_raises_take_no_other_along(
        self, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "faulty"
        nets = ["lenet5", "faulty:deadly", "faulty:raising"]
        grid = tiny(sets, nets=nets, defenses=["none"], seeds=[0])
        status, told, complaints = Run(tmp_path, grid, out, "--workers", "2", "--threads", "1", "--json").finish()
        rows = [Row.of(json.loads(line)) for line in told.splitlines()]
        assert status == 1
        assert "faulty" in complaints
        reasons = {row.net: row.reason for row in rows}
        assert [(row.net, row.status) for row in rows if row.labels == "soft"] == [
            ("lenet5", "ok"), ("faulty:deadly", "failed"), ("faulty:raising", "failed")
        ]  # fmt: skip
        assert "died" in reasons["faulty:deadly"]
        assert "cannot be built" in reasons["faulty:raising"]
        deaths = [note for note in attempts(out, "begins") if "deadly" in note["cell"]]
        assert len(deaths) == 2  # tried once more: whatever killed it may have meant another
        monkeypatch.setenv("MENDED", "1")
        before = len(attempts(out))
        mended = sg.compare(grid | {"nets": ["lenet5", "faulty:raising"]}, out, workers=1, threads=1, progress=False)
        assert [row.status for row in mended] == ["ok"] * 4
        assert len(attempts(out)) - before == 2  # the victim and its block
        assert len([row for row in Store(out / "audit.sqlite") if row.net == "faulty:raising"]) == 2

    def test_a_full_disk_is_a_reason(self, sets: Path, tmp_path: Path) -> None:
        out, grid = tmp_path / "full", tiny(sets, defenses=["none"], seeds=[0])
        status, told, _ = Run(tmp_path, grid, out, "--workers", "1", "--threads", "1", "--json", limit=120).finish()
        assert status == 1
        rows = [Row.of(json.loads(line)) for line in told.splitlines()]
        assert [row.status for row in rows] == ["failed"] * 2
        assert "File too large" in rows[0].reason
        assert not list(out.glob("releases/*/seed-0/*"))  # nothing half-written where releases are looked for
        again = sg.compare(grid, out, workers=1, threads=1, progress=False)
        assert [row.status for row in again] == ["ok"] * 2
        assert len(Store(out / "audit.sqlite")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "slrum"}, "did you mean `slurm`"),
        ({"workers": 0}, "`workers` should be at least 1"),
        ({"address": "auto"}, "`address` should be for the engines"),
        ({"engine": "slurm", "address": "nowhere"}, "engine `slurm` cannot be used"),
    ],
)
def test_what_cannot_be_is_said_first(sets: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((Invalid, StealguardError), match=message):
        sg.compare(tiny(sets), tmp_path / "out", progress=False, **options)
    assert not list(tmp_path.glob("out/releases/*"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its logs open
@pytest.mark.parametrize("cluster", ["debug", "local"])
def test_slurm_by_submitit(whole: tuple[Path, list[Row]], sets: Path, tmp_path: Path, cluster: str) -> None:
    """No Slurm here: submitit's own processes, and this one, carry out the same jobs."""
    out = tmp_path / cluster
    rows = sg.compare(
        tiny(sets, defenses=["none"], seeds=[0]), out, engine="slurm", address=cluster, workers=2, progress=False
    )
    assert facts(rows) == [fact for fact in facts(whole[1]) if fact[0] == "none" and fact[6] == 0]


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    """A Ray cluster of two raylets on this machine, one processor each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick}  # a lost node is missed within seconds
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster, cluster.add_node(num_cpus=1)
    finally:
        cluster.shutdown()
        assert not ray.is_initialized()


def test_a_ray_cluster_loses_a_node(two_nodes: Any, whole: tuple[Path, list[Row]], sets: Path, tmp_path: Path) -> None:
    cluster, second = two_nodes
    out = tmp_path / "ray"
    run = Run(tmp_path, tiny(sets, **GUARDED), out, "--engine", "ray", "--address", cluster.address)
    # Both nodes are at work, each with its one processor; then one of them is gone.
    until(lambda: len(attempts(out)) >= 2 and len(attempts(out, "begins")) - len(attempts(out)) == 2)
    cluster.remove_node(second, allow_graceful=False)
    status, _, complaints = run.finish()
    assert status == 0, complaints
    rows = list(Store(out / "audit.sqlite"))
    assert facts(rows) == facts(whole[1])
    ends = Counter(note["key"] for note in attempts(out))
    assert len(ends) == 12
    assert set(ends.values()) == {1}  # every cell done, none twice
    assert len(attempts(out, "begins")) > 12  # what the lost node was at had to be begun again
