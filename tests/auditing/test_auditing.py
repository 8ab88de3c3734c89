"""Audits: honest rows, kept and resumed; pools and tasks of any shape."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from grids import environment
from samples import linear, mlp, noise, task
from stealguard.attacks import Knockoff
from stealguard.attacks.transfer import random_queries
from stealguard.auditing import run as auditing
from stealguard.auditing.plan import Pool, architecture
from stealguard.boxes import Accounts
from stealguard.data.inputs import Stored
from stealguard.defenses import EDM, PRADA
from stealguard.errors import BoxFault, Invalid
from stealguard.results import Row, Store
from stealguard.types import BlackBox

SHORT = Knockoff(budget=100, training=sg.Training(epochs=1, batch=32))


def audit(release: Any, **changes: Any) -> list[Row]:
    """An audit with clones that take little time, unless `clone` is given."""
    given: dict[str, Any] = {"attacks": [SHORT], "pools": [noise(150)], "data": task(), "progress": False}
    return sg.audit(release, **(given | {"clone": linear()} | changes))


@pytest.mark.slow
def test_a_row_says_what_happened(folder: Path) -> None:
    soft, hard = audit(folder, clone=None)
    release = sg.load(folder)
    assert soft.clone == "given:Normalized", "of the architecture of the release"
    assert (soft.labels, hard.labels) == ("soft", "hard")
    assert soft.queries == soft.budget == 100
    _, _, x, y = task()
    assert soft.benign_accuracy == (release.box(x).argmax(1) == y).double().mean().item()
    assert 0 <= soft.clone_accuracy <= 1
    assert soft.victim.key == release.identity
    assert not soft.in_family
    assert soft.status == "ok"
    assert {row.key for row in Store(folder / "audit.sqlite")} == {soft.key, hard.key}


@pytest.mark.slow
def test_chance_is_what_naming_the_most_frequent_class_gives(tmp_path: Path) -> None:
    x, y = noise(200, (8,)), (torch.arange(200) % 10 == 0).long()
    release = sg.protect(mlp(8, 2), (x, y), defense="none", epochs=1, out=tmp_path / "a", progress=False)
    (row,) = audit(release, data=(x, y), pools=[noise(150, (8,))], clone=linear(8, 2), labels="hard")
    assert row.chance == row.metrics["chance"] == 0.9
    assert row.victim.metrics["validation_chance"] == 0.9


@pytest.mark.slow
def test_a_second_audit_computes_nothing_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = audit(folder)
    monkeypatch.setattr(auditing._Audit, "row", lambda *a: pytest.fail("computed again"))
    assert audit(folder) == first
    with pytest.raises(pytest.fail.Exception):
        audit(folder, seeds=[1])


@pytest.mark.slow
def test_equal_pools_of_two_names_have_a_row_each(folder: Path, tmp_path: Path) -> None:
    """A theft draws its random numbers from the pool's name, so that its clone is another one, too."""
    names = [f"npz:{tmp_path / name}.npz" for name in ("one", "two")]
    for name in names:
        np.savez(name.removeprefix("npz:"), x=noise(150).numpy())
    store = tmp_path / "rows.sqlite"
    one, two = audit(folder, pools=names, labels="soft", store=store)
    assert [one.pool, two.pool] == names
    assert one.pool_hash == two.pool_hash
    assert audit(folder, pools=names[1], labels="soft", store=store) == [two]


def test_a_name_that_stands_for_its_inputs_is_no_further_part_of_a_pool() -> None:
    x = Stored(noise(3))
    assert all(Pool(name, x).content == [x.hash] for name in ("letters", "own:100", "nothing"))
    assert Pool("folder:letters", x).content == [x.hash, "folder:letters"]


@pytest.mark.slow
def test_the_seed_decides_the_clone(folder: Path, tmp_path: Path) -> None:
    def accuracies(name: str, seeds: list[int]) -> list[float | None]:
        return [row.clone_accuracy for row in audit(folder, store=tmp_path / name, seeds=seeds)]

    one = accuracies("a.sqlite", [0, 1])
    assert one == accuracies("b.sqlite", [0, 1])
    assert accuracies("c.sqlite", [1]) == one[2:], "a seed's clone does not depend on the others"


@pytest.mark.slow
def test_a_knockoff_of_an_undefended_net_works(tmp_path: Path) -> None:
    plain = sg.protect("lenet5", task(2000), defense="none", epochs=3, out=tmp_path / "plain", progress=False)
    x = task(2000)[0]
    (row,) = audit(plain, data=task(2000), pools=[x.flip(0)[:1500]], labels=["soft"],
                   attacks=[Knockoff(budget=1500, training=sg.Training(epochs=6, batch=32))])  # fmt: skip
    assert (row.benign_accuracy or 0) > 0.95
    assert (row.clone_accuracy or 0) > 0.9, "the audit must be able to steal"
    assert (row.agreement or 0) > 0.9


@pytest.mark.slow
def test_a_tabular_classifier_is_protected_and_audited(tmp_path: Path) -> None:
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    x = torch.tensor(table.data, dtype=torch.float32)
    x, y = (x - x.min(0).values) / (x.max(0).values - x.min(0).values), torch.tensor(table.target)
    data = (x[:450], y[:450], x[450:], y[450:])
    torch.manual_seed(0)
    net = mlp(x.shape[1], 2)
    release = sg.protect(
        net, data, outliers=[noise(900, x.shape[1:])], defense=sg.InI(delta=0.0),
        training=sg.Training(batch=32, lr=0.02), epochs=30, out=tmp_path / "table", progress=False,
    )  # fmt: skip
    soft, _hard = audit(release, data=data, clone=None, pools=[noise(150, x.shape[1:], seed=5)])
    assert (soft.benign_accuracy or 0) > 0.9
    assert soft.clone == "given:Sequential"


@pytest.mark.slow
def test_an_in_family_pool_is_what_was_held_out(tmp_path: Path) -> None:
    family = noise(240)
    release = sg.protect(
        "lenet5", task(200), outliers=[family], defense=sg.InI(), training=sg.Training(epochs=1, batch=32),
        out=tmp_path / "a", progress=False,
    )  # fmt: skip
    (row,) = audit(release, pools=[family], labels=["soft"], attacks=[Knockoff(80, SHORT.training)])
    assert row.in_family
    with pytest.raises(Invalid, match="`budget` should be at most 80, the inputs of the pool"):
        audit(release, pools=[family], attacks=[Knockoff(81, SHORT.training)])


def test_other_training_inputs_are_other_rows(tmp_path: Path) -> None:
    """What labeled samples give alone is measured with them."""
    x, y, test_x, test_y = task(200, (16,), 3)
    given: dict[str, Any] = {
        "attacks": [SHORT], "pools": [noise(100, (16,))], "labels": ["soft"], "clone": "mlp", "store": tmp_path / "s",
    }  # fmt: skip
    (first,), (again,), (other,) = (
        audit(sg.Given(linear(16, 3), (16,), 3), data=(x, labels, test_x, test_y), **given)
        for labels in (y, y, y.roll(1))
    )
    assert (first.key == again.key, first.key == other.key) == (True, False)
    assert first.metrics["no_theft_20"] > other.metrics["no_theft_20"]


def test_a_pool_in_other_units_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y, test_x, test_y = task(200, (16,), 3)
    data = (100 * x, y, 100 * test_x, test_y)
    release = sg.protect("mlp", data, defense="none", epochs=1, out=tmp_path / "r", progress=False)
    for factor, narrow, clamped in ((1, True, True), (100, False, False), (100_000, True, True)):
        pool = factor * (0.3 + 0.4 * noise(100, (16,)))
        audit(release, pools=[pool], labels=["soft"], data=data, clone="mlp", progress=True)
        notes = capsys.readouterr().err
        assert (("in other units" in notes), ("100 % of the numbers of `tensors-" in notes)) == (narrow, clamped)


def test_a_family_is_known_by_its_contents(tmp_path: Path) -> None:
    family, other = tmp_path / "family.npz", tmp_path / "other.npz"
    for path in (family, other):
        np.savez(path, x=noise(60, (16,)).numpy())
    data, net = task(200, (16,), 3), mlp()
    release = sg.protect(
        net, data, outliers=f"npz:{family}", defense=sg.InI(), training=sg.Training(epochs=1), out=tmp_path / "r",
        progress=False,
    )  # fmt: skip
    given: dict[str, Any] = {
        "attacks": [Knockoff(20, SHORT.training)],
        "labels": ["soft"],
        "data": data,
        "clone": "mlp",
    }
    for path in (family, other):
        (row,) = audit(release, pools=[f"npz:{path}"], store=tmp_path / f"{path.stem}.sqlite", **given)
        assert (row.pool, row.in_family) == (f"npz:{path}", True)
    np.savez(family, x=noise(61, (16,)).numpy())
    with pytest.raises(Invalid, match="as they were when the defender trained on them"):
        audit(release, pools=[f"npz:{family}"], **given)


@pytest.mark.slow
def test_an_attack_that_fails_is_a_row_with_its_reason_and_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Knockoff, box: sg.boxes.Metered, pool: Tensor, clone: object, *, seed: int) -> None:
        box(pool[:7])
        raise BoxFault("`ini` should answer. Found silence.")

    with monkeypatch.context() as patch:
        patch.setattr(Knockoff, "__call__", broken)
        (row,) = audit(folder, labels=["soft"])
    assert (row.status, row.reason, row.queries) == ("failed", "`ini` should answer. Found silence.", 7)
    assert row.clone_accuracy is None
    assert (folder / "audit.sqlite.answers" / row.key).stat().st_size > 0, "what was answered is kept"
    (row,) = audit(folder, labels=["soft"])
    assert (row.status, row.queries) == ("ok", 100)
    assert not (folder / "audit.sqlite.answers").exists()


@dataclass(frozen=True)
class Returning:
    """An attack that asks once, and returns nothing, a clone of other classes or one that answers NaN."""

    budget: int = 5
    needed: int = 5
    what: str = "nothing"

    def __call__(self, box: BlackBox, pool: Tensor, clone: nn.Module, *, seed: int) -> nn.Module | None:
        box(pool[:5])
        if self.what == "nothing":
            return None
        with torch.no_grad():
            clone[-1].bias.fill_(torch.nan)  # type: ignore[index]
        return clone if self.what == "NaN" else nn.Linear(16, 7)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("nothing", "Parameter `attack` should be one that returns the trained clone. Found NoneType."),
        ("other classes", "`clone` should answer 10 inputs with (10, 3) rows. Found (10, 7)."),
        ("NaN", "`clone` should answer finite numbers. Found a NaN or an infinity."),
    ],
)
def test_a_clone_that_cannot_be_measured_is_a_theft_that_failed(what: str, reason: str, tmp_path: Path) -> None:
    victim, data = sg.Given(mlp()), task(40, (16,), 3)
    (row,) = audit(
        victim, attacks=Returning(what=what), pools=[noise(5, (16,))], labels="soft", data=data, clone=linear(16, 3),
        store=tmp_path / "rows.sqlite",
    )  # fmt: skip
    assert (row.status, row.reason, row.queries) == ("failed", reason, 5)


@pytest.mark.slow
def test_other_code_of_a_releases_defense_or_net_makes_other_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights and the recipe are the same, and the answers are not."""
    defense = """from dataclasses import dataclass
from stealguard.defenses import Defense, Rule
@dataclass(frozen=True)
class Mixed(Defense):
    def guard(self, net, like):
        return Rule(lambda rows: SHARE * rows + (1 - SHARE) / 3)
"""
    net = "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(16, 3), nn.ACTIVATION())\n"
    monkeypatch.syspath_prepend(tmp_path)
    data = task(40, (16,), 3)

    def write(share: str, activation: str) -> dict[str, str]:
        """The code, as a process that begins anew imports it: texts differ in length, by which Python tells them."""
        (tmp_path / "a_defense.py").write_text(defense.replace("SHARE", share))
        (tmp_path / "a_net.py").write_text(net.replace("ACTIVATION", activation))
        for name in ("a_defense", "a_net"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return {"net": "a_net:net", "defense": "a_defense:Mixed"}

    def key(share: str, activation: str) -> str:
        (row,) = audit(
            tmp_path / "own", data=data, pools=[noise(10, (16,))], labels="soft", clone=linear(16, 3),
            attacks=Knockoff(10, SHORT.training), **write(share, activation),
        )  # fmt: skip
        return row.key

    named = write("0.5", "ReLU")
    sg.protect(named["net"], data, defense=named["defense"], epochs=1, out=tmp_path / "own", progress=False)
    first = key("0.5", "ReLU")
    assert key("0.5", "ReLU") == first
    assert len({first, key("0.25", "ReLU"), key("0.5", "LeakyReLU")}) == 3


class Counting(torch.nn.Linear):
    """A net of a user's that counts how often it is asked."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


@pytest.mark.slow
def test_a_net_that_counts_its_calls_has_the_same_rows_again(tmp_path: Path) -> None:
    data, again = task(40, (16,), 3), Knockoff(10, SHORT.training)
    release = sg.protect(Counting(16, 3), data, defense="none", epochs=1, out=tmp_path / "own", progress=False)
    victims = release, release, sg.load(tmp_path / "own", net=Counting(16, 3))
    found = [audit(victim, data=data, pools=[noise(10, (16,))], labels="soft", clone="mlp", attacks=again)
             for victim in victims]  # fmt: skip
    assert len({row.key for rows in found for row in rows}) == 1


@pytest.mark.slow
def test_a_guard_that_refuses_ends_the_attack_and_an_account_that_asks_the_whole_test_set(tmp_path: Path) -> None:
    """With delta = 1 every account is refused at the first test, after a little more than a hundred queries."""
    release = sg.protect(
        "lenet5", task(1000), defense=PRADA(delta=1.0), training=sg.Training(epochs=3, batch=32),
        out=tmp_path / "prada", progress=False,
    )  # fmt: skip
    answers = release.folder / "audit.sqlite.answers"
    planned = {"attacks": [Knockoff(200, SHORT.training)], "pools": [noise(300)], "labels": ["soft"]}
    (row,) = audit(release, **planned)
    assert (row.status, row.budget) == ("ok", 200)
    assert 100 < row.queries < 200
    assert row.clone_accuracy is not None
    plain = (sg.boxes.Boxed(release.model, release.shape)(task()[2]).argmax(1) == task()[3]).double().mean().item()
    assert plain > 0.9
    assert row.benign_accuracy == plain, "250 test inputs, from accounts of a hundred queries"
    assert (row.victim.metrics["user_queries"], row.victim.metrics["top_1_kept"]) == (100, 1)
    assert row.victim.metrics["one_account_accuracy"] < 0.6 * plain, "the first hundred or so are answered"
    assert not answers.exists()


@pytest.mark.slow
def test_a_guard_that_remembers_is_asked_again_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = sg.protect("lenet5", task(300), defense=PRADA(delta=1.0), epochs=1, out=tmp_path / "a", progress=False)
    planned = {"attacks": [Knockoff(200, SHORT.training)], "pools": [noise(300)], "labels": ["soft"]}
    (alone,) = audit(release, **planned, store=tmp_path / "alone.sqlite")

    def killed(self: Knockoff, box: sg.boxes.Metered, pool: Tensor, clone: object, *, seed: int) -> None:
        random_queries(box, pool, 60, seed=seed)
        raise BoxFault("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Knockoff, "__call__", killed)
        assert [row.status for row in audit(release, **planned, store=tmp_path / "b.sqlite")] == ["failed"]
    (row,) = audit(release, **planned, store=tmp_path / "b.sqlite")
    assert (row.queries, row.clone_accuracy) == (alone.queries, alone.clone_accuracy)


@pytest.mark.slow
def test_a_clone_has_the_users_architecture_and_not_the_defenses(tmp_path: Path) -> None:
    release = sg.protect(
        "lenet5", task(200), outliers=[noise(60)], defense=EDM(members=2), epochs=1, out=tmp_path / "edm",
        progress=False,
    )  # fmt: skip
    clone = architecture(release, None, 10, torch.device("cpu"), release.shape).fresh(noise(2), seed=0)
    plain = sg.nets.build("lenet5", noise(4), 10, seed=0)
    assert {k: v.shape for k, v in clone.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    (row, _) = audit(release, clone=None)
    assert (row.status, row.victim.metrics["top_1_kept"], row.victim.metrics["distortion"]) == ("ok", 1, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["sotf"]}, "`labels` should be of soft, hard. Found `sotf`"),
        ({"pools": ["leters"]}, "`pools` should be one of .*did you mean `letters`"),
        ({"pools": ["folder:nowhere"]}, "`pools` should be `folder:` and a folder. Found nowhere"),
        ({"attacks": "quick", "labels": "soft"}, "`labels` should be left out: the suite `quick` chooses them"),
        ({"attacks": "quick", "budgets": 50}, "`budgets` should be left out: the suite `quick` chooses them"),
        ({"attacks": "adaptive", "accounts": [1, 10]}, "the suite `adaptive` uses one account of this victim"),
        (
            {"pools": [noise(150, (1, 32, 32))]},
            r"`pools` should be of shape \(N, 1, 28, 28\), or images resized with `resize`",
        ),
        ({"pools": [noise(20)]}, "`budget` should be at most 20, the inputs of the pool .*. Found 100"),
        ({"data": None}, "`data` should be given: the release was made from data without a name"),
        ({"data": task(50, (16,), 3)}, r"`data` should be of shape \(N, 1, 28, 28\)"),
        ({"attacks": "quik"}, "did you mean `quick`"),
        ({"treatments": ["sharpn"]}, "did you mean `sharpen`"),
        ({"own": [-1]}, "`own` should be in 0 .. 1000"),
        ({"own": "20"}, "`own` should be whole numbers. Found '20'"),
        ({"accounts": [1.5]}, "`accounts` should be whole numbers. Found 1.5"),
        ({"seeds": ["a"]}, "`seeds` should be a whole number of 64 bits. Found 'a'"),
        ({"seeds": torch.arange(2)}, r"`seeds` should be a whole number of 64 bits. Found tensor\(\[0, 1\]\)"),
        ({"seeds": True}, "`seeds` should be a whole number of 64 bits. Found True"),
        ({"treatments": [None]}, "`treatments` should be names that `\\+` joins. Found None"),
        ({"pools": ["own:x"]}, r"`pools` should be own:N with N in 1 .. 1000"),
        ({"attacks": []}, "should be at least one of each. Found an empty list"),
        ({"clone": "lenet"}, "`clone` should be one of lenet5, .*did you mean `lenet5`"),
        ({"clone": 5}, "`clone` should be a name, `module:callable` or a module. Found int"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        audit(folder, **changes)
    assert not (folder / "audit.sqlite").exists()


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from stealguard.results import Store
put, left = Store.put, [3]
def dying(store, row):
    put(store, row)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
Store.put = dying
from test_auditing import audit
audit({folder!r}, seeds=range(3), store={store!r})
"""


def kill(code: str, **words: Path) -> None:
    """Run code of this module that ends by SIGKILL."""
    code = code.format(tests=str(Path(__file__).parent), **{key: str(path) for key, path in words.items()})
    ended = subprocess.run([sys.executable, "-c", code], env=environment(), check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.thorough
def test_an_audit_that_was_sigkilled_goes_on_to_the_same_rows(folder: Path, tmp_path: Path) -> None:
    """It is killed when its third row of six is in the store."""
    killed, whole = tmp_path / "killed.sqlite", tmp_path / "whole.sqlite"
    kill(KILLED, folder=folder, store=killed)
    finished = {row.key: row.when for row in Store(killed)}
    assert len(finished) == 3, "killed in the middle"
    for store in (killed, whole):
        audit(folder, seeds=range(3), store=store)
    assert finished.items() <= {row.key: row.when for row in Store(killed)}.items(), "nothing was computed again"
    stores = [sorted(Store(path), key=lambda row: row.key) for path in (killed, whole)]
    results = [[(row.key, row.clone_accuracy, row.agreement) for row in rows] for rows in stores]
    assert results[0] == results[1]
    assert len(results[0]) == 6


KILLED_INSIDE = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
torch.set_num_threads(1)
from stealguard.attacks import knockoff
from test_auditing import asking_much
knockoff.fit = lambda *given, **options: os.kill(os.getpid(), signal.SIGKILL)
asking_much(Path({folder!r}), Path({store!r}), Path({log!r}))
"""


def asking_much(folder: Path, store: Path, log: Path) -> Row:
    """A row of 4,096 queries; each request of 1,024 inputs is a line of the log (the test set is smaller)."""
    answer = Accounts.answer

    def logged(accounts: Accounts, account: str, x: Tensor) -> Tensor:
        if len(x) == 1024:
            with log.open("a") as file:
                print(len(x), file=file)
        return answer(accounts, account, x)

    attack = Knockoff(budget=4096, training=sg.Training(epochs=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Accounts, "answer", logged)
        (row,) = audit(folder, labels=["soft"], pools=[noise(4096)], store=store, attacks=[attack])
    return row


@pytest.mark.thorough
def test_an_attack_killed_after_its_queries_pays_for_none_of_them_again(folder: Path, tmp_path: Path) -> None:
    killed, log = tmp_path / "killed.sqlite", tmp_path / "killed.log"
    kill(KILLED_INSIDE, folder=folder, store=killed, log=log)
    assert log.read_text().count("1024") == 4
    again = asking_much(folder, killed, log)
    assert log.read_text().count("1024") == 4, "the four requests that were answered before the kill, and no more"
    whole = asking_much(folder, tmp_path / "whole.sqlite", tmp_path / "whole.log")
    results = [(row.status, row.queries, row.clone_accuracy, row.agreement) for row in (again, whole)]
    assert results[0] == results[1]
    assert results[0][:2] == ("ok", 4096)
    assert not list(tmp_path.glob("*.answers"))


class TestOwnedSamples:
    @pytest.mark.slow
    def test_samples_to_tune_on_come_with_the_no_theft_accuracy(self, folder: Path) -> None:
        without, tuned = audit(folder, labels=["soft"], own=[0, 100])
        assert (without.own, without.no_theft, tuned.own) == (0, None, 100)
        assert (tuned.no_theft or 0) > 0.5, "a hundred samples of blobs teach a net something"
        assert (tuned.clone_accuracy or 0) > (without.clone_accuracy or 0)

    @pytest.mark.slow
    def test_queries_near_the_task(self, folder: Path) -> None:
        (row,) = audit(folder, labels=["soft"], pools=["own:50"])
        assert (row.pool, row.own, row.queries) == ("own:50", 50, 100)
        assert row.no_theft is not None

    @pytest.mark.slow
    def test_the_no_theft_accuracy_is_computed_once_a_seed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = []
        monkeypatch.setattr(auditing, "no_theft_accuracy", lambda *a, seed: drawn.append(seed) or 0.5)
        audit(folder, own=[30], seeds=[0, 1], treatments=["", "sharpen"])
        assert len(set(drawn)) == len(drawn) == 4, "30 samples, and the 20 that renaming is compared with, of two seeds"

    @pytest.mark.slow
    def test_every_row_has_what_twenty_samples_alone_give(self, folder: Path) -> None:
        (row,) = audit(folder, labels=["soft"])
        (owning,) = audit(folder, labels=["soft"], own=[20])
        assert 0 < row.metrics["no_theft_20"] <= 1
        assert owning.metrics["no_theft"] == owning.metrics["no_theft_20"] == row.metrics["no_theft_20"]

    def test_a_task_of_fewer_samples_has_no_such_figures(self, tmp_path: Path) -> None:
        x, _, test_x, test_y = task()
        net = sg.nets.build("lenet5", x[:4], 10, seed=0)
        data = (x[:19], torch.arange(19) % 10, test_x[:20], test_y[:20])
        (row,) = sg.audit(net, [SHORT], noise(150), "soft", data=data,
                          store=tmp_path / "a.sqlite", progress=False)  # fmt: skip
        assert row.status == "ok"
        assert not {"no_theft_20", "renamed_accuracy_20"} & row.metrics.keys(), "no test input is left to measure on"
        assert "renamed_accuracy" in row.metrics


class TestTreatments:
    @pytest.mark.slow
    def test_a_theft_that_is_asked_for_twice_is_one_row(self, folder: Path) -> None:
        rows = audit(folder, pools=["own:100"], labels=["soft"], own=[10, 20], seeds=[0, 0])
        assert [(row.own, row.seed) for row in rows] == [(100, 0)], "the pool has more samples than either number"

    @pytest.mark.slow
    def test_treatments_are_part_of_the_row(self, folder: Path) -> None:
        plain, sharp, both = audit(folder, labels=["soft"], treatments=["", "sharpen", "z-score+confident"])
        assert [row.treatment for row in (plain, sharp, both)] == ["", "sharpen", "z-score+confident"]
        assert len({row.key for row in (plain, sharp, both)}) == 3

    def test_an_attack_without_meaning_is_a_row_that_says_why(self, tmp_path: Path) -> None:
        release = sg.protect(mlp(), task(200, (16,), 3), defense="none", epochs=1, out=tmp_path / "a", progress=False)
        (row,) = audit(release, clone=None, data=task(200, (16,), 3), pools=[noise(150, (16,))],
                       labels=["soft"], treatments=["smooth"])  # fmt: skip
        assert (row.status, row.queries) == ("skip", 0)
        assert row.reason == "Smoothing turns and shifts images, and these inputs are not images."


@pytest.mark.slow
def test_an_attack_that_makes_its_own_queries_needs_no_pool(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"attacks": [sg.attacks.DFME(budget=4)], "labels": "soft", "progress": True}
    (row,) = audit(folder, **given, pools=None)
    assert (row.pool, row.queries) == ("nothing", 4)
    assert "pools:" not in capsys.readouterr().err
    (row,) = audit(folder, **given, pools=[noise(20)])
    assert f"pools: `dfme` makes its own queries, and asks none of `{row.pool}`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_suite_brings_its_own_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stealguard.auditing import suites

    def tiny(pools: Sequence[Any], knowing: suites.Adaptive) -> list[suites.Block]:
        return [suites.Block([SHORT], pools), suites.Block([SHORT], ["own:20"], ["hard"])]

    monkeypatch.setitem(suites.SUITES, "tiny", tiny)
    rows = audit(folder, attacks="tiny")
    assert [(row.labels, row.own) for row in rows] == [("soft", 0), ("hard", 0), ("hard", 20)]
