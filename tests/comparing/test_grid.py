"""Grids: what a short file stands for, what is wrong with it, and keys that change with all they stand for."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from grids import environment, tiny, write_sets
from own_methods import Halves, Lazy
from samples import noise
from stealguard.attacks import Knockoff
from stealguard.auditing.suites import ACCOUNTS
from stealguard.comparing.cells import attack_of, attacks_of, contents_of, plan, unpinned, victims
from stealguard.comparing.grid import GridSpec, read
from stealguard.data import OF_FILES, SETS, store
from stealguard.defenses import InI, RobustInI
from stealguard.defenses.base import Defense
from stealguard.errors import Invalid, StealguardError

HOME = Path(__file__).parent.parent.parent


def small(**changes: Any) -> dict[str, Any]:
    given = {"data": "mnist", "outliers": "cifar10-gray", "defenses": ["none", "ini"], "pools": "letters"}
    return given | changes


def names(grid: GridSpec) -> list[str]:
    return [one.name for one in grid.defenses]


def test_lists_stand_for_every_combination_and_seeds_are_shared() -> None:
    grid = read(small(data=["mnist", "fashion-mnist"], nets=["lenet5", "resnet18"], seeds=[3, 4]))
    planned = list(victims(grid, contents_of))
    assert len(planned) == len({victim.key for victim in planned}) == 2 * 2 * 2 * 2
    assert {(victim.defense, victim.seed) for victim in planned} == {(d, s) for d in ("none", "ini") for s in (3, 4)}
    assert all(victim.outliers == ["cifar10-gray"] for victim in planned), "all are attacked with the same pools"


def test_each_value_of_a_list_of_a_settings_values_is_tried() -> None:
    grid = read(small(defenses=[{"ini": {"gamma": [0, 1.5], "delta": 2, "epsilon": [0.0, 1000]}}]))
    assert names(grid) == [f"ini gamma={g} epsilon={e}" for g in (0, 1.5) for e in (0.0, 1000)]
    assert [victim.settings["gamma"] for victim in victims(grid, contents_of)] == [0, 0, 1.5, 1.5]
    assert {victim.settings["delta"] for victim in victims(grid, contents_of)} == {2}


def test_training_is_the_presets_then_what_the_grid_says_then_what_the_defense_says() -> None:
    defenses = ["none", {"ini-official-mnist": {"name": "official"}}, {"ini": {"epochs": 9, "training": {"lr": 0.3}}}]
    grid = read(small(epochs=2, training={"momentum": 0.1}, defenses=defenses))
    assert names(grid) == ["none", "official", "ini"]
    plain, official, ini = (one.training for one in grid.defenses)
    assert [one.epochs for one in (plain, official, ini)] == [2, 2, 9]
    assert [one.lr for one in (plain, official, ini)] == [0.05, 0.1, 0.3]
    assert {one.momentum for one in (plain, official, ini)} == {0.1}
    assert official.schedule == "step"


def test_an_attack_may_have_its_own_pools_and_budgets() -> None:
    attacks = [{"knockoff": {"budgets": [100, 200]}}, {"jbda": {"pools": ["own:150"], "labels": "soft", "seeds": 9}}]
    blocks = read(small(attacks=attacks, own=[0, 50])).blocks(Defense())
    assert [(block.attacks[0].budget, block.pools, block.labels) for block in blocks[:2]] == [
        (100, ["letters"], ["soft", "hard"]), (200, ["letters"], ["soft", "hard"]),
    ]  # fmt: skip
    assert (blocks[2].pools, blocks[2].labels, blocks[2].own) == (["own:150"], ["soft"], [0, 50])
    (data,) = attacks_of(blocks[2])
    assert data["settings"]["seeds"] == 9
    assert attack_of(yaml.safe_load(yaml.safe_dump(data))) == blocks[2].attacks[0], "there and back as plain data"


def test_a_suite_is_a_list_of_attacks() -> None:
    assert len(read(small(attacks="quick")).blocks(Defense())) == 3


def test_adaptive_attackers_know_each_defense_of_the_grid() -> None:
    grid = read(small(attacks="adaptive", budgets=[70], defenses=["none", "dcp", "prada"]))
    plain, dcp, prada = (grid.blocks(one.defense) for one in grid.defenses)
    assert [block.treatments for block in dcp[len(plain) :]] == [["p-bayes"], ["d-dae"]]
    assert prada[-1].accounts == ACCOUNTS
    assert {attack.budget for blocks in (plain, dcp, prada) for block in blocks for attack in block.attacks} == {70}


@pytest.mark.parametrize(
    ("key", "value"),
    [("labels", ["soft"]), ("labels", ["soft", "hard"]), ("treatments", [""]), ("own", [0]), ("accounts", [1])],
)
def test_what_a_suite_chooses_is_refused_beside_it(key: str, value: list[Any]) -> None:
    with pytest.raises(Invalid, match=f"`{key}` should be left out: the suite `adaptive` chooses them"):
        read(small(attacks="adaptive", **{key: value}))


def test_attacks_of_a_suite_that_differ_in_nothing_but_budgets_are_one_with_a_budget() -> None:
    blocks = read(small(attacks="standard", budgets=[70])).blocks(Defense())
    assert list(blocks[0].attacks) == [Knockoff(budget=70)]


def test_the_budget_of_an_attack_comes_before_the_budgets_of_all() -> None:
    attacks = ["copycat", {"knockoff": {"budget": [5, 6]}}]
    blocks = read(small(attacks=attacks, budgets=[30, 40])).blocks(Defense())
    assert [block.attacks[0].budget for block in blocks] == [30, 40, 5, 6]
    (block,) = read(small(attacks=Knockoff(budget=7), budgets=[30])).blocks(Defense())
    assert block.attacks[0].budget == 30, "an attack that is handed over always has a budget"


def test_outliers_may_be_by_data_set() -> None:
    grid = read(
        small(data=["mnist", "fashion-mnist"], outliers={"mnist": ["letters"], "fashion-mnist": ["cifar10-gray"]})
    )
    assert {victim.data: victim.outliers for victim in victims(grid, contents_of)} == {
        "mnist": ["letters"], "fashion-mnist": ["cifar10-gray"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dta": "mnist"}, r"`dta` should be a key of a grid: .* \(did you mean `data`\?\)"),
        ({"data": "mnits"}, "did you mean `mnist`"),
        ({"data": []}, "`data` should be at least one"),
        ({"data": "csv:nowhere.csv"}, "that is there. Found `csv:nowhere.csv`"),
        ({"data": "npz:nowhere.npz"}, "that is there. Found `npz:nowhere.npz`"),
        ({"nets": "lenet"}, "did you mean `lenet5`"),
        ({"nets": 3}, "`nets` should be a name, or a list of names. Found 3"),
        ({"nets": "no_such_module:net"}, "`nets` should be an importable `module:name`"),
        ({"nets": "own_methods:__name__"}, "`nets` should be a callable that makes a network"),
        ({"data": 3}, "`data` should be a name, or a list of names. Found 3"),
        ({"data": {"mnist": 3}}, "`data` should be a name, or a list of names"),
        ({"clone": ["lenet5", "resnet18"]}, "`clone` should be the name of one network"),
        ({"training": 3}, "`training` should be a mapping of settings. Found 3"),
        ({"epochs": "many"}, "`epochs` should be of the kind of 10. Found 'many'"),
        ({"clone": "lenet"}, "did you mean `lenet5`"),
        ({"defenses": ["innie"]}, "`defenses` should be one of none, ini"),
        ({"defenses": [{"ini": {"gama": 1}}]}, r"a setting of `defense ini`: .*did you mean `gamma`"),
        ({"defenses": [{"ini": {"gamma": -1}}]}, "`gamma` should be a finite number of at least 0. Found -1"),
        ({"defenses": [{"ini": {"gamma": []}}]}, "`gamma` should be a value, or a list"),
        ({"defenses": [{"none": {}, "ini": {}}]}, "`defenses` should be a list of names, or of"),
        ({"defenses": [{"ini": {"training": {"lrr": 1}}}]}, "did you mean `lr`"),
        ({"defenses": ["ini", {"ini": {"delta": 0}}]}, "told apart: give one of them a `name`. Found ini more than"),
        ({"defenses": ["ini", {"ini": {"name": "ours"}}]}, "unlike each other. Found `ini` and `ours` with eq"),
        ({"defenses": ["no_such_module:D"]}, "`defenses` should be an importable `module:name`"),
        ({"defenses": ["own_methods:Lazy"]}, "`defenses` should be a defense: a frozen dataclass, a subclass of"),
        ({"defenses": [{"own_methods:Halves": {"shar": 1}}]}, "did you mean `share`"),
        ({"defenses": [{"ini": {"name": 3}}]}, "`name` should be a text. Found 3"),
        ({"defenses": [{"ini": 0}]}, "`defenses ini` should be a mapping of settings. Found 0"),
        ({"defenses": [{"ini": {"gamma": list(range(101)), "delta": list(range(100))}}]}, "at most 10000 combinations"),
        ({"outliers": []}, "`outliers` should be given for `mnist`: `ini` needs some"),
        ({"outliers": {"mnits": "letters"}}, "did you mean `mnist`"),
        ({"outliers": "leters"}, "did you mean `letters`"),
        ({"pools": []}, "`pools` should be given"),
        ({"pools": 3}, "`pools` should be a set's name, or one of folder:PATH, wds:PATH, .*. Found 3"),
        ({"pools": "own:many"}, "`pools` should be own:N with N at least 1. Found `own:many`"),
        ({"pools": "leters"}, "did you mean `letters`"),
        ({"attacks": "knockof"}, "did you mean `knockoff`"),
        ({"attacks": [{"knockoff": {"bugdet": 3}}]}, "did you mean `budget`"),
        ({"attacks": "own_methods:Nothing"}, "`attacks` should be an importable `module:name`"),
        ({"attacks": "own_methods:Halves"}, "`attacks` should be an attack with `budget`"),
        ({"labels": ["sotf"]}, "`labels` should be of soft, hard. Found `sotf`"),
        ({"labels": []}, "`labels` should be at least one"),
        ({"treatments": ["sharpn"]}, "did you mean `sharpen`"),
        ({"treatments": [3]}, "`treatments` should be names joined by .*, or an empty text. Found 3"),
        ({"answers": [""]}, "`answers` should be called `treatments`, its name since version 0.2"),
        ({"thief": "lenet5"}, "`thief` should be called `clone`, its name since version 0.2"),
        ({"attacks": [{"knockoff": {"answers": ["top-1"]}}]}, "`answers` should be called `treatments`"),
        ({"own": [-1]}, "`own` should be whole numbers"),
        ({"seeds": [0, True]}, "`seeds` should be whole numbers"),
        ({"seeds": [0, 0]}, "`seeds` should be without repetitions"),
        ({"epochs": 0}, "`epochs` should be a whole number of at least 1"),
        ({"epochs": 2, "training": {"epochs": 3}}, "given once: by itself or in `training`. Found 2"),
        ({"defenses": [{"none": {"epochs": 2, "training": {"epochs": 3}}}]}, "`epochs` should be given once"),
        ({"attacks": [{"knockoff": {"budget": 2, "budgets": [3]}}]}, "`budgets` should be left out beside `budget`"),
        ({"attacks": [{"knockoff": {"budget": 2}}], "budgets": [3]}, "`budgets` should be left out: every attack has"),
        ({"attacks": [{"jbda": {"labels": "soft"}}], "labels": "hard"}, "`labels` should be left out: every attack"),
        ({"nets": ["lenet"]}, "`nets` should be one of lenet5, .*did you mean `lenet5`"),
        ({"clone": "lenet"}, "`clone` should be one of lenet5, .*did you mean `lenet5`"),
        ({"resize": "yes please"}, "`resize` should be true or false"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_named_with_its_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(small(**changes)))
    with pytest.raises(Invalid, match=message):
        read(small(**changes))
    with pytest.raises(StealguardError, match=f"Grid `{path}`: .*{message}") as caught:
        read(path, allow_code=True)
    assert "\n" not in str(caught.value)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(small()) + "training: {lr: 1e-3}\n")
    assert {one.training.lr for one in read(path).defenses} == {0.001}


class TestOwnCode:
    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"nets": ["lenet5", "own_methods:net"]}, "own_methods:net"),
            ({"clone": "own_methods:net"}, "own_methods:net"),
            ({"defenses": ["own_methods:Halves"]}, "own_methods:Halves"),
            ({"defenses": [{"own_methods:Halves": {"share": 0.1}}]}, "own_methods:Halves"),
            ({"defenses": [{"ini": {"surrogate": "own_methods:net"}}]}, "own_methods:net"),
            ({"attacks": "own_methods:Lazy"}, "own_methods:Lazy"),
            ({"attacks": [{"own_methods:Lazy": {"budget": 3}}]}, "own_methods:Lazy"),
        ],
    )
    def test_a_file_that_names_code_is_refused_unless_it_is_allowed(
        self, tmp_path: Path, changes: dict[str, Any], code: str
    ) -> None:
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(small(**changes)))
        message = rf"free of code to import, unless `--allow-code` \(`allow_code=True`\) is given. Found `{code}`"
        with pytest.raises(StealguardError, match=message):
            read(path)
        assert plan(read(path, allow_code=True))
        assert plan(read(small(**changes))), "a mapping is the caller's own code"

    def test_code_that_is_not_allowed_is_not_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "hostile.py").write_text("raise SystemExit")
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(small(clone="hostile:net")))
        with pytest.raises(StealguardError, match="free of code"):
            read(tmp_path / "grid.yaml")
        assert "hostile" not in sys.modules

    def test_names_with_a_colon_that_are_no_code_are_taken(self, tmp_path: Path) -> None:
        path = tmp_path / "grid.yaml"
        defenses, attacks = ["ini", {"none": {"name": "a: b"}}], ["jbda", {"knockoff": {"pools": ["own:150"]}}]
        path.write_text(yaml.safe_dump(small(defenses=defenses, attacks=attacks, pools=["own:20"])))
        assert names(read(path)) == ["ini", "a: b"]

    def test_own_methods_are_there_and_back_as_plain_data(self) -> None:
        attacks = [{"own_methods:Lazy": {"patience": [1, 2], "budgets": [5, 6]}}]
        grid = read(small(attacks=attacks, defenses=[{"own_methods:Halves": {"share": [0.1, 0.2]}}]))
        assert [block.attacks[0] for block in grid.blocks(Defense())] == [
            Lazy(5, 1),
            Lazy(6, 1),
            Lazy(5, 2),
            Lazy(6, 2),
        ]
        (data,) = attacks_of(grid.blocks(Defense())[0])
        assert data == {"name": "own_methods:Lazy", "settings": {"budget": 5, "patience": 1}}
        assert attack_of(yaml.safe_load(yaml.safe_dump(data))) == Lazy(5, 1)
        made = [victim.made() for victim in victims(grid, contents_of)]
        assert made == [Halves(share=0.1), Halves(share=0.2)]

    def test_methods_themselves_are_taken_in_the_place_of_their_names(self) -> None:
        grid = read(small(attacks=Knockoff(budget=7), defenses=[InI(gamma=0.5), Halves(share=0.1)]))
        assert names(grid) == ["ini", "own_methods:Halves"]
        assert [one.defense for one in grid.defenses] == [InI(gamma=0.5), Halves(share=0.1)]
        assert [block.attacks[0] for block in grid.blocks(Defense())] == [Knockoff(budget=7)]


@pytest.mark.parametrize(
    "text",
    [
        "seeds: [" + "1, " * 40_000 + "1]",
        "[",
        "- a\n- b",
        "",
        "\x00",
        "data: !!int x",
        "data: &a [*a]",
        "1: 2",
        "\udcff",
    ],
)
def test_a_file_that_is_no_grid_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StealguardError, match=str(path)) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(StealguardError, match="cannot be read"):
        read(tmp_path / "other.yaml")


def test_a_folder_or_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "pipe.yaml"):
        with pytest.raises(StealguardError, match=r"cannot be read: `.*`: (Is a directory|Not a regular file)"):
            read(path)


class TestKeys:
    def keys(self, **changes: Any) -> set[str]:
        return {cell.key for cell in plan(read(small(**changes)))}

    @pytest.mark.thorough
    @pytest.mark.slow
    def test_keys_are_the_same_in_every_process(self) -> None:
        code = "from test_grid import TestKeys; print(*sorted(TestKeys().keys()))"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(), capture_output=True, check=True, text=True
        )
        assert set(done.stdout.split()) == self.keys()

    def test_a_changed_line_changes_only_its_own_keys(self) -> None:
        before = self.keys(attacks=["knockoff", "copycat"])
        assert self.keys(attacks=["knockoff", "copycat"], seeds=[0, 1]) > before
        assert self.keys(attacks=["copycat", "knockoff"], defenses=["ini", "none"]) == before, "nor does their order"
        attacks = ["knockoff", {"copycat": {"budget": 5}}]
        assert len(before - self.keys(attacks=attacks)) == 2, "one attack against two victims"
        defenses = ["none", {"ini": {"delta": 0}}]
        assert len(before - self.keys(attacks=["knockoff", "copycat"], defenses=defenses)) == 3, "a victim, two attacks"

    def test_names_are_no_part_of_keys(self) -> None:
        assert self.keys(defenses=["none", {"ini": {"name": "ours"}}]) == self.keys()

    def test_defenses_that_differ_in_their_answers_alone_share_a_trained_victim(self) -> None:
        swept = read(small(defenses=[{"ini-robust": {"strictness": [0.0, RobustInI.strictness, 9.0]}}]))
        mild, usual, strict = victims(swept, contents_of)
        assert usual.base is None
        assert mild.base is not None
        assert mild.base.key == strict.base.key == usual.key  # type: ignore[union-attr]
        made = [cell.victim.key for cell in plan(swept) if cell.block is None]
        assert made == [usual.key, mild.key, strict.key], "first the one that is trained"

    def test_keys_change_with_the_contents_of_files(self, tmp_path: Path) -> None:
        def keys() -> set[str]:
            return {cell.key for cell in plan(read(tiny(tmp_path)))}

        write_sets(tmp_path)
        before = keys()
        np.savez(tmp_path / "pool.npz", x=noise(120, seed=8).numpy())
        assert len(keys() & before) == 4, "four victims stay, the thefts with the pool do not"
        np.savez(tmp_path / "task.npz", x=noise(120, seed=8).numpy())
        assert not keys() & before

    def test_keys_change_with_the_code_of_nets_defenses_and_attacks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = (Path(__file__).parent.parent / "own_methods.py").read_text()
        for name in ("own_net", "own_defense", "own_attack", "own_clone"):
            (tmp_path / f"{name}.py").write_text(source)
            monkeypatch.delitem(sys.modules, name, raising=False)  # an example has the same name
        monkeypatch.syspath_prepend(tmp_path)

        def keys() -> tuple[set[str], set[str]]:
            grid = small(nets="own_net:net", defenses=["own_defense:Halves"], attacks="own_attack:Lazy")
            cells = plan(read(grid | {"clone": "own_clone:net"}))
            thefts = {cell.key for cell in cells if cell.block}
            return {cell.key for cell in cells} - thefts, thefts

        for name, touches_victims in (("own_net", 1), ("own_defense", 1), ("own_attack", 0), ("own_clone", 0)):
            before, thefts_before = keys()
            with (tmp_path / f"{name}.py").open("a") as file:
                file.write("# another line\n")
            after, thefts_after = keys()
            assert not thefts_before & thefts_after, name
            assert bool(before - after) == touches_victims, name

    def test_keys_change_with_the_training_and_the_clone(self) -> None:
        before = self.keys()
        assert not before & self.keys(training={"lr": 0.01})
        assert len(before - self.keys(clone="resnet18")) == 2, "the thefts from two victims"

    @pytest.mark.parametrize("kind", OF_FILES)
    def test_files_count_by_their_contents_and_not_by_their_place(self, tmp_path: Path, kind: str) -> None:
        def name(folder: str, content: str) -> str:
            path = tmp_path / folder / "set"
            path = path / "a" / "1.png" if kind == "folder" else path
            path.parent.mkdir(parents=True)
            path.write_text(content)
            return f"{kind}:{tmp_path / folder / 'set'}"

        one, again, other = name("1", "x"), name("2", "x"), name("3", "y")
        assert contents_of(one) == contents_of(again) != contents_of(other)
        assert read(small(data=one, outliers="letters")).data == [one]

    def test_a_named_set_counts_by_its_pinned_or_recorded_hash(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = replace(SETS["letters"], sha256=None)
        monkeypatch.setitem(SETS, "letters", spec)
        monkeypatch.setenv("STEALGUARD_DATA", str(tmp_path))
        assert contents_of("letters") == "letters"
        assert "letters" in unpinned(read(small()))
        monkeypatch.setattr(store, "note", lambda path: store.Note("abc", "rendering", ""))
        assert contents_of("letters") == "abc"
        monkeypatch.setitem(SETS, "letters", replace(spec, sha256="def"))
        assert contents_of("letters") == "def"
        assert "letters" not in unpinned(read(small()))
        assert contents_of("own:20") == "own:20"


@pytest.mark.no_cover
@pytest.mark.parametrize("path", sorted((HOME / "docs/results/grids").glob("*.yaml")), ids=lambda p: p.stem)
def test_committed_grids_are_sound(path: Path) -> None:
    from stealguard.releases.presets import PRESETS

    names = [
        name if isinstance(name, str) else next(iter(name)) for name in yaml.safe_load(path.read_text())["defenses"]
    ]
    if missing := set(names) - set(PRESETS):
        pytest.skip(f"no such defense yet: {', '.join(sorted(missing))}")
    assert plan(read(path))
