"""Audits of releases behind stealguard's own server: what is served is what was audited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import stealguard as sg
from samples import mlp, noise, task
from served import running
from stealguard.attacks import Knockoff
from stealguard.defenses import PRADA
from stealguard.errors import StealguardError
from stealguard.results import Row
from stealguard.serving.app import Application
from stealguard.serving.engine import TorchEngine
from stealguard.serving.keys import Restriction, new_key
from stealguard.serving.ledger import Ledger, open_ledger
from stealguard.serving.protocol import Query
from stealguard.serving.service import Service

SHAPE, CLASSES = (16,), 3
X, Y, TEST_X, TEST_Y = DATA = (*(part[:19] for part in task(300, SHAPE, CLASSES)[:2]), *task(400, SHAPE, CLASSES)[2:])
POOL = noise(1500, SHAPE)
CLONE = mlp()
BRIEF = sg.Training(epochs=5, batch=32, lr=0.1)
EVERYTHING = Restriction()


@dataclass(frozen=True)
class Kept(Knockoff):
    """KnockoffNets, whose clones and answers the test sees."""

    budget: int = 1200
    training: sg.Training = BRIEF
    seen: ClassVar[list[dict[str, Tensor]]] = []

    def __call__(self, box: sg.boxes.Metered, pool: Any, clone: nn.Module, *, seed: int) -> nn.Module:
        stolen = super().__call__(box, pool, clone, seed=seed)
        self.seen.append({name: value.clone() for name, value in stolen.state_dict().items()})
        return stolen


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> sg.Release:
    return protected(tmp_path_factory.mktemp("plain") / "a")


def protected(out: Path, **options: Any) -> sg.Release:
    torch.manual_seed(0)
    data = task(300, SHAPE, CLASSES)
    training = sg.Training(epochs=5, batch=32)
    return sg.protect(
        mlp(), data, **{"defense": "none", "training": training, "out": out, "progress": False, **options}
    )


def audit(victim: Any, store: Path, **changes: Any) -> list[Row]:
    given: dict[str, Any] = {
        "attacks": Kept(), "pools": [POOL], "labels": "soft", "data": DATA, "store": store, "clone": CLONE,
        "progress": False,
    }  # fmt: skip
    return sg.audit(victim, **(given | changes))


@contextmanager
def serving(release: sg.Release, ledger: Ledger | None = None, **options: Any) -> Iterator[str]:
    """The address of the release behind a server."""
    service = Service(release, TorchEngine(release), name="m", **options)
    with running(Application({("m", "1"): service}, ledger)) as server:
        yield f"http://127.0.0.1:{server.port}/v2/models/m"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(str(tmp_path / "ledger.sqlite"))
    yield opened
    opened.keys.close()


def key(ledger: Ledger, account: str = "a", restriction: Restriction = EVERYTHING, **settings: Any) -> str:
    made, token = new_key(account, restriction, **settings)
    ledger.keys.add_key(made)
    return token


def clones() -> list[dict[str, Tensor]]:
    """The clones since the last call."""
    found = list(Kept.seen)
    Kept.seen.clear()
    return found


@pytest.mark.slow
def test_across_http_the_clone_is_the_same_to_the_last_bit(release: sg.Release, ledger: Ledger, tmp_path: Path) -> None:
    clones()
    rows = audit(release, tmp_path / "here.sqlite", labels=["soft", "hard"])
    with serving(release, ledger, merge=False) as url:
        there = audit(sg.Remote(url, key(ledger)), tmp_path / "there.sqlite", labels=["soft", "hard"])
    assert [row.metrics for row in there] == [row.metrics for row in rows]
    assert [row.queries for row in there] == [1200, 1200]
    soft, hard, served_soft, served_hard = clones()
    for one, other in ((soft, served_soft), (hard, served_hard)):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert there[0].victim.key == f"{release.identity} over HTTP"
    (asked,) = ledger.keys.usage()["a"].values()
    assert asked == len(TEST_X) + 2 * 1200, "every row that was asked is counted once"


@pytest.mark.slow
def test_merged_requests_agree_within_noise(release: sg.Release, ledger: Ledger, tmp_path: Path) -> None:
    with serving(release, ledger) as url:
        found = sg.Remote(url, key(ledger), rows=7, parallel=8).connect()(POOL)
    torch.testing.assert_close(found, release.connect()(POOL), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_budget_of_a_key_bounds_the_theft(release: sg.Release, ledger: Ledger, tmp_path: Path) -> None:
    token = key(ledger, budget=len(TEST_X) + 500)
    with serving(release, ledger) as url:
        (row,) = audit(sg.Remote(url, token, rows=64), tmp_path / "rows.sqlite")
    assert (row.status, row.queries) == ("ok", 500)
    assert list(ledger.keys.usage()["a"].values()) == [len(TEST_X) + 500]


@pytest.mark.slow
def test_a_budget_is_divided_over_keys(release: sg.Release, ledger: Ledger, tmp_path: Path) -> None:
    own, *keys = key(ledger, "own"), key(ledger, "a", budget=100), key(ledger, "b"), key(ledger, "c")
    with serving(release, ledger) as url:
        (row,) = audit(sg.Remote(url, own, keys=keys), tmp_path / "rows.sqlite", accounts=3)
    counted = {account: sum(of.values()) for account, of in ledger.keys.usage().items()}
    assert counted == {"own": len(TEST_X), "a": 100, "b": 400, "c": 400}
    assert (row.status, row.queries) == ("ok", 900)


def test_a_key_for_labels_gets_labels(release: sg.Release, ledger: Ledger) -> None:
    token = key(ledger, restriction=Restriction(labels=True))
    with serving(release, ledger) as url:
        found = sg.Remote(url, token).connect()(POOL)
    assert torch.equal(found, sg.boxes.top_1(release.connect()(POOL)))


def test_a_key_for_two_classes_in_two_digits_gets_rows_on_the_simplex(release: sg.Release, ledger: Ledger) -> None:
    token = key(ledger, restriction=Restriction(top_k=2, digits=2))
    with serving(release, ledger) as url:
        found = sg.Remote(url, token).connect()(POOL)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(POOL)))
    assert ((found > 0).sum(dim=1) <= 2).all()


def test_keys_are_checked_and_never_shown(release: sg.Release, ledger: Ledger) -> None:
    token = key(ledger, models=("other",))
    with serving(release, ledger) as url:
        with pytest.raises(StealguardError, match=r"needs a key \(status 401"):
            sg.Remote(url)
        wrong = f"{token[:-1]}{'0' if token[-1] != '0' else '1'}"
        with pytest.raises(StealguardError, match="does not accept the key") as caught:
            sg.Remote(url, wrong)
        assert wrong not in str(caught.value)
        with pytest.raises(StealguardError, match=r"one that `.*` serves. Found `m`"):
            sg.Remote(url, token)


@pytest.mark.slow
def test_a_guard_refuses_across_http_as_it_does_here(ledger: Ledger, tmp_path: Path) -> None:
    """PRADA with delta = 1 refuses every account soon; what is had until then is the same."""
    release = protected(tmp_path / "prada", defense=PRADA(delta=1.0))
    (here,) = audit(release, tmp_path / "here.sqlite")
    own, *keys = key(ledger, "own"), key(ledger, "a")
    with serving(release, ledger, merge=False) as url:
        (there,) = audit(sg.Remote(url, own, keys=keys), tmp_path / "there.sqlite")
    assert 0 < here.queries < 1200
    assert (there.queries, there.metrics) == (here.queries, here.metrics)
    assert there.benign_accuracy == here.benign_accuracy
    first, second = clones()[-2:]
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_an_interrupted_audit_goes_on_when_the_server_is_back(
    release: sg.Release, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server fails after 800 inputs; the ledgers of both sides agree in the end."""
    token, answered, asked = key(ledger), list[int](), Service.answer

    async def failing(self: Service, account: str, query: Query, restriction: Restriction) -> Any:
        answered.append(len(query.x))
        if sum(answered) > 800:
            raise OSError("the device is gone")
        return await asked(self, account, query, restriction)

    with monkeypatch.context() as patch, serving(release, ledger) as url:
        patch.setattr(Service, "answer", failing)
        (row,) = audit(sg.Remote(url, token, rows=100), tmp_path / "rows.sqlite")
        assert (row.status, "status 500" in row.reason) == ("failed", True)
        patch.undo()
        (row,) = audit(sg.Remote(url, token, rows=100), tmp_path / "rows.sqlite")
    assert (row.status, row.queries) == ("ok", 1200)
    assert list(ledger.keys.usage()["a"].values()) == [len(TEST_X) + 1200]
