"""Suites: whatever they name exists, and what they ask for can be had."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import stealguard as sg
from samples import mlp, noise, task
from stealguard.attacks import ATTACKS
from stealguard.attacks.treatments import TREATMENTS
from stealguard.auditing.plan import architecture, thefts
from stealguard.auditing.suites import SUITES, suite
from stealguard.data import SETS
from stealguard.data import task as task_of
from stealguard.data.roles import unseen
from stealguard.errors import Invalid
from stealguard.settings import create, describe


@pytest.mark.parametrize("name", SUITES)
def test_every_block_can_be_carried_out(name: str, tmp_path: Path) -> None:
    """On a task and a pool that are large enough, every theft of the suite can be planned."""
    data = task(1000, (16,), 3)
    release = sg.protect(mlp(), data, defense="none", epochs=1, out=tmp_path / "a", progress=False)
    clones = architecture(release, None, 3, torch.device("cpu"))
    for block in suite(name, [noise(60_000, (16,))]):
        planned = list(thefts(release, task_of(data), block, [0], clones, resize=False))
        combined = (block.attacks, block.pools, block.labels, block.treatments, block.own)
        assert len(planned) == math.prod(map(len, combined)) > 0
        for theft in planned:
            assert create(ATTACKS, *describe(ATTACKS, theft.attack), "attack") == theft.attack
            assert set(theft.treatment.split("+")) - {""} <= set(TREATMENTS)


def test_the_standard_suite_has_every_attack() -> None:
    tried = {describe(ATTACKS, attack)[0] for block in suite("standard", ["letters"]) for attack in block.attacks}
    assert tried == set(ATTACKS)


def test_the_unseen_family_follows_from_the_shape() -> None:
    for shape in ((1, 28, 28), (3, 32, 32)):
        assert all(SETS[name].shape == shape for name in unseen(shape))
    with pytest.raises(Invalid, match=r"`pools` should be given, since no set has inputs of shape \(30,\). Found none"):
        unseen((30,))
    with pytest.raises(Invalid, match="did you mean `quick`"):
        suite("quik", [])
