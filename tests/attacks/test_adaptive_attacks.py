"""The attacks that know how decoys are made, on a small model whose net and decoys are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decoyed import Decoyed, K, honest, own, right, untrained
from samples import noise
from stealguard.attacks import Explore, Filter, Knockoff, OwnForm, Unmask
from stealguard.attacks.decoy_family import DecoyFamily, fitted
from stealguard.attacks.own_form import OwnFormed
from stealguard.attacks.transfer import FIRST
from stealguard.attacks.unmask import candidates
from stealguard.boxes import Labels, Metered
from stealguard.errors import Invalid, NotApplicable
from stealguard.training.loop import Training

SHORT = Training(epochs=20, batch=32, lr=0.2)
POOL = noise(3000, (16,))


def steal(attack: Any, box: Any = None, pool: Tensor = POOL, **more: Any) -> nn.Module:
    return attack(Metered(box or Decoyed(), attack.budget), pool, untrained(), seed=0, **more)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def plain() -> float:
    """What an attacker gets from the same box without knowing of decoys."""
    return right(steal(Knockoff(3000, training=SHORT)))


class TestFilter:
    @pytest.mark.slow
    def test_the_minimum_leaves_only_honest_answers(self, plain: float) -> None:
        assert plain < 0.5
        assert right(steal(Filter(3000, training=SHORT))) > plain + 0.3

    @pytest.mark.slow
    @pytest.mark.parametrize(("masked", "doubt"), [(True, 0.1), (False, 0.0)])
    def test_the_residual_needs_no_floor(self, plain: float, masked: bool, doubt: float) -> None:
        attack = Filter(3000, "residual", share=0.08, doubt=doubt, training=SHORT)
        assert right(steal(attack, Decoyed(masked, doubt))) > plain + 0.3

    @pytest.mark.slow
    def test_an_oracle_may_replace_the_selector(self) -> None:
        assert right(steal(Filter(3000, training=SHORT), Labels(Decoyed()), honest=honest)) > 0.7

    def test_if_nothing_passes_it_trains_on_all(self) -> None:
        def uniform(x: Tensor) -> Tensor:
            return torch.full((len(x), K), 1 / K)

        clone, start = steal(Filter(300, training=SHORT), uniform), untrained()
        assert not torch.equal(clone(POOL), start(POOL))

    def test_the_minimum_does_not_apply_to_labels(self) -> None:
        metered = Metered(Labels(Decoyed()), 3000)
        with pytest.raises(NotApplicable, match="reads probabilities"):
            Filter(3000)(metered, POOL, untrained(), seed=0)
        assert metered.spent == FIRST


class TestUnmask:
    @pytest.mark.slow
    def test_the_class_left_out_is_the_nets(self) -> None:
        answers = Decoyed()(POOL)
        rows = candidates(POOL, answers, 0.005, 0.15, 0.1)
        hit = rows.argmax(dim=1) == own(POOL).argmax(dim=1)
        assert hit[~honest(POOL)].double().mean() > 0.95
        assert torch.equal(
            rows[honest(POOL) & (answers.amin(dim=1) < 0.005)], answers[honest(POOL) & (answers.amin(dim=1) < 0.005)]
        )

    def test_a_class_with_more_than_the_fit_says_is_the_nets(self) -> None:
        """Below the gate the answer still has g times the net's own; that class is then larger than the fit says."""
        answers = 0.999 * Decoyed()(POOL) + 0.001 * own(POOL)
        rows = candidates(POOL, answers, 0.005, 0.15, 0.1)
        hit = rows.argmax(dim=1) == own(POOL).argmax(dim=1)
        assert hit[~honest(POOL)].double().mean() > 0.9

    @pytest.mark.slow
    def test_the_clone_learns_from_what_is_left_out(self, plain: float) -> None:
        assert right(steal(Unmask(3000, training=SHORT))) > max(0.85, plain + 0.3)

    def test_rows_of_zeros_have_no_candidates(self) -> None:
        answers = Decoyed()(POOL) * (torch.arange(len(POOL)) % 5 > 0)[:, None]
        rows = candidates(POOL, answers, 0.005, 0.15, 0.1)
        assert (rows[::5] == 0).all()

    def test_it_does_not_apply_to_labels(self) -> None:
        metered = Metered(Labels(Decoyed()), 3000)
        with pytest.raises(NotApplicable, match="reads probabilities"):
            Unmask(3000)(metered, POOL, untrained(), seed=0)
        assert metered.spent == FIRST


class Recording:
    """A box that keeps its queries."""

    def __init__(self, box: Any):
        self.box, self.seen = box, list[Tensor]()

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return self.box(x)  # type: ignore[no-any-return]


class TestExplore:
    @pytest.mark.slow
    @pytest.mark.parametrize("selector", ["minimum", "residual"])
    def test_children_of_honest_queries_are_honest_more_often(self, selector: str, plain: float) -> None:
        box = Recording(Decoyed())
        attack = Explore(2000, selector, share=0.08, first=0.5, training=SHORT)
        assert right(steal(attack, box)) > plain + 0.3
        asked = torch.cat(box.seen)
        assert len(asked) == 2000
        pool, made = honest(asked[:1000]).double().mean(), honest(asked[1000:]).double().mean()
        assert made > 2 * pool

    def test_consistency_needs_no_more_than_labels(self) -> None:
        box = Recording(Labels(Decoyed()))
        steal(Explore(2000, "consistency", first=0.5, training=SHORT), box)
        asked = torch.cat(box.seen)
        assert honest(asked[-250:]).double().mean() > 2 * honest(asked[:1000]).double().mean()

    @pytest.mark.slow
    def test_an_oracle_may_replace_the_selector(self) -> None:
        assert right(steal(Explore(2000, training=SHORT), Labels(Decoyed()), honest=honest)) > 0.7

    def test_images_have_children_too(self) -> None:
        box = Recording(Decoyed())
        attack = Explore(400, first=0.5, rounds=2, least=0, training=Training(epochs=1))
        attack(Metered(box, 400), noise(300, (1, 4, 4)), untrained(), seed=0)
        assert torch.cat(box.seen).shape == (400, 1, 4, 4)

    def test_while_nothing_is_selected_it_asks_the_pool(self) -> None:
        box = Recording(lambda x: torch.full((len(x), K), 1 / K))
        steal(Explore(400, first=0.25, training=Training(epochs=1)), box)
        asked = torch.cat(box.seen)
        assert len(asked.unique(dim=0)) == 400
        assert (asked[:, None] == POOL[None]).all(dim=2).any(dim=1).all()

    def test_it_ends_with_the_pool_if_nothing_is_selected(self) -> None:
        metered = Metered(lambda x: torch.full((len(x), K), 1 / K), 400)
        Explore(400, first=0.25, training=Training(epochs=1))(metered, POOL[:150], untrained(), seed=0)
        assert metered.spent == 150

    def test_the_pool_must_hold_the_first_share(self) -> None:
        assert Explore(20_000).needed == 8_000
        assert Explore(1).needed == 1

    def test_the_minimum_does_not_apply_to_labels(self) -> None:
        with pytest.raises(NotApplicable):
            steal(Explore(2000), Labels(Decoyed()))


class TestOwnForm:
    @pytest.mark.parametrize("masked", [True, False])
    def test_the_answers_are_the_mixture_by_hand(self, masked: bool) -> None:
        torch.manual_seed(0)
        family = DecoyFamily(POOL, K)
        nn.init.normal_(family.linear.weight, std=0.2)
        net, x = untrained(), POOL[:7]
        model = OwnFormed(net, family, -1.0, masked, 0.1)
        u, d = net(x), family(x)
        gate = (u.logsumexp(dim=1) - 1).sigmoid()
        slow = torch.empty(7, K)
        for n in range(7):
            for y in range(K):
                if masked:
                    wrong = sum(
                        u[n].softmax(0)[c] * d[n].index_fill(0, torch.tensor(c), -torch.inf).softmax(0)[y]
                        for c in range(K)
                    )
                else:
                    wrong = d[n].softmax(0)[y]
                slow[n, y] = gate[n] * u[n].softmax(0)[y] + (1 - gate[n]) * (0.9 * wrong + 0.1 / K)
        torch.testing.assert_close(model(x).exp(), slow)
        torch.testing.assert_close(model(x).exp().sum(dim=1), torch.ones(7))

    @pytest.mark.thorough
    def test_it_learns_from_labels_without_probes(self) -> None:
        labels = Labels(Decoyed())
        known = right(steal(Knockoff(3000, training=SHORT), labels))
        attack = OwnForm(3000, probes=0.0, components=0, share=0.1, training=Training(epochs=15, batch=64, lr=0.3))
        assert right(steal(attack, labels)) > known + 0.1

    @pytest.mark.slow
    def test_from_soft_answers_it_learns_more(self, plain: float) -> None:
        attack = OwnForm(3000, probes=0.0, components=0, share=0.1, training=Training(epochs=15, batch=64, lr=0.3))
        assert right(steal(attack)) > plain + 0.3

    def test_probes_move_decoys_to_the_guess(self) -> None:
        family = fitted(POOL, Decoyed(False, 0.0)(POOL), trim=0.15)
        net = untrained()
        model = OwnFormed(net, family, -1.0, True, 0.0)
        x = POOL[:200]
        moved = OwnForm(reach=1.0)._probes(model, x)
        guess = net(x).argmax(dim=1)
        before = (family(x).argmax(dim=1) == guess).double().mean()
        after = (family(moved).argmax(dim=1) == guess).double().mean()
        assert after > max(0.9, before + 0.3)
        assert moved.min() >= 0
        assert moved.max() <= 1
        still = OwnForm(reach=1e-6)._probes(model, x)
        torch.testing.assert_close(still, x, atol=1e-4, rtol=0)

    def test_probes_are_a_share_of_the_budget(self) -> None:
        box = Recording(Labels(Decoyed()))
        attack = OwnForm(600, probes=0.5, rounds=3, training=Training(epochs=1))
        steal(attack, box)
        asked = torch.cat(box.seen)
        assert len(asked) == 600
        of_pool = (asked[:, None] == POOL[None]).all(dim=2).any(dim=1)
        assert of_pool[:300].all()
        assert of_pool[300:].double().mean() < 0.5

    def test_probes_need_masked_decoys(self) -> None:
        with pytest.raises(Invalid, match="`probes` should be 0"):
            OwnForm(masked=False)
        assert OwnForm(masked=False, probes=0.0).probes == 0


@pytest.mark.parametrize(
    ("attack", "name", "value"),
    [
        (Filter(), "selector", "consistency"),
        (Filter(), "threshold", 0.0),
        (Filter(), "share", 1.0),
        (Filter(), "trim", 1.0),
        (Filter(), "doubt", -0.1),
        (Unmask(), "doubt", 1.0),
        (Explore(), "selector", "none"),
        (Explore(), "first", 0.0),
        (Explore(), "rounds", 0),
        (Explore(), "ranks", 0),
        (OwnForm(), "rounds", 0),
        (OwnForm(), "probes", 1.0),
        (OwnForm(), "share", 0.0),
        (OwnForm(), "components", -1),
        (OwnForm(), "reach", 0.0),
    ],
)
def test_settings_out_of_range_are_named(attack: Any, name: str, value: Any) -> None:
    with pytest.raises(Invalid, match=f"`{name}`"):
        replace(attack, **{name: value})
