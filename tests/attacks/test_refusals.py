"""What refusals tell an attacker, against a real guard by hand: what it finds, and what it may spend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marked import pretended
from samples import noise
from stealguard.attacks import Refusals, refusals
from stealguard.attacks.refusals import LEARNED, TESTED, UNREFUSED, WARM, Knowledge, WithOutliers, likely
from stealguard.attacks.treatments import Top
from stealguard.boxes import Accounts, AccountsInTurn, Labels, Metered
from stealguard.data.inputs import Stored
from stealguard.defenses.suspicion import BINS, HIGH, LOW, Gate, Measured, Suspicion
from stealguard.errors import BoxFault, Invalid, NotApplicable, Refused
from stealguard.seeds import seeded
from stealguard.training import Training, fit
from stealguard.types import BlackBox, Opening

IMAGE, VECTOR = (1, 6, 6), (12,)
K = 3
OUTLIER, TASK = -5.0, 9.0  # odds


class Bright(nn.Module):
    """Inputs of the task are those with a mean above 0.33, and their class is the brightest third."""

    def forward(self, x: Tensor) -> Tensor:
        named = torch.where(bright(x), TASK, OUTLIER)
        return torch.full((len(x), K), -20.0).scatter(1, classes(x)[:, None], named[:, None])


def classes(x: Tensor) -> Tensor:
    return x.reshape(len(x), K, -1).mean(dim=2).argmax(dim=1)


def bright(x: Tensor) -> Tensor:
    return x.flatten(1).mean(dim=1) > 0.33


class Server:
    """The accounts of a guard for which an outlier is evidence of 7, and a task input of -7; 20 reveal an attacker.

    Attributes:
        requests: with the number of the account that asked each, and whether it was answered.
    """

    def __init__(self, shape: tuple[int, ...] = IMAGE) -> None:
        known = Measured(K)
        middle = LOW + (torch.arange(BINS) + 0.5) * (HIGH - LOW) / BINS
        known.evidence.copy_(torch.where(middle < 0, 7.0, -7.0))
        heads: dict[str, nn.Module] = {"logits": Bright(), "decoys": clone_for(shape)}
        guard = Suspicion(Gate(known, 5.0, True), -1.0, 15.0, 20.0, "refuse", K)
        self.accounts = Accounts(heads, guard, shape)
        self.requests: list[tuple[int, Tensor, bool]] = []

    def connect(self, number: int) -> BlackBox:
        box = self.accounts.connect(f"account {number}")

        def ask(x: Tensor) -> Tensor:
            self.requests.append((number, x, False))
            answers = box(x)
            self.requests[-1] = (number, x, True)
            return answers

        return ask

    @property
    def answered(self) -> int:
        return sum(len(x) for _, x, answered in self.requests if answered)


def images(inside: list[bool], seed: int = 3, shape: tuple[int, ...] = IMAGE) -> Tensor:
    """Of each class in turn; those that are not inside are half as bright."""
    thirds = F.one_hot(torch.arange(len(inside)) % K, K).repeat_interleave(torch.Size(shape).numel() // K, dim=1)
    x = (0.6 * noise(len(inside), shape, seed).flatten(1) + 0.4 * thirds).view(-1, *shape)
    return x / (2 - torch.tensor(inside).float()).view(-1, *[1] * len(shape))


def pool(n: int = 600, shape: tuple[int, ...] = IMAGE) -> Tensor:
    """Inputs of which every third is one of the task's."""
    return images([number // K % 3 == 0 for number in range(n)], shape=shape)


def clone_for(shape: tuple[int, ...] = IMAGE) -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), K))


def quick(budget: int = 500, **settings: Any) -> Refusals:
    short = Training(epochs=1, batch=256, lr=0.2)
    return Refusals(budget, **({"gate": short, "training": short} | settings))


def box_of(server: Server, accounts: int = 40, budget: int = 500) -> AccountsInTurn:
    return AccountsInTurn(server.connect, accounts, budget, "server")


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def stolen(connect: Any, x: Any = None, shape: tuple[int, ...] = IMAGE, seed: int = 0, budget: int = 500) -> Tensor:
    """The weights of a clone."""
    x = pool(shape=shape) if x is None else x
    box = AccountsInTurn(connect, 40, budget, "server")
    return weights(quick(budget)(box, x, clone_for(shape), seed=seed))


class TestWhatIsFound:
    def test_refused_requests_tell_which_inputs_are_outliers_and_answer_nothing(self) -> None:
        server, x = Server(), pool()
        box = box_of(server)
        with seeded(1):
            known = Knowledge(quick(), box, x, clone_for(), 0)
            known.test_at_random()
        assert bright(known.inliers).all()
        assert len(known.inliers) >= 4
        assert not bright(known.outliers).any()
        assert len(known.outliers) == box.opened == len(server.requests), "each account tells of one outlier"
        assert (box.spent, server.answered) == (0, 0)
        assert (known.labels == -1).all()

    def test_a_gate_finds_inliers_and_their_classes(self) -> None:
        server = Server()
        box = box_of(server)
        with seeded(1):
            known = Knowledge(quick(), box, pool(), clone_for(), 0)
            known.test_at_random()
            before = len(known.inliers), box.opened
            known.test_likely()
        found, spent = len(known.inliers) - before[0], box.opened - before[1]
        assert found > 2 * spent, "by chance an account tells of half an inlier"
        named = known.labels >= 0
        assert named.float().mean() > 0.8
        assert (known.labels == classes(known.inliers))[named].float().mean() > 0.9

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", [IMAGE, VECTOR])
    def test_a_clone_is_stolen_of_images_and_of_vectors(self, shape: tuple[int, ...]) -> None:
        box = box_of(Server(shape), 60, 1500)
        attack = quick(1500, training=Training(epochs=5, batch=256, lr=0.2))
        clone = attack(box, pool(1500, shape), clone_for(shape), seed=0)
        fresh = images([True] * 300, 9, shape)
        assert (clone(fresh).argmax(dim=1) == classes(fresh)).float().mean() > 0.75

    @pytest.mark.slow
    def test_a_request_is_a_candidate_behind_known_inliers_once_an_account_has_trust(self) -> None:
        server = Server()
        quick(covers=4)(box_of(server), pool(), clone_for(), seed=0)
        lengths = [len(x) for _, x, _ in server.requests[:-1]]
        assert set(lengths) == {6 * 20, WARM, 2, 5}, "one cover names an inlier, four pay for what explores"
        tests = [x for _, x, _ in server.requests if len(x) == 6 * 20]  # as many candidates as a quarter of the budget
        assert all(torch.equal(x, x[::20].repeat_interleave(20, dim=0)) for x in tests)

    def test_an_account_whose_own_budget_is_spent_tells_nothing_of_the_candidates(self) -> None:
        server = Server()
        box = AccountsInTurn(lambda number: Metered(server.connect(number), 65), 40, 2000)
        with seeded(0):
            known = Knowledge(quick(2000), box, pool(), clone_for(), 0)
            known.test_at_random()
        assert max(len(x) for _, x, _ in server.requests) == 60, "three candidates"
        assert len(known.inliers) > 0
        assert bright(known.inliers).all()
        assert not bright(known.outliers).any()


class TestWhatIsSpent:
    @pytest.mark.parametrize(("accounts", "budget"), [(2, 300), (7, 30), (40, 1), (40, 100), (40, 500)])
    def test_accounts_and_budget_hold_and_each_answer_is_counted(self, accounts: int, budget: int) -> None:
        server = Server()
        box = box_of(server, accounts, budget)
        try:
            quick(budget)(box, pool(), clone_for(), seed=0)
        except NotApplicable:  # the budget is less than one candidate of a test
            assert budget < 20
        assert box.spent == server.answered <= budget
        assert len({number for number, _, _ in server.requests}) <= box.opened <= accounts

    def test_the_budget_is_spent_to_the_last_query_where_accounts_suffice(self) -> None:
        box = box_of(Server(), 100, 333)
        quick(333)(box, pool(), clone_for(), seed=0)
        assert box.spent == 333

    @pytest.mark.slow
    def test_no_refused_account_is_asked_again(self) -> None:
        server = Server()
        quick()(box_of(server), pool(), clone_for(), seed=0)
        refused = set[int]()
        for number, _, answered in server.requests:
            assert number not in refused
            refused |= set() if answered else {number}
        assert len(refused) > 5

    def test_tests_in_several_calls_find_the_same_and_what_is_answered_of_them_counts(self) -> None:
        found, spent = [], []
        for rows in (None, 30):
            server = Server()
            box = AccountsInTurn(server.connect, 40, 500, "server", rows)
            with seeded(1):
                known = Knowledge(quick(), box, pool(), clone_for(), 0)
                known.test_at_random()
            assert box.spent == server.answered
            found.append(torch.cat([known.inliers, known.outliers]))
            spent.append(box.spent)
        assert torch.equal(*found)
        assert spent[0] == 0 < spent[1]

    def test_it_ends_when_every_request_is_refused(self) -> None:
        def refuse(x: Tensor) -> Tensor:
            raise Refused("no", 0)

        box, clone = AccountsInTurn(lambda number: refuse, 30, 500), clone_for()
        assert torch.equal(weights(quick()(box, pool(), clone, seed=0)), weights(clone_for()))
        assert (box.spent, box.opened) == (0, 15), "half of the accounts test at random"

    def test_it_ends_when_the_pool_is_small(self) -> None:
        box = box_of(Server(), 100, 200)
        quick(200)(box, pool(30), clone_for(), seed=0)
        assert box.spent <= 200

    @pytest.mark.parametrize(("budget", "spent"), [(20_000, UNREFUSED * TESTED * 20), (5000, 1240), (50, 20), (19, 0)])
    def test_it_ends_when_nothing_is_refused(self, budget: int, spent: int) -> None:
        box = AccountsInTurn(lambda number: lambda x: torch.full((len(x), K), 1 / K), 30, budget)
        with pytest.raises(NotApplicable, match="no request was refused"):
            quick(budget)(box, pool(), clone_for(), seed=0)
        assert box.spent == spent

    def test_one_account_and_treated_answers_have_no_meaning(self) -> None:
        server = Server()
        one, treated = box_of(server, 1), Top(box_of(server))
        assert not isinstance(treated, Opening)
        for box in (one, treated, Metered(server.connect(1), 500)):
            with pytest.raises(NotApplicable, match="needs several"):
                quick()(box, pool(), clone_for(), seed=0)
        assert not server.requests


class TestContract:
    @pytest.mark.slow
    def test_everything_follows_from_the_seed(self) -> None:
        once, again, other = (stolen(Server().connect, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(once, again)
        assert not torch.equal(once, other)

    @pytest.mark.slow
    def test_labels_alone_give_the_same_clone(self) -> None:
        server = Server()
        assert torch.equal(stolen(lambda number: Labels(server.connect(number))), stolen(Server().connect))

    @pytest.mark.slow
    def test_a_pool_read_by_row_gives_the_same_clone_as_a_tensor(self) -> None:
        stored = (255 * pool()).to(torch.uint8)
        clones = [stolen(Server().connect, x) for x in (stored.float() / 255, Stored(stored))]
        assert torch.equal(*clones)

    @pytest.mark.slow
    @pytest.mark.parametrize("elsewhere", ["clone", "pool"])
    def test_clone_and_pool_may_be_on_different_devices(self, elsewhere: str) -> None:
        expected, x, clone = stolen(Server().connect), pool(), clone_for()
        with pretended() as device:
            x, clone = (x.to(device), clone) if elsewhere == "pool" else (x, clone.to(device))
            found = quick()(box_of(Server()), x, clone, seed=0)
            torch.testing.assert_close(weights(found).cpu(), expected)

    @pytest.mark.slow
    def test_it_does_not_read_the_whole_pool_at_once(self) -> None:
        class Watched(Stored):
            most = 0

            def rows(self, index: Tensor, /) -> Tensor:
                self.most = max(self.most, len(index))
                return super().rows(index)

        x = Watched(pool(8000))
        stolen(Server().connect, x, budget=300)
        assert x.most <= 5000

    def test_an_invalid_answer_names_the_box(self) -> None:
        with pytest.raises(BoxFault, match="`server`"):
            stolen(lambda number: lambda x: torch.zeros(len(x), K))

    @pytest.mark.parametrize(("name", "value"), [("repeats", 0), ("covers", -1), ("budget", 0)])
    def test_a_setting_that_breaks_its_rule_is_named(self, name: str, value: int) -> None:
        with pytest.raises(Invalid, match=f"`{name}` should be at least"):
            Refusals(**{name: value})


@pytest.mark.slow
def test_of_larger_inputs_fewer_are_made_so_that_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Knowledge(quick(), box_of(Server()), pool(), clone_for(), 0)
    assert known._many(LEARNED) == LEARNED
    most = max(made_in_a_theft())
    monkeypatch.setattr(refusals, "MEMORY", 200 * pool()[:1].nbytes)
    assert most > 200
    assert max(made_in_a_theft()) <= 200


def made_in_a_theft() -> list[int]:
    """How many inputs each training of a theft has."""
    seen: list[int] = []

    def counted(model: nn.Module, x: Tensor, *args: Any, **settings: Any) -> object:
        seen.append(len(x))
        return fit(model, x, *args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refusals, "fit", counted)
        stolen(Server().connect)
    return seen


def test_outliers_are_one_class_more() -> None:
    gate = WithOutliers(clone_for())
    v = gate(noise(5, IMAGE))
    assert v.shape == (5, K + 1)
    assert torch.equal(v[:, K], torch.zeros(5))


def test_the_likeliest_inliers_of_each_class_come_first() -> None:
    v = torch.tensor([[3.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, -1, 5], [-9, -5, 0]])
    with seeded(0):
        assert set(likely(v, 4).tolist()) == {0, 2, 4, 3} - {3}
        assert set(likely(v, 1).tolist()) == {0, 4}
