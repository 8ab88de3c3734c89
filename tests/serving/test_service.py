"""A release as a service: what it answers is what the release answers, whatever else is in the batch."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import stealguard as sg
from samples import mlp, noise, task
from stealguard.defenses.base import Plain
from stealguard.defenses.truncation import truncated
from stealguard.errors import Invalid, Refused
from stealguard.serving.engine import TorchEngine
from stealguard.serving.keys import Restriction
from stealguard.serving.protocol import Query
from stealguard.serving.service import Answered, Service
from stealguard.types import Scope

SHAPE = (16,)
FREE = Restriction()
X = task(40, SHAPE, 3)[0].numpy()


def asked(service: Service, *questions: tuple[str, NDArray[np.float32]], told: Restriction = FREE) -> list[Answered]:
    async def run() -> list[Answered]:
        return list(await asyncio.gather(*(service.answer(account, Query(x), told) for account, x in questions)))

    return asyncio.run(run())


def test_without_merging_answers_are_those_of_the_release_to_the_last_bit(robust: sg.Release) -> None:
    service = Service(robust, TorchEngine(robust), merge=False)
    box = robust.connect("ann")
    for x in (X[:7], X[7:8], X[8:]):
        (found,) = asked(service, ("ann", x))
        assert torch.equal(torch.from_numpy(found.answers), box(torch.from_numpy(x)))


def test_a_model_tells_that_its_probabilities_are_constant_where_it_tells_them(robust: sg.Release) -> None:
    """And it is so: whatever is asked, the class that is named has one probability."""
    service = Service(robust, TorchEngine(robust))
    assert "the same in every answer that names a class" in service.spec.confidence
    labels = Service(robust, TorchEngine(robust), restriction=Restriction(labels=True))
    assert labels.spec.confidence == ""
    (found,) = asked(service, ("ann", np.concatenate([X, noise(3, SHAPE, seed=8).numpy()])))
    assert len({*found.answers.max(axis=1).tolist()}) == 1


def test_requests_that_share_a_batch_get_the_answers_that_they_get_alone(robust: sg.Release) -> None:
    alone = [robust.connect(name)(torch.from_numpy(x)) for name, x in (("ann", X[:5]), ("bob", X[5:6]), ("eve", X))]
    together = asked(Service(robust, TorchEngine(robust)), ("ann", X[:5]), ("bob", X[5:6]), ("eve", X))
    for expected, found in zip(alone, together, strict=True):
        torch.testing.assert_close(torch.from_numpy(found.answers), expected, rtol=0, atol=1e-5)


def test_requests_of_one_account_in_a_batch_count_in_their_order(robust: sg.Release) -> None:
    many = noise(800, SHAPE, seed=8).numpy()
    questions = [("ann", X[:5]), ("bob", X[5:6]), ("ann", many), ("ann", X[6:7]), ("bob", many[:1])]
    boxes = {name: robust.connect(name) for name in ("ann", "bob")}
    service = Service(robust, TorchEngine(robust))

    async def run() -> list[object]:
        return list(
            await asyncio.gather(*(service.answer(a, Query(x), FREE) for a, x in questions), return_exceptions=True)
        )

    for (account, x), one in zip(questions, asyncio.run(run()), strict=True):
        if x is many:  # what it has left is what came before the outlier that revealed it
            assert isinstance(one, Refused)
            with pytest.raises(Refused) as refusal:
                boxes[account](torch.from_numpy(x))
            assert one.left == refusal.value.left
        else:
            assert isinstance(one, Answered)
            expected = boxes[account](torch.from_numpy(x))
            torch.testing.assert_close(torch.from_numpy(one.answers), expected, rtol=0, atol=1e-5)


def test_a_refusal_is_that_accounts_alone_and_others_in_the_batch_are_answered(robust: sg.Release) -> None:
    service = Service(robust, TorchEngine(robust))
    outliers = noise(800, SHAPE, seed=8).numpy()

    async def run() -> list[object]:
        questions = [("eve", outliers), ("ann", X)]
        return list(
            await asyncio.gather(*(service.answer(a, Query(x), FREE) for a, x in questions), return_exceptions=True)
        )

    refused, answered = asyncio.run(run())
    assert isinstance(refused, Refused)
    assert 0 <= refused.left < 800
    assert isinstance(answered, Answered)
    assert len(answered.answers) == len(X)


class Brittle(Plain):
    """A guard that fails on a request with an input of zeros."""

    def answer(self, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if not x.any(dim=1).all():
            raise ZeroDivisionError("no length")
        return super().answer(outputs, x)


class BrittleOfAccounts(Brittle):
    scope: ClassVar[Scope] = "account"


@pytest.mark.parametrize("guard", [Brittle(), BrittleOfAccounts()])
def test_a_request_that_its_guard_cannot_judge_fails_alone(robust: sg.Release, guard: Plain) -> None:
    robust.model.guard = guard
    service = Service(robust, TorchEngine(robust))
    questions = [("ann", X[:2]), ("bob", np.zeros_like(X[:1])), ("bob", X[2:3]), ("ann", X[3:4])]

    async def run() -> list[object]:
        return list(
            await asyncio.gather(*(service.answer(a, Query(x), FREE) for a, x in questions), return_exceptions=True)
        )

    found = asyncio.run(run())
    assert [type(one) for one in found] == [Answered, ZeroDivisionError, Answered, Answered]


def test_suspicion_grows_with_outliers_and_is_told_after_each_request(robust: sg.Release) -> None:
    service = Service(robust, TorchEngine(robust))
    outliers = noise(800, SHAPE, seed=8).numpy()
    first, *_, second = (asked(service, ("eve", x))[0].suspicion for x in (X[:1], *outliers[:5, None]))
    assert first is not None
    assert second is not None
    assert first < second
    assert service.suspicion_limit is not None
    assert second < service.suspicion_limit


def test_a_guard_without_suspicion_tells_none(ini_release: sg.Release) -> None:
    service = Service(ini_release, TorchEngine(ini_release))
    (found,) = asked(service, ("ann", np.zeros((1, *ini_release.shape), np.float32)))
    assert (found.suspicion, service.suspicion_limit) == (None, None)


@pytest.mark.parametrize(
    ("own", "key"), [(Restriction(top_k=2), FREE), (FREE, Restriction(top_k=2)), (Restriction(top_k=2),) * 2]
)
def test_the_stricter_of_the_release_and_the_key_holds(robust: sg.Release, own: Restriction, key: Restriction) -> None:
    (found,) = asked(Service(robust, TorchEngine(robust), restriction=own), ("ann", X), told=key)
    (free,) = asked(Service(robust, TorchEngine(robust)), ("ann", X))
    assert torch.equal(torch.from_numpy(found.answers), truncated(torch.from_numpy(free.answers), 2))


def test_labels_alone_leave_no_other_number(robust: sg.Release) -> None:
    (found,) = asked(Service(robust, TorchEngine(robust)), ("ann", X), told=Restriction(labels=True))
    assert set(np.unique(found.answers)) == {0.0, 1.0}
    assert (found.answers.sum(axis=1) == 1).all()


def test_inputs_off_the_unit_range_are_refused_before_they_are_queued(robust: sg.Release) -> None:
    with pytest.raises(Invalid, match=r"`input` should be in \[0, 1\]"):
        asked(Service(robust, TorchEngine(robust)), ("ann", X + 2))


def test_inputs_on_the_border_of_the_unit_range_are_answered(robust: sg.Release) -> None:
    x = np.tile(np.array([-0.0, 1.0], np.float32), 8)[None]
    (found,) = asked(Service(robust, TorchEngine(robust)), ("ann", x))
    assert len(found.answers) == 1


@pytest.mark.parametrize("merge", [True, False])
def test_inputs_in_memory_that_is_read_only_and_not_aligned_are_answered(robust: sg.Release, merge: bool) -> None:
    odd = np.frombuffer(memoryview(b"." + X.tobytes())[1:], np.float32).reshape(X.shape)
    assert (odd.flags.aligned, odd.flags.writeable) == (False, False)
    (expected,) = asked(Service(robust, TorchEngine(robust), merge=merge), ("ann", X))
    (found,) = asked(Service(robust, TorchEngine(robust), merge=merge), ("ann", odd))
    assert np.array_equal(found.answers, expected.answers)


def test_a_release_with_units_of_its_own_takes_these_units(tmp_path: Path) -> None:
    x, y, test_x, test_y = task(200, SHAPE, 3)
    data = (100 * x - 30, y, 100 * test_x - 30, test_y)
    release = sg.protect(mlp(), data=data, defense=sg.PRESETS["none"].defense, epochs=1, out=tmp_path / "raw")
    service = Service(release, TorchEngine(release), merge=False)
    (found,) = asked(service, ("ann", data[2].numpy()))
    assert torch.equal(torch.from_numpy(found.answers), release.box(data[2]))


def test_the_card_tells_the_facts_and_no_path(robust: sg.Release) -> None:
    robust.recipe["history"].clear()  # type: ignore[attr-defined]
    assert Service(robust, TorchEngine(robust)).card()["Validation accuracy"].endswith(" %"), "as it was measured"
    robust.recipe["honest"].clear()  # type: ignore[attr-defined]
    assert Service(robust, TorchEngine(robust)).card()["Validation accuracy"] == "unknown"
    card = Service(robust, TorchEngine(robust)).card()
    assert card["Classes"] == "3"
    assert all(str(robust.folder) not in text for text in card.values())
