"""Audits of models behind a server: their rows, their accounts, and what is paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import stealguard as sg
from endpoint import CLASSES, SHAPE, Model, expected
from samples import mlp, noise
from stealguard.attacks import Knockoff, Refusals
from stealguard.auditing import accounts_to_reach
from stealguard.auditing.resuming import PROBES
from stealguard.auditing.suites import suite
from stealguard.auditing.victim import by_account, victim_of
from stealguard.errors import BudgetExhausted, Invalid, NotApplicable, StealguardError
from stealguard.results import Row

X, TEST_X = noise(19, SHAPE, seed=1), noise(80, SHAPE, seed=2)
DATA = (X, expected(X).argmax(1), TEST_X, expected(TEST_X).argmax(1))
POOL = noise(220, SHAPE, seed=3)
CLONE = mlp()
SHORT = Knockoff(budget=200, training=sg.Training(epochs=30, batch=16, lr=0.2))


@pytest.fixture
def url(endpoint: tuple[str, Model]) -> str:
    return f"{endpoint[0]}/v2/models/m"


def audit(victim: Any, store: Path, **changes: Any) -> list[Row]:
    given: dict[str, Any] = {
        "attacks": SHORT, "pools": [POOL], "labels": "soft", "data": DATA, "store": store / "rows.sqlite",
        "clone": CLONE, "progress": False,
    }  # fmt: skip
    return sg.audit(victim, **(given | changes))


@pytest.mark.slow
def test_a_remote_model_is_audited_as_the_same_model_in_the_process(url: str, model: Model, tmp_path: Path) -> None:
    victim = sg.Remote(url)
    assert isinstance(victim, sg.Victim)
    assert victim_of(victim) is victim
    (row,) = audit(victim, tmp_path)
    assert (row.clone_accuracy or 0) > 0.7
    assert (row.status, row.queries, row.victim.name, row.victim.net) == ("ok", 200, "m", "over HTTP")
    assert row.benign_accuracy == 1
    assert model.answered[""] == len(TEST_X) + 200
    (local,) = audit(sg.Given(expected, SHAPE, CLASSES), tmp_path)
    assert row.metrics == local.metrics, "the same clone"
    assert row.key != local.key
    sg.report.write_html([row, local], tmp_path / "report.html")
    assert "over HTTP" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_there_is_a_name_for_each_class_of_a_remote_model(url: str) -> None:
    assert sg.Remote(url, names=("a", "b", "c")).output.names == ("a", "b", "c")
    with pytest.raises(Invalid, match=r"`names` should be of all 3 classes. Found 2"):
        sg.Remote(url, names=("a", "b"))


@pytest.mark.slow
def test_rows_carry_the_identity_that_the_server_tells(url: str, model: Model, tmp_path: Path) -> None:
    identity = "ab" * 32
    model.metadata = {"parameters": {"identity": identity}}
    assert sg.Remote(url).identity == identity
    (row,) = audit(sg.Remote(url), tmp_path)
    assert row.victim.key == f"{identity} over HTTP"
    asked = model.answered.total()
    assert audit(sg.Remote(url), tmp_path) == [row]
    assert model.answered.total() == asked, "what is in the store is known without a query"
    assert audit(sg.Remote(url, "another"), tmp_path)[0].key != row.key


@pytest.mark.slow
def test_a_server_without_an_identity_is_known_by_its_answers(url: str, model: Model, tmp_path: Path) -> None:
    (row,) = audit(sg.Remote(url), tmp_path)
    asked = model.answered.total()
    assert audit(sg.Remote(url), tmp_path) == [row]
    assert model.answered.total() == asked + len(TEST_X), "only the test inputs are asked again"
    model.digits = 1
    assert audit(sg.Remote(url), tmp_path)[0].key != row.key


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_an_audit_that_was_interrupted_asks_little_twice(url: str, model: Model, tmp_path: Path, labels: str) -> None:
    """It breaks in the sixth request of the attack; five times 16 answers are in the ledger."""
    model.faults.extend([*[""] * 10, "internal"])
    (row,) = audit(sg.Remote(url, rows=16), tmp_path, labels=labels)
    assert (row.status, "it broke" in row.reason) == ("failed", True)
    (row,) = audit(sg.Remote(url, rows=16), tmp_path, labels=labels)
    assert (row.status, row.queries) == ("ok", 200)
    assert model.answered[""] == len(TEST_X) + 200 + PROBES
    assert {path.name for path in tmp_path.iterdir()} == {"rows.sqlite"}, "the ledgers are gone"


@pytest.mark.slow
def test_an_audit_that_breaks_in_the_test_inputs_goes_on_there(url: str, model: Model, tmp_path: Path) -> None:
    model.faults.extend(["", "", "internal"])
    with pytest.raises(StealguardError, match="it broke"):
        audit(sg.Remote(url, rows=16), tmp_path)
    (row,) = audit(sg.Remote(url, rows=16), tmp_path)
    assert (row.status, model.answered[""]) == ("ok", len(TEST_X) + 200 + PROBES)


@pytest.mark.slow
def test_an_audit_does_not_go_on_with_the_answers_of_another_model(
    url: str, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server tells neither an identity nor another version."""
    model.faults.extend([*[""] * 10, "internal"])
    audit(sg.Remote(url, rows=16), tmp_path)
    model.digits = 3
    (row,) = audit(sg.Remote(url, rows=16), tmp_path, progress=True)
    assert row.queries == 200
    assert model.answered[""] == 2 * len(TEST_X) + 80 + 200 + PROBES, "nothing of the first model is taken"
    told = capsys.readouterr().err
    assert "identity: the server tells none, so rows of an earlier audit count as this model's where" in told
    assert "resuming: the model answers some of 32 test inputs otherwise than before: kept answers are not used" in told


@pytest.mark.slow
@pytest.mark.parametrize("identity", ["", "ab" * 32])
def test_a_key_that_cannot_be_asked_again_does_not_end_an_audit(
    url: str, model: Model, tmp_path: Path, identity: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model.metadata = {"parameters": {"identity": identity}} if identity else {}
    model.budgets["own"] = len(TEST_X)
    model.faults.extend([*[""] * 10, "internal"])
    victim = sg.Remote(url, "own", keys=["a"], rows=16)
    assert audit(victim, tmp_path)[0].status == "failed"
    assert audit(victim, tmp_path, progress=True)[0].status == "ok"
    assert model.answered == {"own": len(TEST_X), "a": 200}
    assert ("32 test inputs could not be asked again" in capsys.readouterr().err) == (not identity)


@pytest.mark.slow
def test_an_audit_does_not_go_on_with_the_answers_of_another_version(url: str, model: Model, tmp_path: Path) -> None:
    model.faults.extend([*[""] * 10, "internal"])
    audit(sg.Remote(url, rows=16), tmp_path)
    model.metadata, model.digits = {"versions": ["2"]}, 1
    (row,) = audit(sg.Remote(url, rows=16), tmp_path)
    assert row.queries == 200
    assert model.answered[""] == 2 * len(TEST_X) + 80 + 200, "nothing of the first version is taken"


@pytest.mark.parametrize("changes", [{"versions": ["2"]}, {"outputs": "scores"}])
def test_rows_follow_from_the_version_and_the_output(url: str, model: Model, changes: dict[str, Any]) -> None:
    source, described = sg.Remote(url).source, model.described()
    named = [described["outputs"][0] | {"name": "scores"}] if "outputs" in changes else described["outputs"]
    model.metadata = changes | {"outputs": named}
    assert sg.Remote(url).source != source


@pytest.mark.slow
@pytest.mark.parametrize("refuses", [False, True])
def test_a_row_says_what_was_had_where_the_server_stops(url: str, model: Model, tmp_path: Path, refuses: bool) -> None:
    model.budgets["a"], model.refuses = len(TEST_X) + 90, refuses
    row, none = audit(sg.Remote(url, "a", rows=16), tmp_path, seeds=[0, 1])
    assert (row.status, row.budget, row.queries) == ("ok", 200, 90)
    assert (row.clone_accuracy or 0) > 0.6
    assert (none.status, none.queries) == ("failed", 0)
    assert "0 of 16 inputs" in none.reason
    assert model.answered["a"] == len(TEST_X) + 90


def test_a_budget_that_is_too_small_for_the_test_inputs_ends_the_audit(url: str, model: Model, tmp_path: Path) -> None:
    model.budgets["a"] = 10
    with pytest.raises(BudgetExhausted, match="has a budget for this account: 10 of 64 inputs can be had"):
        audit(sg.Remote(url, "a"), tmp_path)


@pytest.mark.slow
def test_each_key_is_an_account(url: str, model: Model, tmp_path: Path) -> None:
    model.keys = frozenset({"own", "a", "b", "c"})
    victim = sg.Remote(url, "own", keys=["a", "b", "c"])
    rows = audit(victim, tmp_path, accounts=[1, 3])
    assert [(row.status, row.accounts) for row in rows] == [("ok", 1), ("ok", 3)]
    assert model.answered.pop("own") == len(TEST_X)
    assert sorted(model.answered) == ["a", "b", "c"]
    assert max(model.answered.values()) >= 200 + 66, "one key is the only account of the first theft"
    with pytest.raises(Invalid, match=r"`accounts` should be at most 3, one for each of the keys .* Found 4"):
        audit(victim, tmp_path, accounts=[4])
    with pytest.raises(Invalid, match=r"`accounts` should be at most 1, .* Found 2"):
        audit(sg.Remote(url, "own"), tmp_path, accounts=[2])
    assert model.answered.total() == 400, "nothing was asked"


@pytest.mark.slow
def test_a_theft_uses_all_keys_or_says_which_it_does_not(
    url: str, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = sg.Remote(url, "own", keys=["a", "b", "c", "d"])
    (row,) = audit(victim, tmp_path, progress=True)
    assert (row.status, row.accounts) == ("ok", 4)
    assert model.answered == {"own": len(TEST_X), **dict.fromkeys("abcd", 50)}
    assert "keys:" not in capsys.readouterr().err
    assert audit(victim, tmp_path, accounts=2, progress=True)[0].accounts == 2
    assert "keys: a theft asks with 2 of 4 at most, as `accounts` or a suite says" in capsys.readouterr().err
    assert sorted(model.answered[key] for key in "abcd") == [50, 50, 50 + 100, 50 + 100]


@pytest.mark.slow
def test_thefts_begin_with_keys_of_their_own_which_are_the_same_again(url: str, model: Model, tmp_path: Path) -> None:
    """So that one account does not carry the suspicion of all of them; a theft that goes on asks from its own."""
    victim = sg.Remote(url, "own", keys=[f"k{number}" for number in range(50)])
    begun = []
    for store in (tmp_path / "a", tmp_path / "b"):
        store.mkdir()
        model.answered.clear()
        assert all(row.status == "ok" for row in audit(victim, store, accounts=1, seeds=range(4)))
        begun.append({key: n for key, n in model.answered.items() if key != "own"})
    assert begun[0] == begun[1] == dict.fromkeys(begun[0], 200)
    assert len(begun[0]) == 4


@pytest.mark.slow
def test_a_theft_with_accounts_that_were_refused_before_says_so(
    url: str, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["a", "b"]
    model.budgets, model.refuses = {"a": 40, "b": 130}, True
    first, second = audit(sg.Remote(url, "own", keys=keys, rows=10), tmp_path, seeds=[0, 1], progress=True)
    assert "keys: 2 thefts use 4 accounts, of 2 keys: a server that remembers" in capsys.readouterr().err
    assert (first.queries, first.reason, "silent_accounts" in first.metrics) == (140, "", False)
    assert (second.status, second.queries, second.metrics["silent_accounts"]) == ("ok", 30, 1)
    assert second.reason.startswith("1 account of 2 answered nothing, as after a refusal in an earlier theft or with")
    told = "1 theft had accounts that answered nothing"
    assert told in sg.report.render([first, second], "markdown")
    assert told not in sg.report.render([first], "markdown")
    (third,) = audit(sg.Remote(url, "own", keys=keys, rows=10), tmp_path, seeds=[2])
    assert (third.status, third.metrics) == ("failed", {"silent_accounts": 2})
    assert "2 accounts of 2 answered nothing" in third.reason


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 3])
def test_an_attack_that_opens_accounts_counts_what_the_server_answers(
    url: str, model: Model, tmp_path: Path, parallel: int
) -> None:
    """Its requests are longer than the server's, so that a part of one is answered where a later part is refused."""
    keys, short = [f"k{number}" for number in range(9)], sg.Training(epochs=1)
    model.budgets, model.refuses = dict.fromkeys(keys, 40), True
    attack = Refusals(budget=200, repeats=4, gate=short, training=short)
    victim = sg.Remote(url, "own", keys=keys, rows=7, parallel=parallel)
    (row,) = audit(victim, tmp_path, attacks=attack, accounts=len(keys))
    assert (row.status, row.accounts) == ("ok", len(keys))
    assert 0 < row.queries == sum(model.answered[key] for key in keys) <= 200


def test_names_of_accounts_choose_keys_in_turn(url: str, model: Model) -> None:
    victim = sg.Remote(url, keys=["a", "b"])
    for account in ("x", "y", "x", "honest", ""):
        victim.connect(account)(POOL[:1])
    assert model.answered == {"a": 4, "b": 1}
    with pytest.raises(Invalid, match="`accounts` should be at most 2"):
        victim.connect("z")
    victim.renewed().connect("z")


@pytest.mark.parametrize("keys", ["ab", ["a", "a"]])
def test_keys_are_several_and_differ(url: str, keys: Any) -> None:
    with pytest.raises(Invalid, match="`keys` should be"):
        sg.Remote(url, keys=keys)


@pytest.mark.slow
def test_a_search_for_accounts_ends_with_the_keys(url: str, model: Model, tmp_path: Path) -> None:
    brief = Knockoff(budget=9, training=sg.Training(epochs=1))
    given: dict[str, Any] = {
        "attacks": brief, "pools": [POOL], "labels": "soft", "data": DATA, "clone": CLONE, "progress": False,
        "store": tmp_path / "rows.sqlite", "show": lambda row: tried.append(row.accounts),
    }  # fmt: skip
    tried: list[int] = []
    assert accounts_to_reach(sg.Remote(url, keys=list("abc")), 1.0, **given) is None
    assert tried == [1, 2, 3]
    with pytest.raises(NotApplicable, match="Nothing but one account of `m` is given"):
        accounts_to_reach(sg.Remote(url), 0.5, **given)


def test_suites_try_as_many_accounts_as_there_are_keys(url: str, model: Model) -> None:
    one, twelve = sg.Remote(url), sg.Remote(url, keys=[f"k{n}" for n in range(12)])
    assert (by_account(one), by_account(twelve)) == (False, True)
    assert {n for block in suite("adaptive", ["a"], one) for n in block.accounts} == {1}
    assert {n for block in suite("adaptive", ["a"], twelve) for n in block.accounts} == {1, 10, 12}


@pytest.mark.slow
def test_the_data_tell_what_the_server_does_not(url: str, model: Model, tmp_path: Path) -> None:
    model.metadata = {
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, -1]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, -1]}],
    }
    (row,) = audit(sg.Remote(url, name="theirs"), tmp_path)
    assert (row.status, row.victim.name, row.victim.shape, row.victim.classes) == ("ok", "theirs", SHAPE, CLASSES)


def test_data_that_do_not_fit_are_named_before_anything_is_asked(url: str, model: Model, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="`data` should be of the victim's 3 classes"):
        audit(sg.Remote(url), tmp_path, data=(X, torch.arange(len(X)) % 4, TEST_X, torch.arange(len(TEST_X)) % 4))
    with pytest.raises(Invalid, match="`data` should be given"):
        audit(sg.Remote(url), tmp_path, data=None)
    assert model.requests == []


def test_a_url_is_no_victim_by_itself(url: str, model: Model, tmp_path: Path) -> None:
    with pytest.raises(
        Invalid, match=r"`victim` should be `stealguard.Remote\(url, key\)` for a model behind a server"
    ):
        audit(url, tmp_path)


@pytest.mark.slow
def test_raw_units_reach_the_server_as_users_have_them(url: str, model: Model, tmp_path: Path) -> None:
    def raw(x: torch.Tensor) -> torch.Tensor:
        return 100 * x - 20

    model.rows = lambda x: expected((torch.from_numpy(x.copy()) + 20) / 100).numpy()  # type: ignore[method-assign]
    data = (raw(X), DATA[1], raw(TEST_X), DATA[3])
    (row,) = audit(sg.Remote(url), tmp_path, data=data, pools=[raw(POOL)])
    assert row.status == "ok"
    assert (row.benign_accuracy or 0) > 0.95
    del model.rows


@pytest.mark.slow
def test_the_number_of_queries_is_told_first(
    url: str, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit(sg.Remote(url), tmp_path, labels=["soft", "hard"], progress=True)
    assert "queries: 80 test inputs, and at most 400 of 2 thefts" in capsys.readouterr().err
