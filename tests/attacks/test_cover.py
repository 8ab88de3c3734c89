"""Cover: what is new and what is repeated, and that detectors see mostly repeats."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from samples import mlp, noise
from stealguard.attacks import Cover
from stealguard.boxes import Metered
from stealguard.errors import NotApplicable
from stealguard.training import Training

SHAPE = (16,)


class Seen:
    """A box that keeps its queries, for which inputs with a great first value are sure."""

    shape = SHAPE

    def __init__(self) -> None:
        self.queries = torch.empty(0, 16)

    def __call__(self, x: Tensor) -> Tensor:
        self.queries = torch.cat([self.queries, x])
        return torch.stack([5 * x[:, 0], x[:, 1], x[:, 2]], dim=1).softmax(dim=1)


def stolen(budget: int = 400, **settings: float) -> tuple[Seen, Tensor]:
    seen, pool = Seen(), noise(budget, SHAPE)
    attack = Cover(budget=budget, training=Training(epochs=1), least=1, **settings)  # type: ignore[arg-type]
    attack(Metered(seen, budget), pool, mlp(), seed=0)
    return seen, pool


def nearest(x: Tensor, other: Tensor) -> Tensor:
    return torch.cdist(x, other, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1).values


def test_a_share_of_the_queries_is_new_and_evenly_spaced() -> None:
    seen, pool = stolen()
    assert len(seen.queries) == 400
    new = (nearest(seen.queries, pool) < 1e-4)[12:]
    assert int(new.sum()) == round(0.1 * 388)
    gaps = new.nonzero().squeeze(1).diff()
    assert set(gaps.tolist()) <= {9, 10, 11}


def test_the_rest_repeats_the_surest_inputs_with_a_little_noise() -> None:
    seen, pool = stolen()
    first = seen.queries[:12]
    sure = first[first[:, 0].argsort(descending=True)[:6]]
    repeats = seen.queries[12:][nearest(seen.queries[12:], pool) > 1e-4]
    assert nearest(repeats, sure).max() < 0.1
    assert not torch.equal(repeats[0], repeats[1])


@pytest.mark.parametrize("budget", [1, 11, 12, 13])
def test_a_budget_that_ends_with_the_first_queries_is_spent(budget: int) -> None:
    seen, pool = stolen(budget)
    assert len(seen.queries) == budget
    assert (nearest(seen.queries[:12], pool) < 1e-4).all()


def test_no_input_of_the_pool_is_asked_twice_and_the_pool_may_be_small() -> None:
    attack = Cover(budget=400, training=Training(epochs=1), least=1)
    seen, pool = Seen(), noise(attack.needed, SHAPE)
    attack(Metered(seen, 400), pool, mlp(), seed=0)
    new = seen.queries[nearest(seen.queries, pool) < 1e-4]
    assert len(new) == len(new.unique(dim=0)) == attack.needed


def test_labels_alone_say_nothing_about_confidence() -> None:
    labels = lambda x: torch.eye(3)[Seen()(x).argmax(dim=1)]  # noqa: E731
    labels.shape = SHAPE  # type: ignore[attr-defined]
    with pytest.raises(NotApplicable, match="labels alone"):
        Cover(budget=50)(Metered(labels, 50), noise(50, SHAPE), mlp(), seed=0)
