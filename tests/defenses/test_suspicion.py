"""The gate, the one shape of all answers, and what a guard remembers of an account, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from marked import pretended
from samples import blobs, mlp, noise
from stealguard.boxes.accounts import Accounts
from stealguard.defenses.drift import STEP
from stealguard.defenses.suspicion import (
    ACCOUNT,
    BEST,
    BINS,
    COLUMNS,
    CREDIT,
    FIRST,
    HIGH,
    KEPT,
    LOW,
    RECOVERY,
    UNLIMITED,
    WORST,
    Gate,
    Measured,
    Suspicion,
    directions,
    likeness,
    one_shape,
)
from stealguard.errors import Refused
from stealguard.types import Batch, State

K, FULL = 4, 30.0
OUTLIER, TASK, UNSURE = -5.0, 9.0, 2.0  # odds with evidence of 7, -7 and 0


def measured() -> Measured:
    """As if outliers had odds below 0, task inputs above 4, and nothing could be said between."""
    found = Measured(K)
    middle = LOW + (torch.arange(BINS) + 0.5) * (HIGH - LOW) / BINS
    found.evidence.copy_(torch.where(middle < 0, 7.0, torch.where(middle > 4, -7.0, 0.0)))
    found.confidence.fill_(0.85)
    found.alike.fill_(0.99999)
    return found


def guard(
    limit: float = 24.0, suspects: str = "refuse", floor: float = -1.0, known: Measured | None = None, drift: float = 2
) -> Suspicion:
    return Suspicion(Gate(known or measured(), 5.0, True), floor, FULL, limit, suspects, K, drift)


def queries(*odds: float, seed: int = 3) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs that have these odds, of different inputs: the net names class 1, the decoys class 2."""
    rows = torch.full((len(odds), K), -20.0)
    rows[:, 1] = torch.tensor(odds)
    decoys = 40 * (noise(len(odds), (K,), seed) - 0.5)
    decoys[:, 2] = 30
    return {"logits": rows, "decoys": decoys}, noise(len(odds), (16,))


def part(asked: tuple[dict[str, Tensor], Tensor], rows: slice) -> tuple[dict[str, Tensor], Tensor]:
    return {name: output[rows] for name, output in asked[0].items()}, asked[1][rows]


def remembered(state: State) -> tuple[float, ...]:
    """Suspicion, trust and standing."""
    return tuple(state[ACCOUNT].tolist()[:3])


def same(one: State, two: State) -> bool:
    return set(one) == set(two) and all(torch.equal(one[key], two[key]) for key in one)


def test_all_answers_have_one_shape() -> None:
    outputs, x = queries(OUTLIER, TASK, UNSURE, 6.0, 5.0, 4.9)
    answers = Gate(measured(), 5.0, True).answer(outputs, x)
    assert answers.argmax(dim=1).tolist() == [2, 1, 2, 1, 2, 2]
    row = torch.tensor([0.05, 0.05, 0.05, 0.85])
    torch.testing.assert_close(answers.sort(dim=1).values, row.expand(6, K))
    assert len(answers.sort(dim=1).values.unique(dim=0)) == 1, "to the bit"


@pytest.mark.parametrize(("confidence", "classes"), [(0.0, 3), (0.9, 10), (1.0, 2), (0.01, 100)])
def test_an_answer_prefers_the_chosen_class_whatever_was_measured(confidence: float, classes: int) -> None:
    answers = one_shape(torch.arange(classes), classes, confidence)
    assert torch.equal(answers.argmax(dim=1), torch.arange(classes))
    torch.testing.assert_close(answers.sum(dim=1), torch.ones(classes))
    assert (answers.topk(2, dim=1).values.diff(dim=1) < 0).all()


def test_without_decoys_what_does_not_pass_is_answered_uniformly() -> None:
    outputs, x = queries(OUTLIER, TASK)
    answers = Gate(measured(), 5.0, False).answer(outputs, x)
    torch.testing.assert_close(answers, torch.tensor([[0.25] * 4, [0.05, 0.85, 0.05, 0.05]]))


def test_what_is_remembered_by_hand() -> None:
    guarding, odds = guard(limit=1000.0), [TASK, OUTLIER, TASK, UNSURE, OUTLIER, *[TASK] * 12]
    outputs, x = queries(*odds)
    _, state = guarding(outputs, x, guarding.start())
    suspicion, trust, standing = 500.0, 0.0, 0.0
    for o in odds:
        e = {OUTLIER: 7.0, TASK: -7.0, UNSURE: 0.0}[o]
        suspicion, trust = max(0.0, suspicion + max(e, -RECOVERY)), min(FULL, max(0.0, trust - e))
        standing = min(BEST, max(-6 * WORST, standing - max(e, -CREDIT)))  # from 5 to -1
    assert suspicion > 0
    assert -6 * WORST < standing < 0
    assert trust == FULL
    assert remembered(state) == pytest.approx((suspicion, trust, standing))


def test_more_trust_than_is_full_counts_as_full() -> None:
    guarding, (outputs, x) = guard(), queries(-2.0)
    kept = guarding.start() | {ACCOUNT: torch.tensor([0.0, 2 * FULL, 0.0, 0.0, 0.0, 0.0])}
    assert guarding(outputs, x, kept)[0].argmax(dim=1).tolist() == [2], "the floor is -1"


@pytest.mark.parametrize("n", [0, 1, 3, 4, 6, 20, 27, 28, 60])
def test_strictness_falls_with_trust_and_standing(n: int) -> None:
    """After n queries of the task: 5 - 4 min(1, 7 n / 30) - min(5.5, n / 5), which is -4.5 in the end."""
    guarding = guard(floor=1.0)
    strictness = 5 - 4 * min(1, 7 * n / FULL) - min(BEST, n * CREDIT)
    for odds, named in ((strictness + 0.01, 1), (strictness - 0.01, 2)):
        outputs, x = queries(*[TASK] * n, odds, seed=n)
        assert guarding(outputs, x, guarding.start())[0].argmax(dim=1).tolist()[-1] == named
    assert strictness == pytest.approx(-4.5) or n < 28


@pytest.mark.parametrize(("honest", "answered"), [(60, True), (30, False), (20, False)])
def test_outliers_that_are_hidden_cost_an_account_its_unusual_inputs(honest: int, answered: bool) -> None:
    """An outlier costs 7 points of standing, and a query of the task earns a fifth of one: 35 of these are needed."""
    guarding = guard(floor=1.0)
    outputs, x = queries(*([OUTLIER] + [TASK] * honest) * 20, -3.0)
    assert (guarding(outputs, x, guarding.start())[0].argmax(dim=1).tolist()[-1] == 1) == answered


def test_a_floor_above_the_strictness_changes_nothing() -> None:
    guarding = guard(floor=9.0)
    outputs, x = queries(*[TASK] * 10, 5.1, 4.9)
    assert guarding(outputs, x, guarding.start())[0].argmax(dim=1).tolist()[-2:] == [1, 2]


def test_many_queries_are_answered_as_if_they_were_asked_one_by_one() -> None:
    generator = torch.Generator().manual_seed(5)
    odds = 7 + 4 * torch.randn(400, generator=generator)
    asked = queries(*odds.tolist())
    for output in asked[0].values():
        output[200:230] = output[180:210].clone()  # repeats
    guarding = knowing(limit=40.0, suspects="decoys")
    whole, at_once = guarding(*asked, guarding.start())
    state, rows = guarding.start(), []
    for start in (0, 1, 2, 50, 64, 65, 300):
        stop = {0: 1, 1: 2, 2: 50, 50: 64, 64: 65, 65: 300, 300: 400}[start]
        answers, state = guarding(*part(asked, slice(start, stop)), state)
        rows.append(answers)
    assert torch.equal(torch.cat(rows), whole)
    assert torch.equal(state["seen"], at_once["seen"])
    assert torch.equal(state[ACCOUNT][:5], at_once[ACCOUNT][:5])
    assert at_once[ACCOUNT][3] >= STEP
    assert 0 < (whole.argmax(dim=1) == 1).sum() < 400


def test_the_state_that_is_given_never_changes() -> None:
    guarding = guard()
    state = guarding.start()
    kept = {key: value.clone() for key, value in state.items()}
    for odds in ([TASK] * 80, [OUTLIER] * 80):
        guarding(*queries(*odds), state)
        assert same(state, kept)


def test_a_new_account_that_asks_outliers_is_refused_at_the_second() -> None:
    guarding = guard(limit=24.0)  # 12, 19, 26
    assert remembered(guarding.start()) == (12, 0, 0)
    assert len(guarding(*queries(*[OUTLIER] * 10), guarding.start())[0]) == 1


def test_an_account_that_asks_outliers_later_is_refused_at_the_fourth() -> None:
    guarding = guard(limit=24.0)  # 0 after twenty-four task inputs; 7, 14, 21, 28
    _, state = guarding(*queries(*[TASK] * 24), guarding.start())
    answers, state = guarding(*queries(*[OUTLIER] * 10), state)
    assert len(answers) == 3
    assert state["left"].item() == 3
    refused, after = guarding(*queries(*[OUTLIER] * 4), state)
    assert len(refused) == 3
    assert same(after, state), "a refused request takes none of the answers that are left"
    answers, state = guarding(*queries(*[OUTLIER] * 3), state)
    assert answers.argmax(dim=1).tolist() == [2, 2, 2]
    assert state["left"].item() == 0
    assert len(guarding(*queries(TASK), state)[0]) == 0, "no input of the task redeems it"


def test_the_answers_that_are_left_are_examined_as_well() -> None:
    """Else a request with one revealing query at its end would buy as many answers that nobody looks at."""
    guarding = guard()
    answers, state = guarding(*queries(*[TASK] * 100, *[OUTLIER] * 4), guarding.start())
    assert len(answers) == 103
    answers, state = guarding(*queries(*[OUTLIER] * 50), state)
    assert len(answers) == 0


@pytest.mark.parametrize("probe", [TASK, OUTLIER])
def test_a_request_for_more_than_is_left_tells_nothing_of_its_inputs(probe: float) -> None:
    """Else an account would be told for nothing, one bit a request, which inputs are outliers."""
    guarding = guard(limit=24.0)
    _, state = guarding(*queries(*[TASK] * 100, *[OUTLIER] * 4), guarding.start())
    asked = [*[TASK] * 99, *[OUTLIER] * 3, probe, TASK]
    answers, after = guarding(*queries(*asked), state)
    assert len(answers) == 103 < len(asked)
    assert same(after, state)


def test_an_account_is_refused_for_what_it_asks_only_once_before_nothing_is_left() -> None:
    """Else requests that end with revealing queries would tell whether the one before these is an outlier: by the
    number of answers that are left, for one of these a request, and for no answer."""
    guarding = guard(limit=24.0)
    asked = [*[TASK] * 100, *[OUTLIER] * 4]
    answers, state = guarding(*queries(*asked), guarding.start())
    assert len(answers) == 103
    for probe in (TASK, OUTLIER):
        answers, after = guarding(*queries(*asked[:97], OUTLIER, OUTLIER, probe, OUTLIER, OUTLIER), state)
        assert len(answers) == after["left"].item() == 0
        assert len(guarding(*queries(TASK), after)[0]) == 0


def test_trust_counts_no_more_after_a_refusal() -> None:
    """Else a new account could test inputs at the end of its first request, and go on as if it had not."""
    guarding = guard(limit=24.0)
    trusted = [*[TASK] * 20, *[UNSURE] * 5]
    answers, _ = guarding(*queries(*trusted), guarding.start())
    assert answers.argmax(dim=1).tolist()[20:] == [1] * 5
    _, state = guarding(*queries(*trusted, *[OUTLIER] * 4), guarding.start())
    answers, _ = guarding(*queries(*trusted), state)
    assert answers.argmax(dim=1).tolist() == [1] * 20 + [2] * 5


def test_suspects_may_get_decoys_instead() -> None:
    guarding = guard(limit=24.0, suspects="decoys")
    answers, state = guarding(*queries(*[OUTLIER] * 4, *[TASK] * 100), guarding.start())
    assert answers.argmax(dim=1).tolist() == [2] * 104
    assert state["left"].item() == UNLIMITED
    assert guarding(*queries(TASK), state)[0].argmax(dim=1).tolist() == [2], "for good"


@pytest.mark.parametrize(("honest", "caught"), [(1, True), (4, True), (8, True), (11, False)])
def test_alternating_outliers_with_inputs_of_the_task_does_not_pay(honest: int, caught: bool) -> None:
    """An outlier adds 7 to suspicion, a query of the task takes back 0.7."""
    guarding = guard()
    odds = ([OUTLIER] + [TASK] * honest) * 100
    answers, _ = guarding(*queries(*odds), guarding.start())
    assert (len(answers) < len(odds)) == caught


def drawn(*odds: float, apart: float, seed: int = 3) -> tuple[dict[str, Tensor], Tensor]:
    """Queries whose logits of the classes that are not named differ from the task's by `apart`."""
    outputs, x = queries(*odds, seed=seed)
    outputs["logits"][:, [0, 2, 3]] += apart
    return outputs, x


def knowing(limit: float = 24.0, suspects: str = "refuse", drift: float = 2) -> Suspicion:
    """A guard that knows what inputs of the task are like that `queries` makes."""
    known = measured()
    known.means.copy_(queries(TASK)[0]["logits"])
    known.whitening.copy_(torch.eye(K))
    known.weights.fill_(1)
    return guard(limit, suspects, known=known, drift=drift)


@pytest.mark.parametrize(("apart", "found"), [(0.0, False), (0.6, False), (1.5, True), (-1.5, True)])
def test_outliers_that_are_hidden_among_inputs_that_drift_are_found(apart: float, found: bool) -> None:
    """Of 31 queries one is an outlier, which adds 7; the others take back 21, or 4.5 where they drift."""
    guarding = knowing(limit=40.0, suspects="decoys")
    odds = ([OUTLIER] + [TASK] * 30) * 20
    _, state = guarding(*drawn(*odds, apart=apart), guarding.start())
    assert (remembered(state)[0] > 40) == found


def test_drift_is_found_at_the_same_query_however_queries_are_batched() -> None:
    generator = torch.Generator().manual_seed(6)
    odds = torch.where(torch.rand(1200, generator=generator) < 0.1, UNSURE, TASK)
    guarding, asked = knowing(), drawn(*odds.tolist(), apart=0.0)
    asked[0]["logits"][:, [0, 2, 3]] += torch.randn(1200, 1, generator=generator)
    asked[0]["logits"][400:800, [0, 2, 3]] += 2.0  # in between
    found = []
    for size in (1, 7, 63, 64, 65, 300, 1200):
        state, flags = guarding.start(), []
        for start in range(0, 1200, size):
            _, state = guarding(*part(asked, slice(start, start + size)), state)
            flags += [bool(state[ACCOUNT][4])] * min(size, 1200 - start)
        found.append((state[ACCOUNT][:5].tolist(), {start: flags[start] for start in (299, 599, 899, 1199)}))
    assert all(one[0] == found[0][0] for one in found)
    assert found[0][1] == {299: False, 599: True, 899: True, 1199: False}


@pytest.mark.parametrize(("logit", "odds"), [(float("nan"), float("nan")), (float("inf"), float("inf"))])
def test_outputs_that_are_no_numbers_blind_neither_drift_nor_repeats(logit: float, odds: float) -> None:
    guarding, (outputs, x) = knowing(limit=1000.0), queries(odds)
    outputs["logits"][:, 0] = logit
    _, state = guarding(*drawn(*[TASK] * 10, apart=2.0), guarding.start())
    _, state = guarding(outputs, x, state)
    _, state = guarding(*drawn(*[TASK] * 2 * STEP, apart=2.0, seed=5), state)
    assert state[ACCOUNT][4] == 1, "it has drifted"
    _, state = guarding(*queries(TASK, seed=7), state)
    _, state = guarding(outputs, x, state)
    before = remembered(state)
    _, state = guarding(*queries(TASK, seed=7), state)
    assert remembered(state) == before, "it is a repeat"


def test_an_account_that_drifts_loses_its_standing_and_gets_it_back() -> None:
    guarding = knowing()
    _, state = guarding(*drawn(*[TASK] * STEP, apart=2.0), guarding.start())
    assert remembered(state)[2] == BEST, "judged after so many"
    _, state = guarding(*drawn(*[TASK] * STEP, apart=2.0, seed=4), state)
    assert remembered(state) == (0, FULL, -6 * WORST)
    assert len(guarding(*drawn(*[TASK] * 5000, apart=2.0, seed=5), state)[0]) == 5000, "but is not refused for it"
    _, state = guarding(*queries(*[TASK] * 9 * STEP, seed=6), state)
    assert remembered(state) == (0, FULL, BEST)


@pytest.mark.parametrize(("drift", "lost"), [(11.0, True), (13.0, False)])
def test_how_much_drift_counts_as_none_is_a_setting(drift: float, lost: bool) -> None:
    """Three logits differ by 2, which is 12 squared, and chance may add 0.06."""
    guarding = knowing(drift=drift)
    _, state = guarding(*drawn(*[TASK] * 2 * STEP, apart=2.0), guarding.start())
    assert (remembered(state)[2] < 0) == lost


def repeats(odds: float, n: int) -> tuple[dict[str, Tensor], Tensor]:
    outputs, x = queries(odds)
    return {name: output.expand(n, -1) for name, output in outputs.items()}, x.expand(n, -1)


def test_repeats_are_no_evidence_of_honesty() -> None:
    guarding = guard(limit=1000.0)
    _, state = guarding(*queries(*[OUTLIER] * 3, seed=4), guarding.start())
    _, state = guarding(*repeats(TASK, 20), state)
    assert remembered(state)[:2] == pytest.approx((500 + 21 - RECOVERY, 7))
    _, again = guarding(*repeats(TASK, 20), state)
    assert remembered(again) == remembered(state)
    assert again[ACCOUNT][3] == 1, "nor of what its inputs are like"
    _, state = guarding(*repeats(OUTLIER, 4), guarding.start())
    assert remembered(state)[0] == 500 + 28, "repeats of outliers count as outliers"


def test_a_repeat_is_forgotten_after_so_many_queries() -> None:
    points = directions(queries(*[TASK] * (KEPT + 2))[0])
    nothing = torch.zeros(KEPT, points.shape[1])
    points[-1] = points[0]
    assert likeness(torch.cat([nothing, points]))[-1] < 0.999
    points[-1] = points[1]
    found = likeness(torch.cat([nothing, points]))
    assert found[-1] == pytest.approx(1)
    assert found[0] == 0


@pytest.mark.parametrize("n", [1, 5, 64, 255, 256, 257, 700])
def test_each_query_is_compared_with_those_before_it(n: int) -> None:
    points = torch.nn.functional.normalize(noise(KEPT + n, (6,)) - 0.5, dim=1)
    by_hand = [(points[i : i + KEPT] @ points[i + KEPT]).max() for i in range(n)]
    torch.testing.assert_close(likeness(points), torch.stack(by_hand))


def test_queries_are_compared_by_the_directions_of_both_heads_outputs() -> None:
    outputs = {"logits": noise(5, (20,)), "decoys": noise(5, (20,), seed=4)}
    points = directions(outputs)
    assert points.shape == (5, 2 * COLUMNS)
    both = torch.cat([outputs["logits"][:, :COLUMNS], outputs["decoys"][:, :COLUMNS]], dim=1)
    torch.testing.assert_close(points, both / both.norm(dim=1, keepdim=True))
    assert not directions({name: 0 * output for name, output in outputs.items()}).any()


def test_accounts_do_not_share_what_is_remembered() -> None:
    heads: dict[str, torch.nn.Module] = {"logits": torch.nn.Linear(16, K), "decoys": torch.nn.Linear(16, K)}
    torch.nn.init.constant_(heads["logits"].weight, 0)
    torch.nn.init.constant_(heads["logits"].bias, OUTLIER - math.log(K))
    accounts = Accounts(heads, guard(), (16,))
    with pytest.raises(Refused) as refusal:
        accounts.answer("a", noise(10, (16,)))
    assert refusal.value.left == 1
    assert len(accounts.answer("b", noise(1, (16,)))) == 1
    with pytest.raises(Refused):
        accounts.answer("a", noise(2, (16,)))
    assert len(accounts.answer("a", noise(1, (16,)))) == 1


def test_what_is_measured_by_hand() -> None:
    net, decoys, (x, y), z = mlp(), torch.nn.Linear(16, 3), blobs(500, (16,), 3), noise(300, (16,))
    found = Measured(3)
    found.measure({"logits": net, "decoys": decoys}, Batch(x, y, z))
    with torch.no_grad():
        v, o, points = net(x), net(z), directions({"logits": net(x), "decoys": decoys(x)})
    right = (v.argmax(dim=1) == y).sum().item()
    assert found.confidence.item() == pytest.approx((right + 1) / 502)

    def shares(odds: Tensor) -> list[float]:
        places = [min(BINS - 1, max(0, math.floor((odd + 8) * 2))) for odd in odds.tolist()]
        return [(places.count(b) + 0.5) / (len(odds) + BINS / 2) for b in range(BINS)]

    pairs = zip(shares(o.logsumexp(dim=1)), shares(v.logsumexp(dim=1)), strict=True)
    torch.testing.assert_close(found.evidence, torch.tensor([math.log(q / p) for q, p in pairs]))
    torch.testing.assert_close(found.means[1].double(), v[v.argmax(dim=1) == 1].double().mean(dim=0))
    near = torch.stack([(points[n - KEPT : n] @ points[n]).max() for n in range(KEPT, 500)])
    assert (near > found.alike).double().mean().item() == pytest.approx(0.05, abs=0.005)


@torch.no_grad()
def test_without_a_strictness_some_of_the_inputs_of_the_task_are_too_unusual_for_a_new_account() -> None:
    net, decoys, (x, y) = mlp(), torch.nn.Linear(16, 3), blobs(200, (16,), 3)
    known = Measured(3)
    known.measure({"logits": net, "decoys": decoys}, Batch(x, y, noise(200, (16,))))
    outputs = {"logits": net(x), "decoys": decoys(x)}
    gate = Gate(known, None, True)
    passed = gate.passed(outputs, {})
    assert passed.double().mean() == pytest.approx(1 - FIRST, abs=0.01)
    assert gate.strictness == pytest.approx(known.first.item())
    watching = Suspicion(gate, -50.0, 1e9, 1e9, "decoys", 3)
    asked = [{name: rows[i : i + 1] for name, rows in outputs.items()} for i in range(200)]
    assert torch.cat([watching.review(one, watching.start()).passed for one in asked]).equal(passed)
    assert Gate(known, 1.5, True).strictness == 1.5


def test_a_gate_of_a_net_on_another_device_judges_outputs_on_the_processor() -> None:
    outputs, x = queries(OUTLIER, TASK)
    with pretended() as device:
        gate = Gate(Measured(K).to(device), None, True)
        assert gate.passed(outputs, {}).tolist() == [False, True]
        assert gate.answer(outputs, x).argmax(dim=1).tolist() == [2, 1]


def test_before_it_is_measured_nothing_is_evidence() -> None:
    guarding = Suspicion(Gate(Measured(K), 5.0, True), 0.0, FULL, 24.0, "refuse", K)
    answers, state = guarding(*queries(*[OUTLIER] * 100), guarding.start())
    assert len(answers) == 100
    assert remembered(state) == (12, 0, 0)
