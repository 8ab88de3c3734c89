"""Grids: what a short file stands for, what is wrong with it, and keys that change with what they stand for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from grids import environment, tiny, write_sets
from samples import noise
from stealguard.comparing import run as comparing
from stealguard.comparing.grid import Grid, attack_of, attacks_of, read
from stealguard.defenses import RobustInI
from stealguard.errors import Invalid, StealguardError

HOME = Path(__file__).parent.parent


def small(**changes: Any) -> dict[str, Any]:
    given = {"data": "mnist", "outliers": "cifar10-gray", "defenses": ["none", "ini"], "pools": "letters"}
    return given | changes


def named(grid: Grid) -> list[str]:
    return [one.name for one in grid.defenses]


def test_lists_are_every_combination_and_seeds_are_shared() -> None:
    grid = read(small(data=["mnist", "fashion-mnist"], nets=["lenet5", "resnet18"], seeds=[3, 4]))
    victims = list(grid.victims)
    assert len(victims) == len({victim.key for victim in victims}) == 2 * 2 * 2 * 2
    assert {(victim.defense, victim.seed) for victim in victims} == {(d, s) for d in ("none", "ini") for s in (3, 4)}
    assert all(victim.outliers == ["cifar10-gray"] for victim in victims), "so that all are robbed with the same pools"


def test_a_list_of_a_settings_values_is_swept() -> None:
    grid = read(small(defenses=[{"ini": {"gamma": [0, 1.5], "delta": 2, "epsilon": [0.0, 1000]}}]))
    assert named(grid) == [f"ini gamma={g} epsilon={e}" for g in (0, 1.5) for e in (0.0, 1000)]
    assert [victim.settings["gamma"] for victim in grid.victims] == [0, 0, 1.5, 1.5]
    assert {victim.settings["delta"] for victim in grid.victims} == {2}


def test_training_is_the_presets_then_the_grids_then_the_defenses() -> None:
    defenses = ["none", {"ini-official-mnist": {"name": "official"}}, {"ini": {"epochs": 9, "training": {"lr": 0.3}}}]
    grid = read(small(epochs=2, training={"momentum": 0.1}, defenses=defenses))
    assert named(grid) == ["none", "official", "ini"]
    plain, official, ini = (one.training for one in grid.defenses)
    assert [one.epochs for one in (plain, official, ini)] == [2, 2, 9]
    assert [one.lr for one in (plain, official, ini)] == [0.05, 0.1, 0.3]
    assert {one.momentum for one in (plain, official, ini)} == {0.1}
    assert official.schedule == "step"


def test_an_attack_may_have_its_own_pools_and_budgets() -> None:
    attacks = [{"knockoff": {"budgets": [100, 200]}}, {"jbda": {"pools": ["own:150"], "labels": "soft", "seeds": 9}}]
    blocks = read(small(attacks=attacks, own=[0, 50])).blocks
    assert [(block.attacks[0].budget, block.pools, block.labels) for block in blocks[:2]] == [
        (100, ["letters"], ["soft", "hard"]), (200, ["letters"], ["soft", "hard"]),
    ]  # fmt: skip
    assert (blocks[2].pools, blocks[2].labels, blocks[2].own) == (["own:150"], ["soft"], [0, 50])
    (data,) = attacks_of(blocks[2])
    assert data["settings"]["seeds"] == 9
    assert attack_of(yaml.safe_load(yaml.safe_dump(data))) == blocks[2].attacks[0], "there and back as plain data"


def test_a_suite_is_a_list_of_attacks() -> None:
    assert len(read(small(attacks="quick")).blocks) == 3


def test_outliers_may_be_by_data_set() -> None:
    grid = read(
        small(data=["mnist", "fashion-mnist"], outliers={"mnist": ["letters"], "fashion-mnist": ["cifar10-gray"]})
    )
    assert {victim.data: victim.outliers for victim in grid.victims} == {
        "mnist": ["letters"], "fashion-mnist": ["cifar10-gray"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dta": "mnist"}, r"`dta` should be a key of a grid: .* \(did you mean `data`\?\)"),
        ({"data": "mnits"}, "did you mean `mnist`"),
        ({"data": []}, "`data` should be at least one"),
        ({"data": "npz:nowhere.npz"}, "that is there. Found `npz:nowhere.npz`"),
        ({"nets": "lenet"}, "did you mean `lenet5`"),
        ({"clone": "lenet"}, "did you mean `lenet5`"),
        ({"defenses": ["innie"]}, "`defenses` should be one of none, ini"),
        ({"defenses": [{"ini": {"gama": 1}}]}, r"a setting of `defense ini`: .*did you mean `gamma`"),
        ({"defenses": [{"ini": {"gamma": -1}}]}, "`gamma` should be a finite number of at least 0. Found -1"),
        ({"defenses": [{"ini": {"gamma": []}}]}, "`gamma` should be a value, or a list"),
        ({"defenses": [{"none": {}, "ini": {}}]}, "`defenses` should be a list of names, or of"),
        ({"defenses": [{"ini": {"training": {"lrr": 1}}}]}, "did you mean `lr`"),
        ({"defenses": ["ini", {"ini": {"delta": 0}}]}, "told apart: give one of them a `name`. Found ini more than"),
        ({"outliers": []}, "`outliers` should be given for `mnist`: `ini` needs some"),
        ({"outliers": {"mnits": "letters"}}, "did you mean `mnist`"),
        ({"outliers": "leters"}, "did you mean `letters`"),
        ({"pools": []}, "`pools` should be given"),
        ({"pools": "leters"}, "did you mean `letters`"),
        ({"attacks": "knockof"}, "did you mean `knockoff`"),
        ({"attacks": [{"knockoff": {"bugdet": 3}}]}, "did you mean `budget`"),
        ({"labels": ["sotf"]}, "`labels` should be of soft, hard. Found `sotf`"),
        ({"labels": []}, "`labels` should be at least one"),
        ({"answers": ["sharpn"]}, "did you mean `sharpen`"),
        ({"own": [-1]}, "`own` should be whole numbers"),
        ({"seeds": [0, True]}, "`seeds` should be whole numbers"),
        ({"seeds": [0, 0]}, "`seeds` should be without repetitions"),
        ({"epochs": 0}, "`epochs` should be a whole number of at least 1"),
        ({"resize": "yes please"}, "`resize` should be true or false"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(small(**changes)))
    with pytest.raises(Invalid, match=message):
        read(small(**changes))
    with pytest.raises(StealguardError, match=f"Grid `{path}`: .*{message}"):
        read(path)


@pytest.mark.parametrize("text", ["[", "- a\n- b", "", "\x00"])
def test_what_is_no_grid_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(StealguardError, match=str(path)) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(StealguardError, match="cannot be read"):
        read(tmp_path / "other.yaml")


class TestKeys:
    def keys(self, **changes: Any) -> set[str]:
        return {cell.key for cell in comparing.cells(read(small(**changes)))}

    def test_they_are_the_same_in_every_process(self) -> None:
        code = "from test_grid import TestKeys; print(*sorted(TestKeys().keys()))"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(), capture_output=True, check=True, text=True
        )
        assert set(done.stdout.split()) == self.keys()

    def test_a_changed_line_touches_only_its_own(self) -> None:
        before = self.keys(attacks=["knockoff", "copycat"])
        assert self.keys(attacks=["knockoff", "copycat"], seeds=[0, 1]) > before
        assert self.keys(attacks=["copycat", "knockoff"], defenses=["ini", "none"]) == before, "nor does their order"
        attacks = ["knockoff", {"copycat": {"budget": 5}}]
        assert len(before - self.keys(attacks=attacks)) == 2, "one attack against two victims"
        defenses = ["none", {"ini": {"delta": 0}}]
        assert len(before - self.keys(attacks=["knockoff", "copycat"], defenses=defenses)) == 3, "a victim, two attacks"

    def test_a_name_is_no_part_of_them(self) -> None:
        assert self.keys(defenses=["none", {"ini": {"name": "ours"}}]) == self.keys()

    def test_settings_that_training_does_not_read_share_a_victim(self) -> None:
        swept = read(small(defenses=[{"ini-robust": {"strictness": [0.0, RobustInI.strictness, 9.0]}}]))
        mild, usual, strict = swept.victims
        assert usual.base is None
        assert mild.base is not None
        assert mild.base.key == strict.base.key == usual.key  # type: ignore[union-attr]
        made = [cell.victim.key for cell in comparing.cells(swept) if cell.block is None]
        assert made == [usual.key, mild.key, strict.key], "first the one that is trained"

    def test_other_contents_under_the_same_name_are(self, tmp_path: Path) -> None:
        def keys() -> set[str]:
            return {cell.key for cell in comparing.cells(read(tiny(tmp_path)))}

        write_sets(tmp_path)
        before = keys()
        np.savez(tmp_path / "pool.npz", x=noise(120, seed=8).numpy())
        assert len(keys() & before) == 4, "four victims stay, what is stolen with the pool does not"
        np.savez(tmp_path / "task.npz", x=noise(120, seed=8).numpy())
        assert not keys() & before


@pytest.mark.parametrize("path", sorted((HOME / "docs/results/grids").glob("*.yaml")), ids=lambda p: p.stem)
def test_committed_grids_are_sound(path: Path) -> None:
    from stealguard.releases.presets import PRESETS

    names = [
        name if isinstance(name, str) else next(iter(name)) for name in yaml.safe_load(path.read_text())["defenses"]
    ]
    if missing := set(names) - set(PRESETS):
        pytest.skip(f"no such defense yet: {', '.join(sorted(missing))}")
    assert comparing.cells(read(path))
