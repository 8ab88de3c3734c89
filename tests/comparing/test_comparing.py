"""Compare: whatever happens to a cell, a process, a node or the whole run, no work is lost and none is done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import grids
import stealguard as sg
from grids import environment, write_sets
from own_methods import Uniform
from stealguard.defenses import RobustInI
from stealguard.defenses.base import Defense
from stealguard.errors import Invalid, StealguardError
from stealguard.results import Row, Store
from waiting import until

# Logs that submitit's debug executor leaves open are closed in any of the tests.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

OWN = "own_methods:Uniform"

# Cells in this process, for what no test of processes needs: a process takes seconds to start.
HERE: dict[str, Any] = {"engine": "slurm", "address": "debug", "progress": False}


def tiny(sets: Path, **changes: Any) -> dict[str, Any]:
    return grids.tiny(sets, nets="mlp") | changes


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="module")
def sets(once: Once) -> Path:
    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        write_sets(folder, (1, 6, 6))

    return once("sets of comparisons", make)


@pytest.fixture(scope="module")
def whole(sets: Path, once: Once) -> tuple[Path, list[Row]]:
    """The tiny grid, never interrupted: its folder and its rows."""

    def make(folder: Path) -> None:
        rows = sg.compare(tiny(sets), folder / "out", **HERE)
        (folder / "rows.json").write_text(json.dumps([row.record() for row in rows]))

    folder = once("whole comparison", make)
    return folder / "out", [Row.of(record) for record in json.loads((folder / "rows.json").read_text())]


def attempts(out: Path, event: str) -> list[dict[str, Any]]:
    path = out / "attempts.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [note for note in (json.loads(line) for line in lines if line.endswith("\n")) if note["event"] == event]


def count(out: Path, event: str) -> Counter[str]:
    return Counter(note["key"] for note in attempts(out, event))


def results(rows: Iterable[Row]) -> list[tuple[Any, ...]]:
    return [(r.victim.name, r.seed, r.labels, r.status, r.benign_accuracy, r.clone_accuracy, r.agreement) for r in rows]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def as_process(out: Path, grid: dict[str, Any], *, workers: int, before: str = "") -> subprocess.Popen[bytes]:
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(grid))
    command = ["compare", str(path), "--out", str(out), "--workers", str(workers), "--threads", "1", "--json"]
    code = f"{before}\nfrom stealguard.cli import main\nif __name__ == '__main__': main({command!r})"
    script = out.with_suffix(".py")  # spawned workers read it again
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, str(script)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_every_victim_is_trained_once_and_attacked_with_its_seed(whole: tuple[Path, list[Row]]) -> None:
    out, rows = whole
    assert [(row.victim.name, row.seed, row.labels) for row in rows] == [
        (name, seed, labels) for name in ("none", "ini") for seed in (0, 1) for labels in ("soft", "hard")
    ]
    assert all(row.status == "ok" and row.victim.seed == row.seed for row in rows)
    assert len({row.victim.setting for row in rows}) == 2, "seeds of one setting share it"
    assert len({row.victim.key for row in rows}) == 4
    assert {row.pool_hash for row in rows} == {rows[0].pool_hash}
    assert set(Store(out / "audit.sqlite")) == set(rows)
    assert set(count(out, "begins").values()) == set(count(out, "ends").values()) == {1}
    assert len(count(out, "ends")) == 4 + 4


def test_a_failed_row_is_replaced_in_the_store_when_the_theft_succeeds(
    sets: Path, whole: tuple[Path, list[Row]], tmp_path: Path
) -> None:
    out, rows = Path(shutil.copytree(whole[0], tmp_path / "out")), whole[1]
    Store(out / "audit.sqlite").put(replace(rows[0], status="failed", reason="the first try"))
    assert sg.compare(tiny(sets), out, **HERE) == rows
    assert set(Store(out / "audit.sqlite")) == set(rows)


def test_a_process_that_goes_on_reads_data_that_have_changed(tmp_path: Path) -> None:
    """As processes of a Ray cluster do from one comparison to the next."""
    grid = tiny(write_sets(tmp_path, (1, 6, 6)), defenses=["none"], seeds=[0], labels=["soft"])
    (before,) = sg.compare(grid, tmp_path / "out", **HERE)
    with np.load(tmp_path / "task.npz") as task:
        np.savez(tmp_path / "task.npz", **{**task, "test_x": task["test_x"][::-1]})
    (after,) = sg.compare(grid, tmp_path / "out", **HERE)
    assert before.victim.data_hash != after.victim.data_hash


def test_the_store_calls_victims_as_the_grid_does(sets: Path, whole: tuple[Path, list[Row]], tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole[0], tmp_path / "out"))
    rows = sg.compare(tiny(sets, defenses=[{"none": {"name": "ini"}}, {"ini": {"name": "none"}}]), out, **HERE)
    assert [row.victim.name for row in rows] == ["ini"] * 4 + ["none"] * 4
    assert count(out, "begins") == count(whole[0], "begins")
    assert set(Store(out / "audit.sqlite")) == set(rows)


def test_a_second_run_does_nothing_again_and_a_changed_line_does_only_its_own(
    sets: Path, whole: tuple[Path, list[Row]], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole[0], tmp_path / "out"))
    assert sg.compare(tiny(sets), out, **HERE) == whole[1]
    assert count(out, "begins") == count(whole[0], "begins")
    (out / "audit.sqlite").unlink()
    defenses = ["none", {"ini": {"name": "ours"}}, {"ini": {"name": "new", "delta": 0}}]
    rows = sg.compare(tiny(sets, defenses=defenses, seeds=[0]), out, **HERE)
    assert [row.victim.name for row in rows] == ["none", "none", "ours", "ours", "new", "new"]
    assert len(count(out, "begins")) == 8 + 2, "one victim and its thefts"
    assert {row.key for row in rows} == Store(out / "audit.sqlite").keys()


@pytest.mark.long
@pytest.mark.thorough
def test_a_run_that_was_killed_leaves_no_process_and_continues_to_the_same_rows(
    sets: Path, whole: tuple[Path, list[Row]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = as_process(out, tiny(sets), workers=2)
    until(lambda: len(list(out.glob("cells/*.json"))) >= 1, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: not any(alive(note["pid"]) for note in attempts(out, "begins")))
    ended = count(out, "ends")
    assert 0 < len(ended) < 8, "killed in the middle"
    assert results(sg.compare(tiny(sets), out, workers=2, progress=False)) == results(whole[1])
    assert set(count(out, "ends").values()) == {1}, "none twice"
    assert all(count(out, "begins")[key] == 1 for key in ended), "what had ended was not begun again"


@pytest.mark.long
@pytest.mark.thorough
def test_a_killed_process_stops_no_other_cell_and_its_own_is_done_again(
    sets: Path, whole: tuple[Path, list[Row]], tmp_path: Path
) -> None:
    def kill() -> None:
        note = until(lambda: attempts(tmp_path, "begins"))[0]
        os.kill(note["pid"], signal.SIGKILL)
        killed.append(note["key"])

    killed: list[str] = []
    killer = threading.Thread(target=kill)
    killer.start()
    rows = sg.compare(tiny(sets, seeds=[0]), tmp_path, workers=2, progress=False)
    killer.join()
    assert results(rows) == results(row for row in whole[1] if row.seed == 0)
    begun = count(tmp_path, "begins")
    assert begun.pop(killed[0]) == 2
    assert set(begun.values()) == {1}


def test_a_failure_is_marked_and_done_again_when_its_cause_is_gone(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = tiny(sets, defenses=["none"], seeds=[0], labels=["soft"], own=[0, 20])
    grid["nets"] = ["faulty:sound", "faulty:deadly", "faulty:raising"]
    rows = sg.compare(grid, tmp_path, workers=1, threads=1, progress=False)
    assert [(row.victim.net, row.status) for row in rows] == [
        ("faulty:sound", "ok"), ("faulty:sound", "ok"), ("faulty:deadly", "failed"), ("faulty:deadly", "failed"),
        ("faulty:raising", "failed"), ("faulty:raising", "failed"),
    ]  # fmt: skip
    assert rows[2].reason == "no victim: its process died: killed, or out of memory"
    assert rows[4].reason.startswith("no victim: ")
    assert rows[4].reason.endswith("Found `faulty:raising` (RuntimeError: cannot be built).")
    assert [(row.own, row.budget, row.queries) for row in rows[4:]] == [(0, 100, 0), (20, 100, 0)]
    assert set(Store(tmp_path / "audit.sqlite")) == set(rows)
    monkeypatch.setenv("MENDED", "1")
    grid["nets"].remove("faulty:deadly")
    mended = sg.compare(grid, tmp_path, **HERE)
    assert [row.status for row in mended] == ["ok"] * 4
    assert mended[:2] == rows[:2]
    assert set(Store(tmp_path / "audit.sqlite")) == {*mended, *rows[2:4]}, "the failures that were mended are gone"


def test_a_theft_that_fails_does_not_stop_the_others_of_its_victim(sets: Path, tmp_path: Path) -> None:
    grid = tiny(sets, defenses=["none"], seeds=[0], labels=["soft"])
    grid["attacks"][0]["knockoff"] |= {"budget": [100, 121]}  # the pool has 120
    rows = sg.compare(grid, tmp_path, **HERE)
    assert [row.status for row in rows] == ["ok", "failed"]
    assert "`budget` should be at most 120, the inputs of the pool" in rows[1].reason
    assert rows[1].victim.key == rows[0].victim.key
    assert rows[1].victim.setting == rows[0].victim.setting, "it belongs to the same victim"


def test_a_block_that_fails_fails_with_each_number_of_accounts(sets: Path, tmp_path: Path) -> None:
    grid = tiny(sets, defenses=["none"], seeds=[0], labels=["soft"], nets=["faulty:raising"], accounts=[1, 5])
    rows = sg.compare(grid, tmp_path, **HERE)
    assert [(row.status, row.accounts) for row in rows] == [("failed", 1), ("failed", 5)]
    assert set(Store(tmp_path / "audit.sqlite")) == set(rows)


def test_damaged_files_are_set_aside_and_what_they_held_is_done_again(
    sets: Path, whole: tuple[Path, list[Row]], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole[0], tmp_path / "out"))
    emptied, truncated, foreign, sound = sorted(out.glob("cells/*.json"))
    emptied.write_text("")  # as a power loss leaves it
    truncated.write_text(truncated.read_text()[:200])
    foreign.write_text('[{"attack": 3}]')
    weights = next(out.glob("releases/*/seed-0/weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    assert results(sg.compare(tiny(sets), out, **HERE)) == results(whole[1])
    aside = {path.name for path in out.glob("cells/*.damaged")}
    assert aside == {f"{path.name}.damaged" for path in (emptied, truncated, foreign)}
    assert [path.name for path in out.glob("releases/*/*.damaged")] == ["seed-0.damaged"]
    begun = count(out, "begins")
    assert {key for key, times in begun.items() if times == 2} >= {p.stem for p in (emptied, truncated, foreign)}
    assert begun[sound.stem] == 1
    assert sorted(begun.values()) == [1] * 4 + [2] * 4, "three cells and a victim"
    sg.compare(tiny(sets), out, **HERE)
    assert count(out, "begins") == begun, "and only once"


@pytest.mark.long
@pytest.mark.thorough
def test_a_full_disk_fails_cells_and_spoils_nothing(sets: Path, tmp_path: Path) -> None:
    grid, out = tiny(sets, defenses=["none"], labels=["soft"]), tmp_path / "out"
    (first,) = sg.compare(grid | {"seeds": [0]}, out, **HERE)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))"
    process = as_process(out, grid, workers=1, before=limit)  # each file may have 40 kB: less than weights have
    said, errors = process.communicate()
    assert process.returncode in (1, 2), errors
    assert b"File too large" in errors + said, errors
    assert next(iter(Store(out / "audit.sqlite"))) == first
    assert len(list(out.glob("releases/*/seed-1"))) == 0
    rows = sg.compare(grid, out, **HERE)
    assert [row.status for row in rows] == ["ok", "ok"]
    assert rows[0] == first


@pytest.mark.long
@pytest.mark.thorough
def test_two_runs_at_once_share_the_work(sets: Path, whole: tuple[Path, list[Row]], tmp_path: Path) -> None:
    grid, expected = tiny(sets, seeds=[0]), results(row for row in whole[1] if row.seed == 0)
    processes = [as_process(tmp_path / "out", grid, workers=1) for _ in range(2)]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for text in said:
        assert results(Row.of(json.loads(line)) for line in text.splitlines()) == expected
    assert len(Store(tmp_path / "out" / "audit.sqlite")) == 4, "each theft once, whichever run did it"


@pytest.mark.long
@pytest.mark.thorough
def test_slurm_jobs_give_the_same_rows(
    sets: Path, whole: tuple[Path, list[Row]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    grid = tiny(sets, defenses=["none"], seeds=[0])
    rows = sg.compare(grid, tmp_path, engine="slurm", address="local", progress=False)
    assert results(rows) == results(whole[1][:2])


class TestGuards:
    def test_guards_share_the_weights_of_the_undefended_victim(
        self, sets: Path, whole: tuple[Path, list[Row]], tmp_path: Path
    ) -> None:
        grid = tiny(sets, defenses=[{OWN: {"name": "uniform"}}, "none"], seeds=[0], labels=["soft"])
        rows = sg.compare(grid, tmp_path, **HERE)
        assert [row.victim.name for row in rows] == ["uniform", "none"]
        one, other = (json.loads(path.read_text()) for path in sorted(tmp_path.glob("releases/*/*/recipe.json")))
        assert one["weights_sha256"] == other["weights_sha256"]
        assert one["created"] == other["created"], "trained once"
        assert rows[0].benign_accuracy != rows[1].benign_accuracy
        assert rows[0].victim.metrics["distortion"]
        assert not rows[1].victim.metrics["distortion"]

    def test_guarded_gives_what_protect_gives(self, sets: Path, tmp_path: Path) -> None:
        how: dict[str, Any] = {"epochs": 1, "training": sg.Training(batch=32), "progress": False}
        task = f"npz:{sets}/task.npz"
        plain = sg.protect("mlp", task, out=tmp_path / "plain", defense="none", **how)
        trained = sg.protect("mlp", task, out=tmp_path / "trained", defense=Uniform(), **how)
        made = sg.guarded(plain, Uniform(), tmp_path / "made", data=task)
        apart = {"created", "seconds", "history", "sha256"}
        for key in set(trained.recipe) - apart:
            assert made.recipe[key] == trained.recipe[key], key
        assert sg.load(tmp_path / "made", defense=OWN).hash == made.hash != plain.hash
        with pytest.raises(Invalid, match=r"`out` should be a folder that does not exist yet"):
            sg.guarded(plain, Uniform(), tmp_path / "made")

    def test_a_trained_defense_takes_other_settings_of_its_answers(self, sets: Path, tmp_path: Path) -> None:
        how: dict[str, Any] = {"outliers": f"npz:{sets}/outliers.npz", "epochs": 1, "progress": False}
        task = f"npz:{sets}/task.npz"
        milder, stricter = (RobustInI(strictness=s, memory=False) for s in (-3.0, 9.0))
        release = sg.protect("mlp", task, out=tmp_path / "milder", defense=milder, **how)
        trained = sg.protect("mlp", task, out=tmp_path / "stricter", defense=stricter, **how)
        made = sg.guarded(release, stricter, tmp_path / "made")
        assert made.recipe["weights_sha256"] == trained.recipe["weights_sha256"] == release.recipe["weights_sha256"]
        assert made.recipe["defense"] == trained.recipe["defense"]
        x = torch.rand(8, *release.shape)
        for same in (made.box, sg.load(tmp_path / "made").box):
            assert torch.equal(same(x), trained.box(x))
        assert not torch.allclose(release.box(x), trained.box(x), atol=0.01), "what it was made from is as it was"

    def test_a_defense_with_another_training_is_refused(self, folder: Path, tmp_path: Path) -> None:
        release = sg.load(folder)
        message = r"of the release's training, InI\(.*\)'s; .* Found `own_methods:Uniform`, of an undefended net's"
        with pytest.raises(Invalid, match=message):
            sg.guarded(release, Uniform(), tmp_path / "out")
        with pytest.raises(Invalid, match=r"training, an undefended net's; .* Found `ini`, of InI\(.*\)'s"):
            sg.guarded(sg.Release(folder, release.recipe, release.model, Defense()), sg.InI(), tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "lokal"}, "did you mean `local`"),
        ({"workers": 0}, "`workers` should be at least 1"),
        ({"threads": 0}, "`threads` should be at least 1"),
        ({"address": "auto"}, "`address` should be for the engines `ray` and `slurm`"),
        ({"engine": "slurm"}, "engine `slurm` cannot be used"),
        ({"gpus": -1}, "`gpus` should be at least 0"),
        ({"gpus": 1_000}, r"`gpus` should be at most the \d+ that this machine has"),
        ({"device": "cuda:77"}, "`device` should be a torch device that this machine has"),
        ({"device": "meta:1"}, "`device` should be without a number, or below 1: .* Found `meta:1`"),
    ],
)
def test_a_wrong_argument_is_named(sets: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StealguardError, match=message):
        sg.compare(tiny(sets), tmp_path, progress=False, **changes)
    assert not (tmp_path / "attempts.jsonl").exists()


ON_A_CLUSTER = """
import json, os, signal, sys, threading
from pathlib import Path
import patient_ray
from ray.cluster_utils import Cluster
import stealguard as sg
from test_comparing import attempts, count
from waiting import until

grid, out = json.loads(sys.argv[1]), Path(sys.argv[2])

def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0

def held(raylet):
    for note in attempts(out, "begins"):
        if parent(note["pid"]) == raylet and note["key"] not in count(out, "ends"):
            os.kill(note["pid"], signal.SIGSTOP)
            if note["key"] not in count(out, "ends"):
                return note["key"], note["pid"]
            os.kill(note["pid"], signal.SIGCONT)

def kill():
    # In the middle of a cell, whatever the clock says: its process is held until the node is gone, and then goes too.
    raylet = second.all_processes["raylet"][0].process.pid
    until(lambda: list(out.glob("cells/*.json")))
    told["killed"], worker = until(lambda: held(raylet))
    cluster.remove_node(second, allow_graceful=False)
    os.kill(worker, signal.SIGKILL)

told = {}
try:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
except Exception:
    sys.exit(75)
killer = threading.Thread(target=kill)
killer.start()
rows = sg.compare(grid, out, engine="ray", address=cluster.address, progress=False)
killer.join()
cluster.shutdown()
print(json.dumps({"killed": told["killed"], "status": [row.status for row in rows]}))
"""


def on_a_cluster(script: str, grid: dict[str, Any], out: Path) -> subprocess.CompletedProcess[str]:
    """What the script did, which ends with status 75 if Ray did not start: it gives up soon on a busy machine."""
    command = [sys.executable, "-c", script, json.dumps(grid), str(out)]

    def ran() -> subprocess.CompletedProcess[str] | None:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        return None if done.returncode == 75 else done

    done = until(ran)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.long
@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="tells nodes' processes apart by /proc")
def test_a_ray_cluster_that_loses_a_node_does_every_cell_and_none_twice(sets: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    grid = tiny(sets)
    done = on_a_cluster(ON_A_CLUSTER, grid, tmp_path)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["status"] == ["ok"] * 8
    ended, begun = count(tmp_path, "ends"), count(tmp_path, "begins")
    assert len(ended) == 4 + 4
    assert set(ended.values()) == {1}, "none twice"
    assert begun.pop(told["killed"]) == 2, "what was at work there was begun again"
    assert set(begun.values()) == {1}
    assert len(Store(tmp_path / "audit.sqlite")) == 8


TWICE_ON_A_CLUSTER = """
import json, os, sys
from pathlib import Path
import ray
import stealguard as sg

grid, out = json.loads(sys.argv[1]), Path(sys.argv[2])
os.chdir(out)
try:
    ray.init("local", num_cpus=1, log_to_driver=False, include_dashboard=False)
except Exception:
    sys.exit(75)
widths = []
for width in (5, 7):
    net = f"nn.Sequential(nn.Flatten(), nn.Linear(36, {width}), nn.Linear({width}, 10))"
    (out / "net_of_ray.py").write_text(f"from torch import nn\\ndef net():\\n    return {net}\\n")
    (row,) = sg.compare(grid, out, engine="ray", progress=False)
    widths.append([row.status, row.victim.net_hash])
ray.shutdown()
print(json.dumps(widths))
"""


@pytest.mark.long
@pytest.mark.thorough
def test_a_ray_cluster_that_goes_on_runs_code_that_has_changed(sets: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    grid = tiny(sets, nets="net_of_ray:net", defenses=["none"], labels=["soft"], seeds=[0])
    done = on_a_cluster(TWICE_ON_A_CLUSTER, grid, tmp_path)
    (first, before), (second, after) = json.loads(done.stdout.splitlines()[-1])
    assert first == second == "ok"
    assert before != after
